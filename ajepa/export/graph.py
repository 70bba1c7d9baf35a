"""The encoder with its front end as one graph of fixed steps, for torch.export and ONNX.

`AudioEncoder` plans the chunks of clips in Python, which a graph cannot do. This is the same computation for
one chunk, only in tensors: a clip of any length up to that of the encoder's training.

Axes: B clips, S samples, L spectrogram frames, C mel bands, T time patches, F frequency patches, N tokens,
P values of a patch, D features.
"""

from __future__ import annotations

from typing import NamedTuple, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ajepa.features import levelled
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier
from ajepa.model.embedding import join, time_statistics
from ajepa.nn.grid import PatchGrid, sincos_positions


class Outputs(NamedTuple):
    """`Embedding.frames`, zero after a clip's end; `Embedding.clip`; each clip's valid steps [B]."""

    frames: Tensor
    clip: Tensor
    steps: Tensor


class EmbeddingGraph(nn.Module):
    """(waveform [B, S], lengths [B]) to `Outputs`, as of `AudioEncoder` for one chunk.

    Shares its weights with the model.

    Attributes:
        most_samples: samples of the longest clip.
        outputs: their names.
    """

    codes_ND: Tensor
    outputs: tuple[str, ...] = Outputs._fields

    def __init__(self, model: AudioEncoder) -> None:
        super().__init__()
        self.features, self.encoder, self.fill_value = model.features, model.encoder, model.fill_value
        self.pooling, self.layers = model.pooling, model.embedding_layers
        self.inputs, self.patch = model.encoder.config.inputs, model.encoder.config.patch
        table = model.encoder.position_table
        self.most_steps = min(model.chunk_patches, table.config.time) if table else model.chunk_patches
        self.transposed_steps = table.config.time if table and table.config.transposed else None
        grid = PatchGrid(self.most_steps, model.encoder.freq_patches)
        codes_ND = table.table if table else sincos_positions(grid, model.encoder.width)
        self.register_buffer("codes_ND", codes_ND.clone(), persistent=False)
        front_end = model.features.config
        self.most_samples = self.most_steps * self.patch[0] * front_end.hop + front_end.window - 1

    def forward(self, waveform_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed clips of `lengths_B` samples, each from 1 to S; samples after a clip's end are ignored.

        Returns `Outputs` as a plain tuple, since a saved program cannot use our class.
        """
        states, steps_B = self.states(waveform_BS, lengths_B, bool(self.layers))
        frames_BTE = join(states, self.layers).flatten(2)
        if self.pooling == "mean":
            return frames_BTE, frames_BTE.sum(1) / steps_B[:, None], steps_B
        return frames_BTE, time_statistics(frames_BTE[:, :, None], steps_B).flatten(1), steps_B

    def states(
        self, waveform_BS: Tensor, lengths_B: Tensor, every_layer: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """Hidden states [B, T, F, D], zero after a clip's end, and the valid steps of each clip [B].

        Args:
            every_layer: the outputs of all blocks and then the normed one, which is else the only one.
        """
        batch, samples = waveform_BS.shape
        front_end, patch_time = self.features.config, self.patch[0]
        frames = 1 + cast(int, torch.sym_max(samples - front_end.window, 0)) // front_end.hop
        steps = self._seen((frames + patch_time - 1) // patch_time)
        # The samples of all frames of whole patches, never fewer than the input.
        whole = steps * patch_time * front_end.hop + front_end.window - 1
        waveform_BS = pad(waveform_BS, (0, whole - samples))
        ended_BS = torch.arange(whole, device=waveform_BS.device) >= lengths_B[:, None]
        waveform_BS = levelled(waveform_BS.masked_fill(ended_BS, 0.0), self.inputs, lengths_B)
        spectrogram_BLC = self.features(waveform_BS, lengths_B)

        frames_B = self.features.config.frames(lengths_B)
        steps_B = (frames_B + patch_time - 1) // patch_time
        frame_L = torch.arange(steps * patch_time, device=waveform_BS.device)
        spectrogram_BLC = spectrogram_BLC.masked_fill(
            (frame_L >= frames_B[:, None])[..., None], self.fill_value
        )
        freq = self.encoder.freq_patches
        patches_BNP = self.encoder.cut(spectrogram_BLC, PatchGrid(steps, freq))

        token_N = torch.arange(steps * freq, device=waveform_BS.device)
        seen_B = self._seen(steps_B)
        codes = self._codes(token_N, seen_B)
        last_BND, blocks = self.encoder(
            patches_BNP, codes, token_N < (seen_B * freq)[:, None], keep_layers=-1 if every_layer else 0
        )
        past_BN = token_N >= (steps_B * freq)[:, None]
        states = [
            tokens_BND.masked_fill(past_BN[..., None], 0.0).reshape(batch, steps, freq, self.encoder.width)
            for tokens_BND in (*blocks, last_BND)
        ]
        return states, steps_B

    @overload
    def _seen(self, steps: int) -> int: ...
    @overload
    def _seen(self, steps: Tensor) -> Tensor: ...
    def _seen(self, steps: int | Tensor) -> int | Tensor:
        """Time patches of a clip of `steps` after its padding (`InputConfig.steps`)."""
        multiple = self.inputs.steps
        if multiple == 1:
            return steps
        filled = (steps + multiple - 1) // multiple * multiple
        if isinstance(filled, Tensor):
            return filled.clamp_max(self.most_steps)
        return cast(int, torch.sym_min(filled, self.most_steps))

    def _codes(self, token_N: Tensor, seen_B: Tensor) -> Tensor:
        """Position codes, [N, D] or [B, N, D], as `PositionTable` cuts them for each clip's length."""
        if self.transposed_steps is None:
            return self.codes_ND[: token_N.shape[0]]
        band_BN, time_BN = token_N // seen_B[:, None], token_N % seen_B[:, None]
        entry_BN = band_BN * self.transposed_steps + time_BN
        # Tokens after a clip's end may point beyond the table; nothing attends to them.
        return self.codes_ND[entry_BN.clamp_max(self.codes_ND.shape[0] - 1)]


class ClassifierGraph(nn.Module):
    """(waveform [B, S], lengths [B]) to probabilities and logits [B, Y] of Y labels, as of `AudioClassifier`.

    Shares its weights with the classifier.

    Attributes:
        most_samples: samples of the longest clip. Longer ones are cut by the caller, who averages the logits.
        outputs: their names.
    """

    outputs: tuple[str, ...] = ("probabilities", "logits")

    def __init__(self, classifier: AudioClassifier) -> None:
        super().__init__()
        self.embedding, self.head = EmbeddingGraph(classifier.encoder), classifier.head
        self.softmax = classifier.label_set.activation == "softmax"
        self.most_samples = self.embedding.most_samples
        if classifier.longest_seconds:
            self.most_samples = min(self.most_samples, classifier.longest_samples)

    def forward(self, waveform_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Classify clips of `lengths_B` samples; samples after a clip's end are ignored."""
        states, steps_B = self.embedding.states(waveform_BS, lengths_B, self.head.every_layer)
        statistics_BLXFD = torch.stack([time_statistics(state, steps_B) for state in states], 1)
        logits_BY = self.head(statistics_BLXFD)
        return (logits_BY.softmax(1) if self.softmax else logits_BY.sigmoid()), logits_BY
