"""Baselines without training: how far the front end alone gets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from ajepa.errors import AjepaError

from .logmel import LogMelStatistics, get_scene_embeddings


class BaselineError(AjepaError, ValueError):
    """A baseline cannot be used; the message says why."""


class LogMelBaseline(nn.Module):
    """Mean and standard deviation over time of each log-mel band: 256 features."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = LogMelStatistics()
        self.sample_rate = self.statistics.sample_rate
        self.ragged = False

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips of one length [B, S] to [B, 1, 1, 1, 256]."""
        return get_scene_embeddings(waveform_BS, self.statistics)[:, None, None, None]


class HearNaive(nn.Module):
    """HEAR's naive baseline: log-mel frames times a fixed random matrix, 4,096 features, averaged over time.

    The computation is that of hearbaseline.naive, with the same embeddings up to single-precision rounding:
    44.1 kHz; Hann windows of 4096 samples centred on multiples of 250 ms, zeros around the clip; power in 256
    mel bands (Slaney's scale and norm) up to 22.05 kHz; the logarithm of the power plus 1e-4; a matrix with
    entries uniform from 0 to 1, drawn by torch's generator with seed 0, divided by the square root of 256.
    The projection is linear, so the rank of the features is at most the number of bands.

    Shape suffixes: W samples of a window, K frequencies, M mel bands, X features, L windows.
    """

    window_W: Tensor
    bands_KM: Tensor
    projection_MX: Tensor

    sample_rate = 44_100
    ragged = False
    window, hop_seconds, mels, width, floor = 4096, 0.25, 256, 4096, 1e-4

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        projection_MX = torch.rand(self.mels, self.width, generator=generator) / self.mels**0.5
        bands_KM = melscale_fbanks(
            self.window // 2 + 1,
            0.0,
            self.sample_rate / 2,
            self.mels,
            self.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("projection_MX", projection_MX)
        self.register_buffer("bands_KM", bands_KM)
        self.register_buffer("window_W", torch.hann_window(self.window))

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips of one length [B, S] to [B, 1, 1, 1, 4096]."""
        padded_BS = nn.functional.pad(waveform_BS, (self.window // 2, self.window // 2))
        step = self.hop_seconds * self.sample_rate
        starts = [round(number * step) for number in range(int(waveform_BS.shape[1] / step) + 1)]
        frames_BLW = torch.stack([padded_BS[:, start : start + self.window] for start in starts], 1)
        power_BLK = torch.fft.rfft(frames_BLW * self.window_W).abs() ** 2
        logmel_BLM = (power_BLK @ self.bands_KM + self.floor).log()
        return (logmel_BLM.mean(1) @ self.projection_MX)[:, None, None, None]
