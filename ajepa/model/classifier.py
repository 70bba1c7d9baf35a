"""A classifier: an encoder with a head, from waveforms to labels with probabilities.

Shape suffixes: B clips, S samples, L layers, X statistics over time, F frequency patches, D features,
Y labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .embedding import time_statistics
from .encoder import AudioEncoder, check_tensor, checked_lengths
from .head import Head


@dataclass(frozen=True)
class LabelSet:
    """The labels, and how logits become probabilities and answers.

    Attributes:
        names: of the labels, in the order of the logits.
        several: whether a clip may have any number of them; else it has one, the most probable.
        activation: "softmax" (the probabilities of a clip sum to 1) or "sigmoid" (each on its own).
        thresholds: with several labels, the probability from which each is an answer.
    """

    names: tuple[str, ...]
    several: bool = False
    activation: Literal["softmax", "sigmoid"] = "softmax"
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ValueError(f"names are {len(self.names)} labels, must be two or more different ones")
        if len(self.thresholds) != (len(self.names) if self.several else 0):
            raise ValueError(
                f"thresholds are {len(self.thresholds)}, must be one for each label of clips with several "
                "labels, else none"
            )
        if not all(0 <= one <= 1 for one in self.thresholds):
            raise ValueError("thresholds must be from 0 to 1")

    def probabilities(self, logits_BY: Tensor) -> Tensor:
        """Probabilities of the labels [B, Y]."""
        return logits_BY.softmax(1) if self.activation == "softmax" else logits_BY.sigmoid()

    def answers(self, probabilities_BY: Tensor) -> list[tuple[str, ...]]:
        """The labels of each clip, the most probable first."""
        if not self.several:
            return [(self.names[place],) for place in probabilities_BY.argmax(1).tolist()]
        found = []
        for row_Y in probabilities_BY.tolist():
            above = [place for place, value in enumerate(row_Y) if value >= self.thresholds[place]]
            above.sort(key=lambda place: -row_Y[place])
            found.append(tuple(self.names[place] for place in above))
        return found


class Predictions(NamedTuple):
    """What a classifier says of B clips.

    Attributes:
        probabilities: [B, Y], in the order of `AudioClassifier.labels`.
        labels: those of each clip, the most probable first: one, or with several labels any number.
    """

    probabilities: Tensor
    labels: list[tuple[str, ...]]


class AudioClassifier(nn.Module):
    """An encoder with a head.

    Attributes:
        labels: names of the labels.
        sample_rate: of the waveforms, Hz.
        longest_seconds: longer clips are cut into stretches of this length, whose logits are averaged, as
            fine-tuned networks are tested; 0 takes clips of any length as they are.
        about: how it was made and how well it did, as its folder says it.
    """

    encoder: Any  # of other people, too, in a class that is derived from this one

    def __init__(
        self, encoder: AudioEncoder, head: Head, label_set: LabelSet, longest_seconds: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.label_set = encoder, head, label_set
        self.sample_rate, self.longest_seconds = int(encoder.sample_rate), longest_seconds
        self.about: dict[str, Any] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the probabilities."""
        return self.label_set.names

    @property
    def longest_samples(self) -> int:
        """Samples of the longest stretch; 0 for any number."""
        return round(self.longest_seconds * self.sample_rate)

    def statistics(self, waveform_BS: Tensor, lengths: list[int]) -> Tensor:
        """What the head takes of clips with these lengths in samples: [B, L, X, F, D]."""
        found = self.encoder(waveform_BS, lengths, layers=self.head.every_layer)
        layers = (*found.layers, found.patches)
        return torch.stack([time_statistics(layer.float(), found.lengths) for layer in layers], 1)

    def forward(self, waveform_BS: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits [B, Y]; each clip has the same alone and in any batch.

        Args:
            waveform_BS: mono waveforms at `sample_rate`, at least 1 sample, about within ±1.
            lengths: samples of each clip if some are padded.

        Raises:
            ValueError: wrong shape, or a length below 1 or beyond the end.
        """
        check_tensor(waveform_BS)
        if waveform_BS.ndim != 2:
            raise ValueError(f"waveform has shape {list(waveform_BS.shape)}; give [clips, samples]")
        clips, samples = waveform_BS.shape
        lengths = checked_lengths(lengths, clips, samples, "samples")
        longest = self.longest_samples
        if not longest or max(lengths) <= longest:
            return self.head(self.statistics(waveform_BS, lengths))
        logits = []
        for clip_S, length in zip(waveform_BS, lengths, strict=True):
            pieces = list(stretches(clip_S[:length], longest))
            piece_BS = pad_sequence(pieces, batch_first=True)
            logits.append(self.head(self.statistics(piece_BS, [len(one) for one in pieces])).mean(0))
        return torch.stack(logits)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.linear.weight.device

    @torch.inference_mode()
    def predict(self, waveforms: Tensor, lengths: Sequence[int] | Tensor | None = None) -> Predictions:
        """Labels and probabilities of clips.

        Args:
            waveforms: mono [B, samples] at `sample_rate`, about within ±1.
            lengths: samples of each clip if some are padded.

        Raises:
            ValueError: wrong shape or lengths, or samples that are not finite.
        """
        probabilities_BY = self.label_set.probabilities(self(waveforms, lengths)).cpu()
        if not (finite_B := probabilities_BY.isfinite().all(1)).all():
            rows = ", ".join(map(str, (~finite_B).nonzero().flatten().tolist()[:5]))
            raise ValueError(f"clips {rows} have samples that are not finite; leave them out")
        return Predictions(probabilities_BY, self.label_set.answers(probabilities_BY))


def stretches(waveform_S: Tensor, longest: int) -> Iterator[Tensor]:
    """Consecutive stretches. The last one ends with the clip and may overlap the one before it."""
    for start in range(0, max(1, len(waveform_S) - longest + 1), longest):
        yield waveform_S[start : start + longest]
    if len(waveform_S) > longest and len(waveform_S) % longest:
        yield waveform_S[-longest:]
