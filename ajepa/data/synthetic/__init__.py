"""Synthetic audio for demonstrations and tests, in the on-disk layouts of real data sets.

Two families of signals, both made from a seed alone:

* Environmental sounds, `sound(kind, seconds, rng)`. Kinds that share a spectrum differ in their temporal
  structure: rising or falling sweeps, even ticks or random crackle. `record` then adds what a classifier must
  ignore: an equaliser, reverberation, coloured noise, a level, a distractor. Statistics of a spectrogram over
  time therefore solve part of the task; the rest needs order and rhythm.
* Words, `speak(voice, word, seconds, rng)`, in pairs of swapped syllables. A `Voice` is the speaker: vocal
  tract length, pitch and voice quality.

Each clip has a generator derived from (seed, data set, class, index): its samples depend neither on earlier
clips nor on the process. Waveforms are mono float, 16 kHz, shape [S].
"""

from .layouts import (
    which_set,
    write_esc50,
    write_events,
    write_speech_commands,
    write_unlabelled,
    write_voxceleb1,
)
from .rooms import record
from .signals import SAMPLE_RATE, generator
from .sounds import SOUNDS, sound
from .voices import PHONEMES, WORDS, Voice, babble, speak

__all__ = [
    "PHONEMES",
    "SAMPLE_RATE",
    "SOUNDS",
    "WORDS",
    "Voice",
    "babble",
    "generator",
    "record",
    "sound",
    "speak",
    "which_set",
    "write_esc50",
    "write_events",
    "write_speech_commands",
    "write_unlabelled",
    "write_voxceleb1",
]
