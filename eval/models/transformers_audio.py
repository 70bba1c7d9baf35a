"""Audio encoders of the transformers library, loaded from a folder that it saved, as baselines.

Each encoder gets its input from its own feature extractor, stored in the same folder, at its own sample rate,
and is averaged over the clip's own time. Whisper and AST take a fixed length: shorter clips are padded as
their extractors do, and the padding does not count in the mean; longer ones are cut into pieces. Nothing is
downloaded.

Shape suffixes: B clips of one length, S samples, T time steps, F frequency patches, L layers, D features.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from .baselines import BaselineError

WAVEFORM_TYPES = ("wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "data2vec-audio", "unispeech-sat")
SPECTROGRAM_TYPES = ("whisper", "audio-spectrogram-transformer")
# Only masked training uses this weight; some checkpoints leave it out.
NOT_NEEDED = {"masked_spec_embed"}


class _Piece(NamedTuple):
    """Hidden states [B, T, F, D] of a stretch, from each layer and the final output, and its own T."""

    layers: tuple[Tensor, ...]
    steps: int


class TransformersModel(nn.Module):
    """An encoder of the library with the interface of `ajepa.eval.models`.

    Layers are the blocks' outputs and the final output. F is 1, except for AST, where it is 12.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        folder = Path(folder)
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in WAVEFORM_TYPES + SPECTROGRAM_TYPES:
            known = ", ".join(WAVEFORM_TYPES + SPECTROGRAM_TYPES)
            raise BaselineError(f"{folder}: a model of type {kind!r} cannot be evaluated; use one of {known}")
        if not (folder / "preprocessor_config.json").is_file():
            raise BaselineError(
                f"{folder}: no preprocessor_config.json, which defines the model's input; "
                "save the model's feature extractor there too"
            )
        self.extractor: Any = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        model, report = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        if missing := sorted(set(report["missing_keys"]) - NOT_NEEDED):
            raise BaselineError(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}")
        self.model = model.encoder if kind == "whisper" else model
        self.config = self.extractor  # `fingerprint` reads it from this module; `model` has its own
        self.kind, self.ragged = kind, False
        self.sample_rate = int(self.extractor.sampling_rate)

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips of one length [B, S] to [B, L, 2, F, D]."""
        samples = waveform_BS.shape[1]
        size = self._most_samples() or samples
        total, steps = None, 0
        for first in range(0, samples, size):
            piece = self._encode(waveform_BS[:, first : first + size], all_layers)
            own_BLTFD = torch.stack([layer[:, : piece.steps] for layer in piece.layers], 1).double()
            own = torch.stack([own_BLTFD.sum(2), own_BLTFD.square().sum(2)], 2)
            total, steps = own if total is None else total + own, steps + piece.steps
        assert total is not None  # a clip has at least one sample
        mean_BLFD, square_BLFD = (total / steps).unbind(2)
        std_BLFD = (square_BLFD - mean_BLFD.square()).clamp_min(0).sqrt()
        return torch.stack([mean_BLFD, std_BLFD], 2).float()

    def _most_samples(self) -> int | None:
        """Samples that the model takes at once; None for no limit."""
        if self.kind == "whisper":
            return self.extractor.n_samples
        if self.kind == "audio-spectrogram-transformer":
            return self.extractor.max_length * self.sample_rate // 100  # Kaldi's hop of 10 ms
        return None

    def _least_samples(self) -> int:
        """Samples that the model's first time step covers."""
        if self.kind in SPECTROGRAM_TYPES:
            return self.sample_rate // 40  # Kaldi's window of 25 ms
        seen, step = 1, 1
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            seen, step = seen + (kernel - 1) * step, step * stride
        return seen

    def _encode(self, waveform_BS: Tensor, all_layers: bool) -> _Piece:
        samples = waveform_BS.shape[1]
        short = max(0, self._least_samples() - samples)
        clips = list(nn.functional.pad(waveform_BS.float().cpu(), (0, short)).numpy())
        batch = self.extractor(clips, sampling_rate=self.sample_rate, return_tensors="pt")
        inputs = batch["input_features" if self.kind == "whisper" else "input_values"].to(waveform_BS.device)
        found = self.model(inputs, output_hidden_states=all_layers)
        layers = (*(found.hidden_states[1:] if all_layers else ()), found.last_hidden_state)
        if self.kind == "audio-spectrogram-transformer":
            return self._patches(layers, samples + short)
        steps = layers[0].shape[1]
        if self.kind == "whisper":  # one step per two frames, for any length of clip
            steps = min(steps, math.ceil(samples / (2 * self.extractor.hop_length)))
        return _Piece(tuple(layer[:, :, None] for layer in layers), steps)

    def _patches(self, layers: tuple[Tensor, ...], samples: int) -> _Piece:
        """AST's tokens without the two special ones, frequency-major, as [B, T, F, D]."""
        config = self.model.config
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        grids = tuple(layer[:, 2:].unflatten(1, (bands, -1)).transpose(1, 2) for layer in layers)
        hop, window = self.sample_rate // 100, self.sample_rate // 40
        frames = 1 + max(0, samples - window) // hop
        return _Piece(grids, min(grids[0].shape[1], math.ceil(frames / config.time_stride)))
