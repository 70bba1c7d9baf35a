"""Synthetic audio for demonstrations and tests, in the on-disk layouts of real data sets.

Two families of signals, both made from nothing but a seed:

* Environmental sounds, `sound(kind, seconds, rng)`. Kinds that share a spectrum differ in their temporal
  structure: rising against falling sweeps, evenly spaced ticks against random crackle. `record` then hides
  them behind what a classifier must ignore: equaliser, reverberation, coloured noise, level, a distractor.
  Statistics of a spectrogram over time therefore solve the task in part, order and rhythm solve the rest.
* Words, `speak(voice, word, seconds, rng)`: a source-filter synthesiser with the glottal pulse of Klatt &
  Klatt 1990 (KLGLOTT88, "Analysis, synthesis, and perception of voice quality variations", JASA 87) and
  formant targets in the range of Peterson & Barney 1952. Words come in pairs of swapped syllables. A
  `Voice` is the speaker: vocal tract length, pitch and voice quality.

Each clip draws from a generator derived from (seed, data set, class, index), so its samples do not depend on
what was generated before it or in which process. Waveforms are mono float, 16 kHz, shape [S].
The layouts: ESC-50 (Piczak 2015), Speech Commands (Warden 2018, arXiv:1804.03209), VoxCeleb1 (Nagrani 2017).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator

SAMPLE_RATE = 16_000
FRAME, HOP = 512, 128  # of the time-varying filter: 32 ms and 8 ms
FRAME_HZ = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)


def generator(seed: int, *key: str | int) -> Generator:
    """The random generator of one named thing: a hash of (seed, key), so independent of any other draw."""
    digest = hashlib.sha256("/".join(map(str, (seed, *key))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


# --- building blocks ---------------------------------------------------------------------------------------


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _slow_curve(samples: int, hz: float, rng: Generator) -> np.ndarray:
    """A random curve of unit spread that changes about `hz` times a second, [samples]."""
    knots = max(2, int(samples / SAMPLE_RATE * hz) + 2)
    return np.interp(np.linspace(0, knots - 1, samples), np.arange(knots), rng.standard_normal(knots))


def _coloured_noise(samples: int, db_per_octave: float, rng: Generator) -> np.ndarray:
    """Noise of unit RMS whose spectrum falls or rises by `db_per_octave` (-3 is pink), [samples]."""
    bins = samples // 2 + 1
    spectrum = rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    spectrum *= np.maximum(np.arange(bins), samples * 50 / SAMPLE_RATE) ** (db_per_octave / 6.02)
    noise = np.fft.irfft(spectrum, samples)
    return noise / (noise.std() + 1e-12)


def _shape_frames(signal: np.ndarray, gain_TF: np.ndarray) -> np.ndarray:
    """Filters `signal` [S] by a gain for each frame and frequency, [T, FRAME // 2 + 1], by overlap-add."""
    frames = len(gain_TF)
    padded = np.zeros((frames + FRAME // HOP) * HOP)
    padded[FRAME // 2 : FRAME // 2 + len(signal)] = signal[: len(padded) - FRAME // 2]
    blocks = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[: frames * HOP : HOP]
    blocks = np.fft.irfft(np.fft.rfft(blocks * np.hanning(FRAME + 1)[:-1]) * gain_TF, FRAME)
    out = np.zeros_like(padded)
    for part in range(FRAME // HOP):  # each quarter of every frame lands on its own hop grid
        out[part * HOP : (part + frames) * HOP] += blocks[:, part * HOP : (part + 1) * HOP].ravel()
    return 0.5 * out[FRAME // 2 : FRAME // 2 + len(signal)]  # the windows sum to 2


def _frames_of(samples: int) -> int:
    return samples // HOP + FRAME // HOP


def _band_gain(centre_T: np.ndarray, octaves: float) -> np.ndarray:
    """Gain [T, bins] of a band around a moving centre in hertz, `octaves` wide at half power."""
    distance = np.log2(np.maximum(FRAME_HZ, 20.0)) - np.log2(centre_T)[:, None]
    return 1 / (1 + (2 * distance / octaves) ** 2)


def _tone(hertz: np.ndarray, rng: Generator) -> np.ndarray:
    """A harmonic tone of random timbre along a frequency contour in hertz, [S]."""
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    count = int(np.clip(0.45 * SAMPLE_RATE / hertz.max(), 1, rng.integers(1, 6)))
    weights = rng.uniform(0.1, 1.0, count) / np.arange(1, count + 1)
    return sum(weight * np.sin(k * phase) for k, weight in enumerate(weights, 1))


def _grain(rng: Generator) -> np.ndarray:
    """One struck thing: a few decaying resonances and a click of noise, 20 to 150 ms."""
    time = np.arange(int(_log_uniform(rng, 0.02, 0.15) * SAMPLE_RATE)) / SAMPLE_RATE
    decay = 6 / time[-1]
    modes = [_log_uniform(rng, 150, 5000) for _ in range(rng.integers(2, 6))]
    ring = sum(rng.uniform(0.2, 1) * np.sin(2 * np.pi * hz * time) for hz in modes) * np.exp(-decay * time)
    click = rng.standard_normal(len(time)) * np.exp(-_log_uniform(rng, 1.5, 6) * decay * time)
    return ring / np.abs(ring).max() + rng.uniform(0.1, 1.0) * click / np.abs(click).max()


def _strike(times: Sequence[float] | np.ndarray, levels: np.ndarray, samples: int, rng: Generator):
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
    rate = hz * (1 + 0.05 * _slow_curve(samples, 1.0, rng))
    return (np.cumsum(rate) / SAMPLE_RATE + rng.uniform()) % 1


def _gate(cycle: np.ndarray, duty: float) -> np.ndarray:
    """1 for the first `duty` of a cycle, with soft edges."""
    return np.clip(np.minimum(cycle, duty - cycle) / 0.03, 0, 1)


# --- kinds of sound ----------------------------------------------------------------------------------------


def _sweeps(samples: int, rng: Generator, direction: int) -> np.ndarray:
    cycle = _cycle(samples, _log_uniform(rng, 0.8, 3.0), rng)
    duty, span = rng.uniform(0.6, 0.95), rng.uniform(0.5, 1.5)
    octaves = direction * span * (cycle / duty - 0.5)
    return _gate(cycle, duty) * _tone(_log_uniform(rng, 350, 1800) * 2**octaves, rng)


def _rising(samples: int, rng: Generator) -> np.ndarray:
    return _sweeps(samples, rng, 1)


def _falling(samples: int, rng: Generator) -> np.ndarray:
    return _sweeps(samples, rng, -1)


def _siren(samples: int, rng: Generator) -> np.ndarray:
    octaves = rng.uniform(0.25, 0.75) * np.sin(2 * np.pi * _cycle(samples, _log_uniform(rng, 0.3, 1.5), rng))
    return _tone(_log_uniform(rng, 350, 1800) * 2**octaves, rng)


def _two_tone(samples: int, rng: Generator) -> np.ndarray:
    step = np.clip(np.sin(2 * np.pi * _cycle(samples, _log_uniform(rng, 0.6, 2.5), rng)) * 20, -1, 1)
    return _tone(_log_uniform(rng, 350, 1800) * 2 ** (rng.uniform(0.15, 0.6) * step), rng)


def _beeps(samples: int, rng: Generator) -> np.ndarray:
    gate = _gate(_cycle(samples, _log_uniform(rng, 1.2, 6.0), rng), rng.uniform(0.3, 0.8))
    return gate * _tone(np.full(samples, _log_uniform(rng, 350, 1800)), rng)


def _ticks(samples: int, rng: Generator) -> np.ndarray:
    times = _grid(samples / SAMPLE_RATE, _log_uniform(rng, 1.5, 6.0), rng, jitter=0.01)
    return _strike(times, _levels(len(times), 1, rng), samples, rng)


def _footsteps(samples: int, rng: Generator) -> np.ndarray:
    """Heel and toe: pairs of strikes with a short gap, then a long one."""
    heel = _grid(samples / SAMPLE_RATE, _log_uniform(rng, 1.0, 2.4), rng, jitter=0.04)
    gap = rng.uniform(0.07, 0.16)
    times = np.concatenate([heel, np.minimum(heel + gap, samples / SAMPLE_RATE - 1e-3)])
    return _strike(times, _levels(len(times), 2, rng), samples, rng)


def _crackle(samples: int, rng: Generator) -> np.ndarray:
    seconds = samples / SAMPLE_RATE
    times = rng.uniform(0, seconds, max(3, rng.poisson(seconds * _log_uniform(rng, 2, 10))))
    return _strike(times, _levels(len(times), 5, rng), samples, rng)


def _drum_roll(samples: int, rng: Generator) -> np.ndarray:
    times = _grid(samples / SAMPLE_RATE, _log_uniform(rng, 10, 20), rng)
    accent = 1 + rng.uniform(0, 1.5) * (np.arange(len(times)) % rng.integers(2, 5) == 0)
    return _strike(times, accent * _levels(len(times), 1.5, rng), samples, rng)


def _bouncing(samples: int, rng: Generator) -> np.ndarray:
    """A dropped ball: each interval a fixed share of the one before, and softer."""
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
    drops = rng.standard_normal(samples) * (rng.random(samples) < _log_uniform(rng, 0.005, 0.05))
    drops = _shape_frames(drops, np.ones((_frames_of(samples), 1)) * _band_gain(np.array([3000.0]), 3.0))
    bed = _coloured_noise(samples, rng.uniform(-4, 0), rng)
    return drops / (drops.std() + 1e-12) + rng.uniform(0.3, 1.0) * bed


def _wind(samples: int, rng: Generator) -> np.ndarray:
    frames = _frames_of(samples)
    drift = _slow_curve(frames * HOP, rng.uniform(0.7, 2), rng)[::HOP]
    gain = _band_gain(_log_uniform(rng, 250, 1200) * 2 ** (0.7 * drift), rng.uniform(0.5, 1.5))
    return _shape_frames(_coloured_noise(samples, -2, rng), gain * np.exp(0.6 * drift)[:, None])


def _pulsed_noise(samples: int, rng: Generator) -> np.ndarray:
    """Helicopter: noise whose level pulses 7 to 16 times a second."""
    cycle = _cycle(samples, _log_uniform(rng, 7, 16), rng)
    band = np.ones((_frames_of(samples), 1)) * _band_gain(np.array([_log_uniform(rng, 250, 1500)]), 2.5)
    return np.exp(-rng.uniform(3, 6) * cycle) * _shape_frames(rng.standard_normal(samples), band)


def _engine(samples: int, rng: Generator) -> np.ndarray:
    """A buzz with many harmonics whose level beats at a sub-multiple of its pitch."""
    hertz = _log_uniform(rng, 50, 140) * 2 ** (0.12 * _slow_curve(samples, 1.5, rng))
    phase = np.cumsum(hertz) / SAMPLE_RATE
    beat = 1 + rng.uniform(0.3, 0.9) * np.sin(2 * np.pi * phase / rng.integers(2, 5))
    return beat * _glottal_pulses(phase, rng.uniform(0.3, 0.7))


def _bark(samples: int, rng: Generator) -> np.ndarray:
    """Short harsh bursts with a falling pitch, one to three to a group."""
    cycle = _cycle(samples, _log_uniform(rng, 1.0, 2.5), rng)
    count, length = rng.integers(1, 4), rng.uniform(0.12, 0.2)
    inside = np.where(cycle < count * 0.25, (cycle % 0.25) / 0.25, 1.0)
    hertz = _log_uniform(rng, 250, 800) * 2 ** (0.5 - inside)
    rough = 1 + 0.5 * _slow_curve(samples, 300, rng)
    return _gate(inside, 4 * length) * rough * _tone(hertz, rng)


def _bird(samples: int, rng: Generator) -> np.ndarray:
    """Bursts of a fast trill, 10 to 25 wiggles of pitch a second."""
    trill = np.sin(2 * np.pi * _cycle(samples, _log_uniform(rng, 10, 25), rng))
    hertz = _log_uniform(rng, 800, 3000) * 2 ** (rng.uniform(0.15, 0.4) * trill)
    return _gate(_cycle(samples, _log_uniform(rng, 0.7, 2.0), rng), rng.uniform(0.4, 0.8)) * _tone(hertz, rng)


def _bell(samples: int, rng: Generator) -> np.ndarray:
    """Strokes of inharmonic partials, sharp attack and long decay."""
    time = np.arange(int(1.5 * SAMPLE_RATE)) / SAMPLE_RATE
    base, out = _log_uniform(rng, 250, 1200), np.zeros(samples)
    partials = base * np.array([0.5, 1.0, 1.19, 1.56, 2.0, 2.66]) * rng.uniform(0.98, 1.02, 6)
    stroke = sum(np.sin(2 * np.pi * hz * time) * np.exp(-time * rng.uniform(2, 6)) for hz in partials)
    for start in (_grid(samples / SAMPLE_RATE, _log_uniform(rng, 0.5, 2.0), rng) * SAMPLE_RATE).astype(int):
        out[start : start + len(time)] += stroke[: samples - start]
    return out


SOUNDS: dict[str, Callable[[int, Generator], np.ndarray]] = {
    "rising_sweep": _rising,
    "clock_tick": _ticks,
    "rain": _rain,
    "falling_sweep": _falling,
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

    Raises ValueError for an unknown kind and for less than 0.1 s, in which no pattern can be heard.
    """
    if kind not in SOUNDS:
        raise ValueError(f"no sound kind {kind!r}; the kinds are {', '.join(SOUNDS)}")
    if seconds < 0.1:
        raise ValueError(f"a sound needs at least 0.1 s, not {seconds}")
    samples = round(seconds * SAMPLE_RATE)
    position = np.arange(samples)
    while True:  # a slow rhythm can have all its events outside the extent: draw again
        start, stop = rng.uniform(0, 0.15) * samples, rng.uniform(0.75, 1.0) * samples
        extent = np.clip(np.minimum(position - start, stop - position) / (0.02 * SAMPLE_RATE), 0, 1)
        wave = extent * SOUNDS[kind](max(samples, SAMPLE_RATE), rng)[:samples]
        peak = np.abs(wave).max()
        if peak > 0.01:
            return (0.5 * wave / peak).astype(np.float32)


# --- voices ------------------------------------------------------------------------------------------------


def _glottal_pulses(phase: np.ndarray, open_share: float) -> np.ndarray:
    """Derivative of the KLGLOTT88 flow 27/4 (x^2 - x^3), x = position in the open part of the period."""
    position = np.minimum(phase % 1 / open_share, 1)
    return np.diff(6.75 * (position**2 - position**3), prepend=0.0)


@dataclass(frozen=True)
class Voice:
    """What stays the same whenever a speaker talks."""

    pitch: float  # mean, hertz
    tract: float  # formant scale: 1 is an adult male tract of about 17 cm, larger is shorter
    formant_offsets: tuple[float, float, float]  # individual factors on the first three formants
    open_share: float  # of the glottal period: low is pressed, high is soft
    breath: float  # level of noise in the voice
    vibrato: float  # depth, octaves
    tempo: float

    @classmethod
    def draw(cls, rng: Generator) -> Voice:
        tract = float(rng.uniform(0.88, 1.25))
        pitch = 105 * 2 ** (2.6 * (tract - 0.9) + 0.25 * rng.standard_normal())  # short tracts speak higher
        return cls(
            pitch=float(np.clip(pitch, 75, 320)),
            tract=tract,
            formant_offsets=tuple(rng.uniform(0.93, 1.07, 3)),
            open_share=float(rng.uniform(0.35, 0.85)),
            breath=_log_uniform(rng, 0.02, 0.3),
            vibrato=float(rng.uniform(0.0, 0.04)),
            tempo=float(rng.uniform(0.8, 1.25)),
        )


# A phoneme is a row of targets: seconds, F1, F2, F3, voicing, noise level, noise centre (hertz).
PHONEMES: dict[str, list[tuple[float, ...]]] = {
    "a": [(0.14, 730, 1090, 2440, 1.0, 0.0, 2000)],
    "e": [(0.13, 530, 1840, 2480, 1.0, 0.0, 2000)],
    "i": [(0.13, 270, 2290, 3010, 0.9, 0.0, 2000)],
    "o": [(0.14, 570, 840, 2410, 1.0, 0.0, 2000)],
    "u": [(0.13, 300, 870, 2240, 0.9, 0.0, 2000)],
    "l": [(0.07, 360, 1300, 2700, 0.5, 0.0, 2000)],
    "w": [(0.07, 290, 610, 2150, 0.5, 0.0, 2000)],
    "m": [(0.08, 250, 1000, 2200, 0.3, 0.0, 2000)],
    "n": [(0.08, 250, 1600, 2600, 0.3, 0.0, 2000)],
    "s": [(0.12, 320, 1390, 2530, 0.0, 0.35, 6000)],
    "S": [(0.12, 300, 1840, 2750, 0.0, 0.45, 3000)],  # as in "ship"
    "f": [(0.11, 340, 1100, 2080, 0.0, 0.12, 4500)],
    "t": [(0.06, 400, 1600, 2600, 0.0, 0.0, 4500), (0.03, 400, 1600, 2600, 0.0, 0.5, 4500)],
    "k": [(0.06, 300, 1990, 2850, 0.0, 0.0, 1800), (0.04, 300, 1990, 2850, 0.0, 0.5, 1800)],
    "d": [(0.05, 300, 1600, 2600, 0.15, 0.0, 3500), (0.02, 350, 1600, 2600, 0.5, 0.3, 3500)],
}

WORDS: dict[str, str] = {  # name: phonemes; in pairs that swap their syllables
    "sami": "sami", "misa": "misa", "talo": "talo", "lota": "lota", "keno": "keno", "neko": "neko",
    "shuli": "Suli", "lishu": "liSu", "wamo": "wamo", "mowa": "mowa", "fedi": "fedi", "defi": "defi",
}  # fmt: skip


def speak(voice: Voice, phonemes: str, seconds: float, rng: Generator) -> np.ndarray:
    """Says `phonemes` (keys of `PHONEMES`, a space is a pause) once, float32 [S], peak 0.5.

    The utterance starts after a random pause and is cut at `seconds`. Pitch contour, tempo and articulation
    vary from utterance to utterance; what is in `voice` does not.
    """
    pause = (0.12, 500.0, 1500.0, 2500.0, 0.0, 0.0, 2000.0)
    rows = [pause] + [row for p in phonemes for row in PHONEMES.get(p, [pause])] + [pause]
    targets = np.array(rows)
    tempo = voice.tempo * np.exp(0.12 * rng.standard_normal())
    lengths = targets[:, 0] / tempo * np.exp(0.12 * rng.standard_normal(len(targets)))
    lengths[0] = rng.uniform(0.02, max(0.03, min(0.3, seconds - lengths[1:-1].sum())))
    ends = np.cumsum(lengths)
    # A target is held over the middle half of its segment; the glide from one to the next is coarticulation.
    knots = np.stack([ends - 0.75 * lengths, ends - 0.25 * lengths], axis=1).ravel()
    samples = max(1, round(seconds * SAMPLE_RATE))
    frames = _frames_of(samples)
    columns = np.repeat(targets[:, 1:], 2, axis=0).T
    at = np.arange(frames) * HOP / SAMPLE_RATE
    f1, f2, f3, voicing, hiss, centre = (np.interp(at, knots, column) for column in columns)

    scale = voice.tract * np.array(voice.formant_offsets) * np.exp(0.03 * rng.standard_normal(3))
    gain = np.ones((frames, len(FRAME_HZ)))
    formants = [(f1 * scale[0], 70), (f2 * scale[1], 100), (f3 * scale[2], 150)]
    formants += [(np.full(frames, hz * voice.tract), 250) for hz in (3500, 4500, 5500)]
    for hz, width in formants:
        square = (hz**2)[:, None]
        gain *= square / np.sqrt((FRAME_HZ**2 - square) ** 2 + (width * FRAME_HZ) ** 2 + 1)

    time = np.arange(samples) / SAMPLE_RATE
    octaves = 0.12 * rng.standard_normal() + rng.uniform(-0.5, 0.2) * time / max(seconds, 1.0)
    octaves = octaves + 0.06 * _slow_curve(samples, 3, rng) + 0.008 * _slow_curve(samples, 80, rng)  # jitter
    octaves = octaves + voice.vibrato * np.sin(2 * np.pi * 5.5 * time + rng.uniform(0, 6.3))
    pulses = _glottal_pulses(np.cumsum(voice.pitch * 2**octaves) / SAMPLE_RATE, voice.open_share)
    pulses = pulses / (pulses.std() + 1e-9)
    noise = rng.standard_normal(samples)
    voiced = _shape_frames(pulses + voice.breath * noise, gain * voicing[:, None])
    wave = voiced + _shape_frames(noise, _band_gain(centre * voice.tract**0.5, 1.2) * 2.0 * hiss[:, None])
    return (0.5 * wave / (np.abs(wave).max() + 1e-9)).astype(np.float32)


def babble(voice: Voice, seconds: float, rng: Generator) -> np.ndarray:
    """Connected speech without meaning: words of `WORDS` in random order with pauses, float32 [S]."""
    words = rng.choice(list(WORDS.values()), size=2 + int(3 * seconds))
    return speak(voice, " ".join(words), seconds, rng)


# --- recording: what a classifier has to ignore ------------------------------------------------------------


def record(dry: np.ndarray, rng: Generator, *, place: Generator, strength: float = 1.0) -> np.ndarray:
    """`dry` [S] through an equaliser and a room, with noise and at some level; float32 [S], peak below 1.

    `place` draws what takes of one session share (equaliser, room, colour of the noise), `rng` what they do
    not (the noise itself, its level, the clip's level). `strength` 0 to 1 scales equaliser and room.
    """
    samples = len(dry)
    length = samples + SAMPLE_RATE // 2
    hertz = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 30)
    knots = np.geomspace(60, 8000, 7)
    curve_db = strength * (4 * place.standard_normal(7) + place.uniform(-3, 3) * np.arange(-3, 4))
    gain = 10 ** (np.interp(np.log(hertz), np.log(knots), curve_db) / 20)
    decay = 6.9 / place.uniform(0.15, 0.8)  # 60 dB in that many seconds
    tail = place.standard_normal(SAMPLE_RATE // 2) * np.exp(
        -decay * np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    )
    tail *= strength * place.uniform(0.05, 0.8) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    wet = np.fft.irfft(np.fft.rfft(dry, length) * np.fft.rfft(tail, length) * gain, length)[:samples]
    noise = _coloured_noise(samples, place.uniform(-7, 0), rng)
    if samples >= SAMPLE_RATE:
        noise = noise * np.exp(0.3 * _slow_curve(samples, 1.0, rng))
    snr_db = rng.uniform(6, 30)
    loud = np.sqrt(np.mean(wet**2)) + 1e-9
    wave = wet / loud + 10 ** (-snr_db / 20) * noise
    return (10 ** (rng.uniform(-24, -1) / 20) * wave / np.abs(wave).max()).astype(np.float32)


def _write(path: Path, wave: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")


# --- data sets ---------------------------------------------------------------------------------------------


def write_esc50(
    folder: str | Path,
    *,
    clips_per_class: int = 40,
    classes: int = 10,
    folds: int = 5,
    seconds: float = 5.0,
    seed: int = 0,
) -> None:
    """Writes `audio/{fold}-{clip}-{take}-{target}.wav` and `meta/esc50.csv`.

    As in ESC-50, one source gives one or two takes, which share a room and stay in one fold; folds are
    balanced. The first ten classes carry `esc10`. At most `len(SOUNDS)` classes.
    """
    if not 1 <= classes <= len(SOUNDS):
        raise ValueError(f"classes must be 1 to {len(SOUNDS)}, not {classes}")
    folder, rows = Path(folder), []
    for target, kind in enumerate(list(SOUNDS)[:classes]):
        for index in range(clips_per_class):
            fold, within = 1 + index % folds, index // folds
            # Every second source has two takes: within = 0 | 1, 2 | 3 | 4, 5 | ...
            source, take = (within - 1, "B") if within % 3 == 2 else (within, "A")
            clip = 100_000 + (target * folds + fold - 1) * 10_000 + source
            rng = generator(seed, "esc50", kind, fold, source, take)
            dry = sound(kind, seconds, rng)
            if rng.random() < 0.3:
                other = str(rng.choice(list(SOUNDS)))
                dry = dry + 10 ** (-rng.uniform(8, 16) / 20) * sound(other, seconds, rng)
            name = f"{fold}-{clip}-{take}-{target}.wav"
            place = generator(seed, "esc50-place", kind, fold, source)
            _write(folder / "audio" / name, record(dry, rng, place=place))
            rows.append([name, fold, target, kind, target < 10, clip, take])
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        table.writerows(sorted(rows))


def which_set(filename: str, validation_percent: float = 10.0, testing_percent: float = 10.0) -> str:
    """`training`, `validation` or `testing`: the split rule in the Speech Commands README.

    What precedes `_nohash_` names the speaker; the SHA-1 of that name, as a number modulo 2^27, is a
    percentage. A speaker is therefore in one split, whatever files are added later.
    """
    speaker = re.sub(r"_nohash_.*$", "", Path(filename).name)
    bucket = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27
    percent = bucket * 100.0 / (2**27 - 1)
    if percent < validation_percent:
        return "validation"
    return "testing" if percent < validation_percent + testing_percent else "training"


def _speaker_hashes(count: int, seed: int) -> list[str]:
    """`count` names, about 15 % of them for validation and testing each and at least one, by `which_set`."""
    held_out = max(1, round(0.15 * count))
    free = {"validation": held_out, "testing": held_out, "training": count - 2 * held_out}
    names: list[str] = []
    attempt = 0
    while len(names) < count:
        name = hashlib.sha256(f"{seed}/speaker/{attempt}".encode()).hexdigest()[:8]
        attempt += 1
        if free[which_set(name)]:
            free[which_set(name)] -= 1
            names.append(name)
    return names


def write_speech_commands(
    folder: str | Path,
    *,
    words: int = 10,
    speakers: int = 30,
    takes: int = 2,
    seconds: float = 1.0,
    noise_seconds: float = 10.0,
    seed: int = 0,
) -> None:
    """Writes `<word>/<speaker>_nohash_<take>.wav`, `_background_noise_/` and the two list files.

    Every speaker says every word `takes` times: words x speakers x takes clips. Speaker names are drawn so
    that each split has speakers (at least three are needed), and the lists follow `which_set`.
    """
    if speakers < 3 or not 1 <= words <= len(WORDS):
        raise ValueError(f"need at least 3 speakers and 1 to {len(WORDS)} words, not {speakers} and {words}")
    folder = Path(folder)
    lists: dict[str, list[str]] = {"training": [], "validation": [], "testing": []}
    for speaker in _speaker_hashes(speakers, seed):
        voice = Voice.draw(generator(seed, "speech-commands-voice", speaker))
        for word in list(WORDS)[:words]:
            for take in range(takes):
                rng = generator(seed, "speech-commands", speaker, word, take)
                name = f"{word}/{speaker}_nohash_{take}.wav"
                _write(
                    folder / name,
                    record(speak(voice, WORDS[word], seconds, rng), rng, place=rng, strength=0.6),
                )
                lists[which_set(name)].append(name)
    for split in ("validation", "testing"):
        (folder / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in sorted(lists[split])))
    noise_samples = round(noise_seconds * SAMPLE_RATE)
    rng = generator(seed, "background-noise")
    noises = {
        "white_noise": _coloured_noise(noise_samples, 0, rng),
        "pink_noise": _coloured_noise(noise_samples, -3, rng),
    }
    noises |= {
        "running_tap": sound("rain", noise_seconds, rng),
        "exercise_bike": sound("engine", noise_seconds, rng),
    }
    for name, wave in noises.items():
        _write(folder / "_background_noise_" / f"{name}.wav", 0.3 * wave / np.abs(wave).max())


def write_voxceleb1(
    folder: str | Path,
    *,
    speakers: int = 20,
    sessions: int = 5,
    utterances: int = 4,
    seconds: float = 3.0,
    seed: int = 0,
) -> None:
    """Writes `wav/idXXXXX/<session>/NNNNN.wav`, `iden_split.txt` and `vox1_meta.csv` (tab separated).

    Ids start at id10001. A session is a room and a channel. The last session of a speaker is test (3), the
    one before it dev (2), the others train (1), so no session crosses the splits; at least three are needed.
    """
    if sessions < 3:
        raise ValueError(f"need at least 3 sessions (train, dev, test), not {sessions}")
    folder, split_lines, meta = Path(folder), [], ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for number in range(speakers):
        speaker = f"id{10_001 + number}"
        voice = Voice.draw(generator(seed, "voxceleb1-voice", speaker))
        meta.append(f"{speaker}\tSynthetic_{number + 1:03d}\t{'f' if voice.tract > 1.06 else 'm'}\t-\tdev")
        for session in range(sessions):
            split = {sessions - 1: 3, sessions - 2: 2}.get(session, 1)
            session_name = generator(seed, "voxceleb1-session", speaker, session).bytes(6).hex()[:11]
            for utterance in range(1, utterances + 1):
                rng = generator(seed, "voxceleb1", speaker, session, utterance)
                place = generator(seed, "voxceleb1-place", speaker, session)
                wave = record(babble(voice, seconds, rng), rng, place=place, strength=0.4)
                name = f"{speaker}/{session_name}/{utterance:05d}.wav"
                _write(folder / "wav" / name, wave)
                split_lines.append(f"{split} {name}")
    (folder / "iden_split.txt").write_text("\n".join(split_lines) + "\n")
    (folder / "vox1_meta.csv").write_text("\n".join(meta) + "\n")


def write_unlabelled(folder: str | Path, *, clips: int = 400, seconds: float = 10.0, seed: int = 0) -> None:
    """Writes `clip_NNNNNN.wav` for pre-training: a third speech, the rest sounds, one to three to a clip.

    All kinds of sound and word occur; no voice, room or instance of the labelled sets does, even for the
    same seed, because the generators are derived from another name.
    """
    samples = round(seconds * SAMPLE_RATE)
    for index in range(clips):
        rng = generator(seed, "unlabelled", index)
        mix = np.zeros(samples, dtype=np.float32)
        for _ in range(rng.integers(1, 4)):
            part = rng.uniform(min(1.0, seconds), seconds)
            speech = rng.random() < 1 / 3
            wave = (
                babble(Voice.draw(rng), part, rng)
                if speech
                else sound(str(rng.choice(list(SOUNDS))), part, rng)
            )
            start = int(rng.integers(0, samples - len(wave) + 1))
            mix[start : start + len(wave)] += _log_uniform(rng, 0.2, 1.0) * wave
        _write(Path(folder) / f"clip_{index:06d}.wav", record(mix, rng, place=rng))
