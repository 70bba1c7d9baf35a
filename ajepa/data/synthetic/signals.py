"""Building blocks of synthetic sounds and voices: random curves, coloured noise, a time-varying filter."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.random import Generator

SAMPLE_RATE = 16_000
FRAME, HOP = 512, 128  # of the time-varying filter: 32 ms and 8 ms
FRAME_HZ = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)


def generator(seed: int, *key: str | int) -> Generator:
    """A random generator derived from a hash of (seed, key), independent of all others."""
    digest = hashlib.sha256("/".join(map(str, (seed, *key))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A draw in which all octaves are equally likely, for pitches, rates and durations."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def slow_curve(samples: int, hz: float, rng: Generator) -> np.ndarray:
    """A random curve of unit spread that changes about `hz` times a second, [samples]."""
    knots = max(2, int(samples / SAMPLE_RATE * hz) + 2)
    return np.interp(np.linspace(0, knots - 1, samples), np.arange(knots), rng.standard_normal(knots))


def coloured_noise(samples: int, db_per_octave: float, rng: Generator) -> np.ndarray:
    """Noise of unit RMS whose spectrum falls or rises by `db_per_octave` (-3 is pink), [samples]."""
    bins = samples // 2 + 1
    spectrum = rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    spectrum *= np.maximum(np.arange(bins), samples * 50 / SAMPLE_RATE) ** (db_per_octave / 6.02)
    noise = np.fft.irfft(spectrum, samples)
    return noise / (noise.std() + 1e-12)


def shape_frames(signal: np.ndarray, gain_LH: np.ndarray) -> np.ndarray:
    """Filters `signal` [S] by a gain for each frame and frequency, [L, FRAME // 2 + 1], by overlap-add."""
    frames = len(gain_LH)
    padded = np.zeros((frames + FRAME // HOP) * HOP)
    padded[FRAME // 2 : FRAME // 2 + len(signal)] = signal[: len(padded) - FRAME // 2]
    blocks = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[: frames * HOP : HOP]
    blocks = np.fft.irfft(np.fft.rfft(blocks * np.hanning(FRAME + 1)[:-1]) * gain_LH, FRAME)
    out = np.zeros_like(padded)
    for part in range(FRAME // HOP):  # each quarter of every frame lands on its own hop grid
        out[part * HOP : (part + frames) * HOP] += blocks[:, part * HOP : (part + 1) * HOP].ravel()
    return 0.5 * out[FRAME // 2 : FRAME // 2 + len(signal)]  # the windows sum to 2


def frames_of(samples: int) -> int:
    """How many frames of gain `shape_frames` needs to cover a signal."""
    return samples // HOP + FRAME // HOP


def band_gain(centre_L: np.ndarray, octaves: float) -> np.ndarray:
    """Gain [L, H] of a band around a moving centre in hertz, `octaves` wide at half power; H bins."""
    distance = np.log2(np.maximum(FRAME_HZ, 20.0)) - np.log2(centre_L)[:, None]
    return 1 / (1 + (2 * distance / octaves) ** 2)


def glottal_pulses(phase: np.ndarray, open_share: float) -> np.ndarray:
    """Derivative of the KLGLOTT88 flow 27/4 (x^2 - x^3), x = position in the open part of the period."""
    position = np.minimum(phase % 1 / open_share, 1)
    return np.diff(6.75 * (position**2 - position**3), prepend=0.0)
