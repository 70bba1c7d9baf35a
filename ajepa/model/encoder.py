"""An encoder with its front end, from waveforms of any length to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ajepa.features import LogMel, LogMelConfig, levelled
from ajepa.nn.encoder import Encoder, EncoderConfig

from .batching import cut_into_patches, prepare
from .chunks import Chunk, fade, plan_chunks
from .embedding import Embedding, Pooling, Source
from .precision import Precision, autocast, store_products_in_bf16


def tokens_a_pass(device: torch.device) -> int:
    """How many are encoded at once, which bounds memory: 0.4 GiB of activations for ViT-B on a GPU.

    On a CPU more at once are no faster.
    """
    return 4_096 if device.type == "cpu" else 16_384


def check_tensor(waveform: object) -> None:
    """Raises TypeError for anything but a tensor, such as what NumPy or soundfile give."""
    if not isinstance(waveform, Tensor):
        dtype: Any = getattr(waveform, "dtype", None)
        kind = type(waveform).__name__ + (f" ({dtype})" if dtype else "")
        scaled = "waveform"
        if getattr(dtype, "kind", "") == "i":  # NumPy's whole numbers, as scipy reads WAV files
            scaled += f" / {2 ** (8 * dtype.itemsize - 1):_}"
        raise TypeError(f"waveform is of type {kind}; give a tensor: torch.as_tensor({scaled}).float()")


class AudioEncoder(nn.Module):
    """Front end and encoder in one module.

    Attributes:
        sample_rate: of the waveforms, Hz.
        pooling: over time, of `clip`: "mean" or "mean+std".
        embedding_layers: blocks, from 1, whose outputs `frames` and `clip` join; empty for the normed output
            of the last one.
        hop_seconds: time between two time steps of `patches`.
        chunk_patches: time steps that are encoded at once; longer audio is cut into overlapping chunks.
        source: origin of the weights; None for a module built by hand.
        precision: of the blocks' matrix products; see `set_bf16`.
    """

    precision: Precision = "float32"
    pooling: Pooling = "mean"
    embedding_layers: tuple[int, ...] = ()

    def __init__(
        self,
        features: LogMelConfig,
        encoder: EncoderConfig,
        chunk_seconds: float,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        self.features = LogMel(features)
        self.encoder = Encoder(encoder)
        self.sample_rate = features.sample_rate
        self.hop_seconds = encoder.patch[0] * features.step_seconds
        self.chunk_patches = max(1, round(chunk_seconds / self.hop_seconds))
        self.source = source

    @property
    def joined_width(self) -> int:
        """Width of a patch in `Embedding.joined`."""
        return max(1, len(self.embedding_layers)) * self.encoder.width

    @property
    def embedding_size(self) -> int:
        """Width of `Embedding.frames`."""
        return self.encoder.freq_patches * self.joined_width

    @property
    def blocks_kept(self) -> int:
        """How many of the last blocks' outputs an embedding needs."""
        return len(self.encoder.blocks) + 1 - min(self.embedding_layers) if self.embedding_layers else 0

    @property
    def clip_size(self) -> int:
        """Width of `Embedding.clip`."""
        return self.embedding_size * (1 if self.pooling == "mean" else 2)

    @property
    def fill_value(self) -> float:
        """Normalised value that pads a clip's last patch, in a batch and alone."""
        return self.encoder.config.inputs.fill_value(self.features.config, float(self.features.silence))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.patch_embed.weight.device

    def set_bf16(self) -> AudioEncoder:
        """From now on embed with bfloat16 matrix products, on the device of the weights; returns self.

        Front end, norms, residual stream and embeddings stay in single precision. For inference only: the
        weights of the blocks are rounded permanently.
        """
        store_products_in_bf16(self.encoder.blocks)
        self.precision = "bf16"
        return self

    def forward(
        self, waveform_BS: Tensor, lengths: Sequence[int] | Tensor | None = None, *, layers: bool = False
    ) -> Embedding:
        """Embed clips; each gets the same embedding alone and in any batch.

        Args:
            waveform_BS: mono waveforms [B, samples] at `sample_rate`, at least 1 sample, about within ±1.
            lengths: samples of each clip if some are padded; the samples after them are ignored.
            layers: also return every block's output.

        Raises:
            TypeError: the waveform is no tensor.
            ValueError: wrong shape, or a length below 1 or beyond the end.
        """
        check_tensor(waveform_BS)
        if waveform_BS.ndim != 2 or 0 in waveform_BS.shape:
            raise ValueError(
                f"waveform has shape {tuple(waveform_BS.shape)}; expected [clips, samples], both at least 1"
            )
        waveform_BS = waveform_BS.to(self.device)
        clips, samples = waveform_BS.shape
        own = checked_lengths(lengths, clips, samples, "samples")
        lengths_B = torch.tensor(own, device=self.device)
        if lengths is not None:
            ended = torch.arange(samples, device=self.device) >= lengths_B[:, None]
            waveform_BS = waveform_BS.masked_fill(ended, 0.0)
        waveform_BS = levelled(waveform_BS, self.encoder.config.inputs, lengths_B)
        spectrogram_BLC = self.features(waveform_BS, lengths_B)
        frames = [self.features.config.frames(length) for length in own]
        return self.encode(spectrogram_BLC, frames, layers=layers)

    def encode(
        self, spectrogram_BLC: Tensor, frames: Sequence[int] | Tensor | None = None, *, layers: bool = False
    ) -> Embedding:
        """Embed normalised log-mel spectrograms [B, L, C], such as `self.features` makes.

        Args:
            spectrogram_BLC: as `features` returns it.
            frames: valid frames of each clip [B]; None means all.
            layers: also return every block's output.

        Raises:
            ValueError: `frames` are not B numbers of at least 1, or the encoder has other mel bands.
        """
        spectrogram_BLC = spectrogram_BLC.to(self.device)
        batch, count, _ = spectrogram_BLC.shape
        own = checked_lengths(frames, batch, count, "frames")
        patches_BTFP, steps = cut_into_patches(self.encoder, spectrogram_BLC, own, self.fill_value)
        _, time, freq, _ = patches_BTFP.shape

        kept = len(self.encoder.blocks) if layers else self.blocks_kept
        outputs = [patches_BTFP.new_zeros(batch, time, freq, self.encoder.width) for _ in range(kept + 1)]
        weight_BT = patches_BTFP.new_zeros(batch, time)
        chunks = plan_chunks(steps, self.chunk_patches)
        longest = min(self.chunk_patches, time)
        rows_a_pass = max(1, tokens_a_pass(self.device) // (longest * freq))
        for first in range(0, len(chunks), rows_a_pass):
            rows = chunks[first : first + rows_a_pass]
            encoded = self._encode_chunks(patches_BTFP, rows, kept)
            for position, chunk in enumerate(rows):
                fade_T = fade(chunk, self.chunk_patches).to(weight_BT)
                span = slice(chunk.start, chunk.start + chunk.length)
                weight_BT[chunk.clip, span] += fade_T
                for output, values in zip(outputs, encoded, strict=True):
                    output[chunk.clip, span] += values[position, : chunk.length] * fade_T[:, None, None]
        scale_BT11 = torch.where(weight_BT > 0, weight_BT, 1.0)[..., None, None]
        last, *every = [output / scale_BT11 for output in outputs]
        lengths_B = torch.tensor(steps, device=self.device)
        chosen = choose(every, self.embedding_layers, len(self.encoder.blocks))
        return Embedding(last, lengths_B, tuple(every) if layers else (), self.pooling, chosen)

    def _encode_chunks(self, patches_BTFP: Tensor, rows: list[Chunk], kept: int) -> list[Tensor]:
        """Encode chunks as one padded batch: the normed output and `kept` layers, each [R, T, F, D].

        Values after the end of a chunk have no meaning.
        """
        lengths = [chunk.length for chunk in rows]
        chunk_RTFP = patches_BTFP.new_full(
            (len(rows), max(lengths), *patches_BTFP.shape[2:]), self.fill_value
        )
        for row, chunk in enumerate(rows):
            chunk_RTFP[row, : chunk.length] = patches_BTFP[
                chunk.clip, chunk.start : chunk.start + chunk.length
            ]
        patches_RNP, positions, valid_RN, grid = prepare(
            self.encoder, chunk_RTFP, lengths, self.chunk_patches, self.fill_value
        )
        with autocast(self.precision, self.device):
            output, layers = self.encoder(patches_RNP, positions, valid_RN, keep_layers=kept)
        return [value.unflatten(1, tuple(grid)) for value in (output, *layers)]


def choose(every: Sequence[Tensor], layers: Sequence[int], depth: int) -> tuple[Tensor, ...]:
    """The outputs of blocks, from 1, out of those of the last blocks."""
    return tuple(every[number - 1 - depth + len(every)] for number in layers)


def checked_lengths(lengths: Sequence[int] | Tensor | None, batch: int, most: int, unit: str) -> list[int]:
    """The length of each clip, from 1 to `most`. On the host: a GPU would be waited for at each question."""
    if lengths is None:
        return [most] * batch
    found = lengths.tolist() if isinstance(lengths, Tensor) else [*lengths]
    if not isinstance(found, list) or len(found) != batch or not all(_is_length(one, most) for one in found):
        raise ValueError(f"lengths {found} must be {batch} numbers from 1 to {most} {unit}")
    return [int(one) for one in found]


def _is_length(value: object, most: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 1 <= value <= most and value == int(value)
