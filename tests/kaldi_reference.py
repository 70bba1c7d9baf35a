"""Torchaudio's Kaldi filter banks, called as Audio-MAE calls them, and waveforms to try on them."""

import torch
import torchaudio.compliance.kaldi as kaldi
from torch import Tensor

from ajepa.features import LogMelConfig

RATE = 16_000


def reference(waveform_S: Tensor, config: LogMelConfig | None = None) -> Tensor:
    """Audio-MAE's call of torchaudio, in the precision of the waveform."""
    config = config or LogMelConfig()
    return kaldi.fbank(
        waveform_S[None] - waveform_S.mean(),
        htk_compat=True,
        sample_frequency=config.sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=config.mels,
        dither=0.0,
        frame_length=1000 * config.window_seconds,
        frame_shift=1000 * config.hop_seconds,
        low_freq=config.low_hz,
        high_freq=config.high_hz,
    )


def assert_true(waveform_S: Tensor, log_mel_TM: Tensor) -> None:
    """Within 1e-3 in the log of every band (1e-6 was seen; other FFT libraries round otherwise)."""
    expected_TM = reference(waveform_S)
    assert log_mel_TM.shape == expected_TM.shape and log_mel_TM.dtype == torch.float32
    assert (log_mel_TM - expected_TM).abs().max() < 1e-3


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tone(hz: float, seconds: int) -> Tensor:
    return 0.9 * torch.sin(2 * torch.pi * hz * torch.arange(seconds * RATE).double() / RATE).float()


def impulses() -> Tensor:
    waveform_S = torch.zeros(RATE)
    waveform_S[[1000, 5000, 9000]] = torch.tensor([1.0, -1e-3, 0.3])
    waveform_S[12_000::160] = 0.5
    return waveform_S


SIGNALS = {
    "noise": noise(5 * RATE),
    "full-scale noise": noise(RATE, level=1.0).clamp(-1, 1),
    "quiet noise": noise(RATE, level=1e-5),
    "brown noise": noise(2 * RATE, level=2e-3).cumsum(0),
    "impulses": impulses(),
    "constant": torch.full((RATE,), 0.7),
    "loud offset": 0.9 + noise(RATE, level=1e-3),
    "offset, quiet": -0.9 + noise(RATE, level=1e-5),
    "drift": torch.linspace(-0.5, 0.5, 2 * RATE) + noise(2 * RATE, level=1e-2),
    "silence": torch.zeros(RATE),
    "half silence": torch.cat([noise(RATE // 2), torch.zeros(RATE // 2)]),
    "one minute": noise(60 * RATE, level=0.02),
    # Their weakest bands show the last bit of the clip's mean, by more than 5e-3.
    "tone over 4 s": tone(1000.3, 4),
    "tone with an offset": tone(3000.7, 1) + 0.03,
    "tone over 10 s": tone(3000.7, 10),
}
