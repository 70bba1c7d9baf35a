"""What is wrong with audio, and the bounds of what is read."""

from __future__ import annotations

import os

from ajepa.errors import AjepaError

from .source import AudioBytes, AudioSource

REMOVE = "remove it"  # the remedy for an unusable file; commands that can skip it say so too

# What a header says is checked before it is used: a rate of 1 Hz would make gigabytes of a short file.
RATES = (1_000, 1_000_000)  # Hz
LONGEST_SECONDS = 48 * 3600
LOUDEST = 1e4  # of full scale; float files of measuring devices and broken ones reach 1e38


class AudioError(AjepaError, ValueError):
    """Audio that cannot be used. The message starts with the path, which is also in `path`.

    One positional argument only, so that a DataLoader worker can hand it on as what it is.
    """

    def __init__(self, message: str, *, path: str | os.PathLike[str] = ""):
        super().__init__(message)
        self.path = path

    @classmethod
    def of(cls, path: AudioSource, problem: str) -> AudioError:
        return cls(f"{path}: {problem}", path=path.name if isinstance(path, AudioBytes) else path)


class DecoderError(AjepaError, RuntimeError):
    """A decoder cannot go on; the message is its own."""


class AudioWarning(UserWarning):
    """Audio that can be used, but probably not as it was meant."""


def check_target(sample_rate: int) -> None:
    """Raises ValueError for a sample rate to which nothing is resampled: soxr crashes at absurd ones."""
    if not 1 <= sample_rate <= RATES[1]:
        raise ValueError(f"sample_rate is {sample_rate} Hz, must be from 1 to {RATES[1]:,}")


def check_rate(path: AudioSource, rate: int) -> None:
    """Raises AudioError for a sample rate that no recording has."""
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError.of(path, f"its sample rate is {rate} Hz, not {RATES[0]:,} to {RATES[1]:,}; {REMOVE}")


def check_length(path: AudioSource, samples: int, rate: int) -> None:
    """Raises AudioError for audio that is longer than is read at once."""
    if samples > LONGEST_SECONDS * rate:
        hours, most = samples / rate / 3600, LONGEST_SECONDS // 3600
        raise AudioError.of(path, f"lasts {hours:,.0f} hours, more than {most}; cut it or {REMOVE}")
