"""The settings of a log-mel spectrogram."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

from torch import Tensor

# Recipes come with weights, also with those of strangers: beyond these the filter bank would fill the memory.
HIGHEST_RATE = 1_000_000
MOST_MELS = 1024
LONGEST_WINDOW = 65_536


@dataclass(frozen=True)
class LogMelConfig:
    """The settings of a log-mel spectrogram. Raises ValueError for settings that cannot work.

    ``high_hz`` follows Kaldi: zero or less counts from the Nyquist frequency. ``mean`` and ``std`` are those
    of the log energies of the training data; the defaults are Audio-MAE's for AudioSet.
    """

    sample_rate: int = 16_000
    mels: int = 128
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    low_hz: float = 20.0
    high_hz: float = 0.0
    mean: float = -4.2677393
    std: float = 4.5689974

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= HIGHEST_RATE:
            raise ValueError(f"sample_rate is {self.sample_rate}; give 1 to {HIGHEST_RATE} Hz")
        if not 4 <= self.mels <= MOST_MELS:
            raise ValueError(f"mels is {self.mels}; Kaldi's filter bank needs 4 to {MOST_MELS} bands")
        for key in ("window_seconds", "hop_seconds", "low_hz", "high_hz", "mean", "std"):
            if not math.isfinite(getattr(self, key)):
                raise ValueError(f"{key} is {getattr(self, key)}; give a finite number")
        if max(self.window_seconds, self.hop_seconds) * self.sample_rate > LONGEST_WINDOW:
            raise ValueError(
                f"window_seconds={self.window_seconds}, hop_seconds={self.hop_seconds}: give at most "
                f"{LONGEST_WINDOW} samples"
            )
        if self.window < 4:
            raise ValueError(
                f"window_seconds={self.window_seconds} is {self.window} samples at {self.sample_rate} Hz; "
                "give at least 4 samples"
            )
        if self.hop < 1:
            raise ValueError(
                f"hop_seconds={self.hop_seconds} is under one sample at {self.sample_rate} Hz; lengthen it"
            )
        nyquist = self.sample_rate / 2
        high_hz = self.high_hz if self.high_hz > 0 else nyquist + self.high_hz
        if not 0 <= self.low_hz < high_hz <= nyquist:
            raise ValueError(
                f"mel bands from low_hz={self.low_hz} to high_hz={high_hz} do not fit into 0 to {nyquist} Hz "
                "(half the sample rate); change low_hz, high_hz or sample_rate"
            )
        if not self.std > 0:
            raise ValueError(f"std is {self.std}; give a positive number (0.5 with mean 0 changes nothing)")

    # Kaldi cuts to whole samples; rounding first keeps float errors from losing a sample.
    @property
    def window(self) -> int:
        """Samples in a frame."""
        return int(round(self.sample_rate * self.window_seconds, 6))

    @property
    def step_seconds(self) -> float:
        """Time between two frames: `hop_seconds` in whole samples."""
        return self.hop / self.sample_rate

    @property
    def frame_seconds(self) -> float:
        """Length of a frame: `window_seconds` in whole samples."""
        return self.window / self.sample_rate

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(round(self.sample_rate * self.hop_seconds, 6))

    @overload
    def frames(self, samples: int) -> int: ...
    @overload
    def frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: int | Tensor) -> int | Tensor:
        """Return the number of frames of clips of ``samples`` samples each."""
        if isinstance(samples, Tensor):
            return 1 + (samples - self.window).clamp_min(0) // self.hop
        return 1 + max(samples - self.window, 0) // self.hop

    @property
    def fft_size(self) -> int:
        """The window, zero-padded to a power of two."""
        return 1 << (self.window - 1).bit_length()
