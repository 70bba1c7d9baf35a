"""Synthetic audio for demonstrations and tests, in the on-disk layouts of real data sets.

Two families of signals, both made from nothing but a seed:

* Environmental sounds, `sound(kind, seconds, rng)`. Kinds that share a spectrum differ in their temporal
  structure: rising against falling sweeps, evenly spaced ticks against random crackle. `record` then hides
  them behind what a classifier must ignore: equaliser, reverberation, coloured noise, level, a distractor.
  Statistics of a spectrogram over time therefore solve the task in part, order and rhythm solve the rest.
* Words, `speak(voice, word, seconds, rng)`, in pairs of swapped syllables. A `Voice` is the speaker: vocal
  tract length, pitch and voice quality.

Each clip draws from a generator derived from (seed, data set, class, index), so its samples do not depend on
what was generated before it or in which process. Waveforms are mono float, 16 kHz, shape [S].
"""

from .layouts import which_set, write_esc50, write_speech_commands, write_unlabelled, write_voxceleb1
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
    "write_speech_commands",
    "write_unlabelled",
    "write_voxceleb1",
]
