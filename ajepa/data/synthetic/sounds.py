"""Environmental sounds: 18 kinds that differ in spectrum, in rhythm, or only in the order of events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.random import Generator

from .signals import (
    HOP,
    SAMPLE_RATE,
    band_gain,
    coloured_noise,
    frames_of,
    glottal_pulses,
    log_uniform,
    shape_frames,
    slow_curve,
)


def _tone(hertz: np.ndarray, rng: Generator) -> np.ndarray:
    """A harmonic tone of random timbre along a frequency contour in hertz, [S]."""
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    count = int(np.clip(0.45 * SAMPLE_RATE / hertz.max(), 1, rng.integers(1, 6)))
    weights = rng.uniform(0.1, 1.0, count) / np.arange(1, count + 1)
    return sum(weight * np.sin(k * phase) for k, weight in enumerate(weights, 1))


def _grain(rng: Generator) -> np.ndarray:
    """A struck object: a few decaying resonances and a click of noise, 20 to 150 ms."""
    time = np.arange(int(log_uniform(rng, 0.02, 0.15) * SAMPLE_RATE)) / SAMPLE_RATE
    decay = 6 / time[-1]
    modes = [log_uniform(rng, 150, 5000) for _ in range(rng.integers(2, 6))]
    ring = sum(rng.uniform(0.2, 1) * np.sin(2 * np.pi * hz * time) for hz in modes) * np.exp(-decay * time)
    click = rng.standard_normal(len(time)) * np.exp(-log_uniform(rng, 1.5, 6) * decay * time)
    return ring / np.abs(ring).max() + rng.uniform(0.1, 1.0) * click / np.abs(click).max()


def _strike(times: np.ndarray, levels: np.ndarray, samples: int, rng: Generator) -> np.ndarray:
    """Strikes at `times` (seconds) with `levels`; one to three grains are shared by all strikes."""
    grains = [_grain(rng) for _ in range(rng.integers(1, 4))]
    out = np.zeros(samples)
    for time, level in zip(times, levels, strict=True):
        start = int(time * SAMPLE_RATE)
        grain = grains[rng.integers(len(grains))][: max(0, samples - start)]
        out[start : start + len(grain)] += level * grain
    return out


def _grid(seconds: float, hz: float, rng: Generator, jitter: float = 0.02) -> np.ndarray:
    """Evenly spaced times at `hz` with a random start and a little jitter, in seconds."""
    times = (np.arange(int(seconds * hz) + 1) + rng.uniform(0, 1)) / hz
    times = times + jitter / hz * rng.standard_normal(len(times))
    return times[(times >= 0) & (times < seconds)]


def _levels(count: int, spread_db: float, rng: Generator) -> np.ndarray:
    return 10 ** (spread_db * rng.standard_normal(count) / 20)


def _cycle(samples: int, hz: float, rng: Generator) -> np.ndarray:
    """Position in a repeating cycle, 0 to 1, at `hz` that drifts a little, random start, [samples]."""
    rate = hz * (1 + 0.05 * slow_curve(samples, 1.0, rng))
    return (np.cumsum(rate) / SAMPLE_RATE + rng.uniform()) % 1


def _gate(cycle: np.ndarray, duty: float) -> np.ndarray:
    """1 for the first `duty` of a cycle, with soft edges."""
    return np.clip(np.minimum(cycle, duty - cycle) / 0.03, 0, 1)


# --- kinds of sound ---


def _sweeps(samples: int, rng: Generator, direction: int) -> np.ndarray:
    """Repeated glides, up (1) or down (-1)."""
    cycle = _cycle(samples, log_uniform(rng, 0.8, 3.0), rng)
    duty, span = rng.uniform(0.6, 0.95), rng.uniform(0.5, 1.5)
    octaves = direction * span * (cycle / duty - 0.5)
    return _gate(cycle, duty) * _tone(log_uniform(rng, 350, 1800) * 2**octaves, rng)


def _siren(samples: int, rng: Generator) -> np.ndarray:
    octaves = rng.uniform(0.25, 0.75) * np.sin(2 * np.pi * _cycle(samples, log_uniform(rng, 0.3, 1.5), rng))
    return _tone(log_uniform(rng, 350, 1800) * 2**octaves, rng)


def _two_tone(samples: int, rng: Generator) -> np.ndarray:
    step = np.clip(np.sin(2 * np.pi * _cycle(samples, log_uniform(rng, 0.6, 2.5), rng)) * 20, -1, 1)
    return _tone(log_uniform(rng, 350, 1800) * 2 ** (rng.uniform(0.15, 0.6) * step), rng)


def _beeps(samples: int, rng: Generator) -> np.ndarray:
    gate = _gate(_cycle(samples, log_uniform(rng, 1.2, 6.0), rng), rng.uniform(0.3, 0.8))
    return gate * _tone(np.full(samples, log_uniform(rng, 350, 1800)), rng)


def _ticks(samples: int, rng: Generator) -> np.ndarray:
    times = _grid(samples / SAMPLE_RATE, log_uniform(rng, 1.5, 6.0), rng, jitter=0.01)
    return _strike(times, _levels(len(times), 1, rng), samples, rng)


def _footsteps(samples: int, rng: Generator) -> np.ndarray:
    """Heel and toe: pairs of strikes with a short gap, then a long gap."""
    heel = _grid(samples / SAMPLE_RATE, log_uniform(rng, 1.0, 2.4), rng, jitter=0.04)
    gap = rng.uniform(0.07, 0.16)
    times = np.concatenate([heel, np.minimum(heel + gap, samples / SAMPLE_RATE - 1e-3)])
    return _strike(times, _levels(len(times), 2, rng), samples, rng)


def _crackle(samples: int, rng: Generator) -> np.ndarray:
    seconds = samples / SAMPLE_RATE
    times = rng.uniform(0, seconds, max(3, rng.poisson(seconds * log_uniform(rng, 2, 10))))
    return _strike(times, _levels(len(times), 5, rng), samples, rng)


def _drum_roll(samples: int, rng: Generator) -> np.ndarray:
    times = _grid(samples / SAMPLE_RATE, log_uniform(rng, 10, 20), rng)
    accent = 1 + rng.uniform(0, 1.5) * (np.arange(len(times)) % rng.integers(2, 5) == 0)
    return _strike(times, accent * _levels(len(times), 1.5, rng), samples, rng)


def _bouncing(samples: int, rng: Generator) -> np.ndarray:
    """A dropped ball: each interval is a fixed share of the one before, each strike softer."""
    seconds, ratio, first = samples / SAMPLE_RATE, rng.uniform(0.72, 0.88), rng.uniform(0.3, 0.6)
    drop = np.cumsum(np.concatenate([[0.0], first * ratio ** np.arange(18)]))
    period = drop[-1] + rng.uniform(0.1, 0.4)
    starts = np.arange(-rng.uniform(0, 0.5) * period, seconds, period)
    times = (starts[:, None] + drop).ravel()
    levels = np.tile(0.85 ** np.arange(len(drop)), len(starts))
    inside = (times >= 0) & (times < seconds)
    return _strike(times[inside], levels[inside], samples, rng)


def _knocks(samples: int, rng: Generator) -> np.ndarray:
    """Groups of three to five even strikes with a pause between the groups."""
    seconds, gap, count = samples / SAMPLE_RATE, rng.uniform(0.12, 0.25), rng.integers(3, 6)
    period = gap * count + rng.uniform(0.5, 1.2)
    starts = np.arange(-rng.uniform(0, period), seconds, period)
    times = (starts[:, None] + gap * np.arange(count)).ravel()
    times = times[(times >= 0) & (times < seconds)]
    return _strike(times, _levels(len(times), 1.5, rng), samples, rng)


def _rain(samples: int, rng: Generator) -> np.ndarray:
    drops = rng.standard_normal(samples) * (rng.random(samples) < log_uniform(rng, 0.005, 0.05))
    drops = shape_frames(drops, band_gain(np.full(frames_of(samples), 3000.0), 3.0))
    bed = coloured_noise(samples, rng.uniform(-4, 0), rng)
    return drops / (drops.std() + 1e-12) + rng.uniform(0.3, 1.0) * bed


def _wind(samples: int, rng: Generator) -> np.ndarray:
    frames = frames_of(samples)
    drift = slow_curve(frames * HOP, rng.uniform(0.7, 2), rng)[::HOP]
    gain = band_gain(log_uniform(rng, 250, 1200) * 2 ** (0.7 * drift), rng.uniform(0.5, 1.5))
    return shape_frames(coloured_noise(samples, -2, rng), gain * np.exp(0.6 * drift)[:, None])


def _pulsed_noise(samples: int, rng: Generator) -> np.ndarray:
    """Helicopter: noise whose level pulses 7 to 16 times a second."""
    cycle = _cycle(samples, log_uniform(rng, 7, 16), rng)
    band = band_gain(np.full(frames_of(samples), log_uniform(rng, 250, 1500)), 2.5)
    return np.exp(-rng.uniform(3, 6) * cycle) * shape_frames(rng.standard_normal(samples), band)


def _engine(samples: int, rng: Generator) -> np.ndarray:
    """A buzz with many harmonics whose level beats at a sub-multiple of its pitch."""
    hertz = log_uniform(rng, 50, 140) * 2 ** (0.12 * slow_curve(samples, 1.5, rng))
    phase = np.cumsum(hertz) / SAMPLE_RATE
    beat = 1 + rng.uniform(0.3, 0.9) * np.sin(2 * np.pi * phase / rng.integers(2, 5))
    return beat * glottal_pulses(phase, rng.uniform(0.3, 0.7))


def _bark(samples: int, rng: Generator) -> np.ndarray:
    """Short harsh bursts with a falling pitch, one to three to a group."""
    cycle = _cycle(samples, log_uniform(rng, 1.0, 2.5), rng)
    count, length = rng.integers(1, 4), rng.uniform(0.12, 0.2)
    inside = np.where(cycle < count * 0.25, (cycle % 0.25) / 0.25, 1.0)
    hertz = log_uniform(rng, 250, 800) * 2 ** (0.5 - inside)
    rough = 1 + 0.5 * slow_curve(samples, 300, rng)
    return _gate(inside, 4 * length) * rough * _tone(hertz, rng)


def _bird(samples: int, rng: Generator) -> np.ndarray:
    """Bursts of a fast trill, 10 to 25 wiggles of pitch a second."""
    trill = np.sin(2 * np.pi * _cycle(samples, log_uniform(rng, 10, 25), rng))
    hertz = log_uniform(rng, 800, 3000) * 2 ** (rng.uniform(0.15, 0.4) * trill)
    return _gate(_cycle(samples, log_uniform(rng, 0.7, 2.0), rng), rng.uniform(0.4, 0.8)) * _tone(hertz, rng)


def _bell(samples: int, rng: Generator) -> np.ndarray:
    """Strokes of inharmonic partials, sharp attack and long decay."""
    time = np.arange(int(1.5 * SAMPLE_RATE)) / SAMPLE_RATE
    base, out = log_uniform(rng, 250, 1200), np.zeros(samples)
    partials = base * np.array([0.5, 1.0, 1.19, 1.56, 2.0, 2.66]) * rng.uniform(0.98, 1.02, 6)
    stroke = sum(np.sin(2 * np.pi * hz * time) * np.exp(-time * rng.uniform(2, 6)) for hz in partials)
    for start in (_grid(samples / SAMPLE_RATE, log_uniform(rng, 0.5, 2.0), rng) * SAMPLE_RATE).astype(int):
        out[start : start + len(time)] += stroke[: samples - start]
    return out


SOUNDS: dict[str, Callable[[int, Generator], np.ndarray]] = {
    "rising_sweep": partial(_sweeps, direction=1),
    "clock_tick": _ticks,
    "rain": _rain,
    "falling_sweep": partial(_sweeps, direction=-1),
    "footsteps": _footsteps,
    "engine": _engine,
    "alarm_beeps": _beeps,
    "crackle": _crackle,
    "wind": _wind,
    "dog_bark": _bark,
    "siren": _siren,
    "bell": _bell,
    "door_knock": _knocks,
    "helicopter": _pulsed_noise,
    "two_tone": _two_tone,
    "bird_trill": _bird,
    "bouncing_ball": _bouncing,
    "drum_roll": _drum_roll,
}


def sound(kind: str, seconds: float, rng: Generator) -> np.ndarray:
    """One dry sound of a kind in `SOUNDS`, float32 [S], peak 0.5, with random pitch, tempo and extent.

    Raises ValueError for an unknown kind and for less than 0.1 s, too short for any pattern.
    """
    if kind not in SOUNDS:
        raise ValueError(f"no kind of sound is named {kind!r}; choose one of {', '.join(SOUNDS)}")
    if seconds < 0.1:
        raise ValueError(f"a sound needs at least 0.1 s, not {seconds}")
    samples = round(seconds * SAMPLE_RATE)
    position = np.arange(samples)
    while True:  # all events of a slow rhythm may fall outside the extent: draw again
        start, stop = rng.uniform(0, 0.15) * samples, rng.uniform(0.75, 1.0) * samples
        extent = np.clip(np.minimum(position - start, stop - position) / (0.02 * SAMPLE_RATE), 0, 1)
        wave = extent * SOUNDS[kind](max(samples, SAMPLE_RATE), rng)[:samples]
        peak = np.abs(wave).max()
        if peak > 0.01:
            return (0.5 * wave / peak).astype(np.float32)
