"""Words and connected speech: a source-filter synthesiser.

The source is the glottal pulse of Klatt & Klatt 1990 (KLGLOTT88, "Analysis, synthesis, and perception of
voice quality variations", JASA 87), the formant targets are in the range of Peterson & Barney 1952.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .signals import (
    FRAME_HZ,
    HOP,
    SAMPLE_RATE,
    band_gain,
    frames_of,
    glottal_pulses,
    log_uniform,
    shape_frames,
    slow_curve,
)


@dataclass(frozen=True)
class Voice:
    """What stays the same in all utterances of a speaker."""

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
            breath=log_uniform(rng, 0.02, 0.3),
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
    vary between utterances; `voice` stays the same.
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
    frames = frames_of(samples)
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
    octaves = octaves + 0.06 * slow_curve(samples, 3, rng) + 0.008 * slow_curve(samples, 80, rng)  # jitter
    octaves = octaves + voice.vibrato * np.sin(2 * np.pi * 5.5 * time + rng.uniform(0, 6.3))
    pulses = glottal_pulses(np.cumsum(voice.pitch * 2**octaves) / SAMPLE_RATE, voice.open_share)
    pulses = pulses / (pulses.std() + 1e-9)
    noise = rng.standard_normal(samples)
    voiced = shape_frames(pulses + voice.breath * noise, gain * voicing[:, None])
    wave = voiced + shape_frames(noise, band_gain(centre * voice.tract**0.5, 1.2) * 2.0 * hiss[:, None])
    return (0.5 * wave / (np.abs(wave).max() + 1e-9)).astype(np.float32)


def babble(voice: Voice, seconds: float, rng: Generator) -> np.ndarray:
    """Connected speech without meaning: words of `WORDS` in random order with pauses, float32 [S]."""
    words = rng.choice(list(WORDS.values()), size=2 + int(3 * seconds))
    return speak(voice, " ".join(words), seconds, rng)
