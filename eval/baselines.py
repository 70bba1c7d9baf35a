"""Baselines without training: what the front end alone knows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ajepa.features import LogMel, LogMelConfig

from .logmel import LogMelStatistics, get_scene_embeddings


class BaselineError(ValueError):
    """A baseline cannot be used; the message says why."""


class LogMelBaseline(nn.Module):
    """Mean and standard deviation over time of each log-mel band: 256 features."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = LogMelStatistics()
        self.sample_rate = self.statistics.sample_rate
        self.ragged = False

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips of one length [B, S] to [B, 1, 1, 256]."""
        return get_scene_embeddings(waveform_BS, self.statistics)[:, None, None]


class RandomProjection(nn.Module):
    """Log-mel frames times a fixed random matrix, 4,096 features, averaged over time.

    After HEAR's naive baseline (hearbaseline.naive): entries uniform in 0 to 1, divided by the root of the
    number of bands. The front end is ours (128 bands at 16 kHz; there 256 at 44.1 kHz). The projection is
    linear, so that the features have the rank of the bands.
    """

    width = 4096

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.features = LogMel(LogMelConfig())
        self.sample_rate = self.features.config.sample_rate
        self.ragged = False
        mels = self.features.config.mels
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("matrix_MX", torch.rand(mels, self.width, generator=generator) / mels**0.5)

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips of one length [B, S] to [B, 1, 1, 4096]."""
        return (self.features(waveform_BS) @ self.matrix_MX).mean(1)[:, None, None]
