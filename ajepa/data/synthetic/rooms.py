"""Recordings of dry sounds: equaliser, room, noise and level, which a classifier must ignore."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .signals import SAMPLE_RATE, coloured_noise, slow_curve


def record(dry: np.ndarray, rng: Generator, *, place: Generator, strength: float = 1.0) -> np.ndarray:
    """`dry` [S] through an equaliser and a room, with noise and a random level; float32 [S], peak below 1.

    `place` draws what all takes of a session share (equaliser, room, colour of the noise), `rng` the rest
    (the noise, its level, the clip's level). `strength` 0 to 1 scales equaliser and room.
    """
    samples = len(dry)
    room_samples = SAMPLE_RATE // 2
    length = samples + room_samples
    hertz = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 30)
    knots = np.geomspace(60, 8000, 7)
    curve_db = strength * (4 * place.standard_normal(7) + place.uniform(-3, 3) * np.arange(-3, 4))
    gain = 10 ** (np.interp(np.log(hertz), np.log(knots), curve_db) / 20)
    decay = 6.9 / place.uniform(0.15, 0.8)  # 60 dB in 0.15 to 0.8 s
    tail = place.standard_normal(room_samples) * np.exp(-decay * np.arange(room_samples) / SAMPLE_RATE)
    tail *= strength * place.uniform(0.05, 0.8) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    wet = np.fft.irfft(np.fft.rfft(dry, length) * np.fft.rfft(tail, length) * gain, length)[:samples]
    noise = coloured_noise(samples, place.uniform(-7, 0), rng)
    if samples >= SAMPLE_RATE:
        noise = noise * np.exp(0.3 * slow_curve(samples, 1.0, rng))
    snr_db = rng.uniform(6, 30)
    loud = np.sqrt(np.mean(wet**2)) + 1e-9
    wave = wet / loud + 10 ** (-snr_db / 20) * noise
    return (10 ** (rng.uniform(-24, -1) / 20) * wave / np.abs(wave).max()).astype(np.float32)
