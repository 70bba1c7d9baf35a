"""What every encoder gives, whoever made it: frames, at a known spacing, of one or of all layers.

Probes, fine-tuning and the stock toolkits need nothing else of an encoder. So a new kind of encoder is one
class here, and every protocol takes it.

Axes: B clips, S samples, T time steps, F frequency patches, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ajepa.model.embedding import LAST, time_statistics

ONE_VECTOR_SECONDS = 1.0  # the spacing that toolkits are told for an encoder with one vector a clip


class Frames(NamedTuple):
    """The outputs of an encoder.

    Attributes:
        layers: each [B, T, F, D], the output last; the output alone unless all layers were asked for.
        lengths: time steps of each clip, [B].
    """

    layers: tuple[Tensor, ...]
    lengths: Tensor


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes; the CPU if it holds no tensor."""
    return next(chain(module.parameters(), module.buffers()), torch.empty(0)).device


class FrameModel(nn.Module, ABC):
    """An encoder.

    Attributes:
        sample_rate: of the waveforms, Hz.
        ragged: whether a batch may hold clips of different lengths.
        hop_seconds: time between two time steps.
        first_seconds: centre of the first time step.
        least_seconds: what a shorter clip costs as much as, because the encoder pads it to this length.
        rounds: whether it can compute in bfloat16; if not, it computes as its authors wrote it.
        trainable: whether its weights can be fine-tuned.
    """

    sample_rate: int
    ragged = False
    hop_seconds: float
    first_seconds = 0.0
    least_seconds = 0.0
    rounds = False
    trainable = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return device_of(self)

    @property
    def output(self) -> str:
        """What it gives alone: its "last" layer, or several that are joined, such as "2+4+6"."""
        return LAST

    @abstractmethod
    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """The frames of clips with these lengths in samples, each with zeros after its end."""

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Mean and standard deviation over each clip's own time steps: [B, L, 2, F, D].

        For an encoder with one vector a clip that vector alone: [B, L, 1, F, D].
        """
        found = self.frames(waveform_BS, lengths, all_layers)
        steps = found.layers[-1].shape[1]
        inside_BT = torch.arange(steps, device=found.lengths.device) < found.lengths[:, None]
        weight_BT11 = inside_BT[..., None, None]
        pooled = [time_statistics(layer.float() * weight_BT11, found.lengths) for layer in found.layers]
        statistics_BLXFD = torch.stack(pooled, 1)
        return statistics_BLXFD[:, :, :1] if self.one_vector else statistics_BLXFD

    @property
    def one_vector(self) -> bool:
        """Whether it gives one vector a clip, and no frames."""
        return False


class VectorModel(FrameModel):
    """A model with statistics of its own, such as a baseline, as one vector a clip: T and F are 1."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.sample_rate, self.ragged = int(model.sample_rate), bool(model.ragged)
        self.hop_seconds, self.first_seconds = ONE_VECTOR_SECONDS, ONE_VECTOR_SECONDS / 2

    @property
    def one_vector(self) -> bool:
        return True

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """Layers [B, 1, 1, X F D]."""
        values_BLXFD = self.model(waveform_BS, lengths, all_layers)
        layers = tuple(layer.flatten(1)[:, None, None] for layer in values_BLXFD.unbind(1))
        return Frames(layers, torch.ones(len(lengths), dtype=torch.long, device=values_BLXFD.device))


def with_frames(model: nn.Module) -> FrameModel:
    """A clip model with the interface of encoders."""
    return model if isinstance(model, FrameModel) else VectorModel(model)


def together(lengths: Sequence[int], ragged: bool) -> list[list[int]]:
    """Which clips an encoder takes at once: all if it is `ragged`, else those of one length."""
    rows = list(range(len(lengths)))
    if ragged:
        return [rows]
    order = sorted(rows, key=lengths.__getitem__)
    return [list(group) for _, group in groupby(order, key=lengths.__getitem__)]


def frames_at(frames_BTX: Tensor, seconds_K: Tensor, first_seconds: float, hop_seconds: float) -> Tensor:
    """Frames interpolated linearly at times [K] from a clip's start: [B, K, X].

    Before the first frame's centre and after the last one's, the nearest frame.
    """
    last = frames_BTX.shape[1] - 1
    place_K = ((seconds_K - first_seconds) / hop_seconds).clamp(0, last)
    before_K = place_K.floor().long()
    after_K = (before_K + 1).clamp_max(last)
    return torch.lerp(frames_BTX[:, before_K], frames_BTX[:, after_K], (place_K - before_K)[:, None])
