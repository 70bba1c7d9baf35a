"""What the tests of audio share: small files in every container, made of noise over a tone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

FORMATS: dict[str, dict[str, Any]] = {
    "a.wav": {"subtype": "PCM_16"},
    "float.wav": {"subtype": "FLOAT"},
    "a.flac": {},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "cbr.mp3": {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5},
    "vbr.mp3": {"format": "MP3", "bitrate_mode": "VARIABLE"},
    "a.aiff": {"format": "AIFF"},
    "a.au": {"format": "AU"},
    "a.caf": {"format": "CAF"},
    "a.w64": {"format": "W64"},
    "rf64.wav": {"format": "RF64"},
}


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Band-limited noise over a tone: every codec keeps it, no two stretches are alike."""
    rng = np.random.default_rng(seed)
    smooth = np.convolve(rng.standard_normal(samples + 15), np.ones(16) / 16, mode="valid")
    tones = [0.2 * np.sin(0.05 * (channel + 1) * np.arange(samples)) for channel in range(channels)]
    return np.stack([0.3 * smooth + tone for tone in tones], axis=1).astype(np.float32)


def write(path: Path, rate: int = 44_100, seconds: float = 3.0, channels: int = 2, seed: int = 0) -> Path:
    rate = 48_000 if path.suffix == ".opus" else rate
    soundfile.write(path, noise(round(rate * seconds), channels, seed), rate, **FORMATS[path.name])
    return path


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
