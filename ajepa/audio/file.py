"""One audio file: its header, and its samples as mono float32 blocks at any rate.

Files are read through libsndfile (soundfile) in blocks, mixed down (mean of the channels) block by block
and resampled by soxr as a stream: decoding an hour of 44.1 kHz stereo needs little more memory than its
16 kHz mono result. Only the requested part of a file is decoded. Shape suffix: S samples.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from ajepa.errors import AjepaError

from .containers import Rewrite, examine
from .source import AudioBytes, AudioSource, byte_size, open_bytes

REMOVE = "remove it or pass --skip-broken"  # the remedy for an unusable file

_BLOCK = 65_536  # source samples decoded at a time: 0.5 MB for stereo
# Context on each side of a part before resampling, in samples of the lower of the two rates. The soxr HQ
# filter is shorter: from 160 samples on, parts agree with the resampled whole to 2e-7.
_MARGIN = 320
_UNDECLARED = 2**63 - 1  # libsndfile's SF_COUNT_MAX: a FLAC encoder that wrote to a pipe


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


@dataclass(frozen=True)
class AudioFile:
    """A file whose header was read.

    Each reading opens the file again: libsndfile's Vorbis decoder keeps state across a seek, and a second
    part read through the same handle can come from the wrong place.
    """

    path: AudioSource
    rate: int
    channels: int
    samples: int | None  # None where only decoding to the end can tell
    seek_limit: int | None  # seek no further, decode up to there
    may_end_early: bool  # ending before `samples` is no error
    rewrite: Rewrite | None  # what the decoder gets in place of the file

    def length(self, sample_rate: int) -> int | None:
        """Samples after resampling, None where only decoding to the end can tell."""
        if self.samples is None:
            return None
        return resampled_length(self.samples, self.rate, sample_rate)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Mono float32 blocks of the source samples [first, stop), at the file's rate."""
        stop = self.samples if stop is None else stop
        position = first if self.seek_limit is None else min(first, self.seek_limit)
        try:
            with self._decoder() as file:
                if position:
                    file.seek(position)
                while stop is None or position < stop:
                    wanted = _BLOCK if stop is None else min(_BLOCK, stop - position)
                    block = file.read(wanted, dtype="float32", always_2d=True)
                    if len(block) == 0:
                        break
                    if not np.isfinite(block).all():
                        seconds = position / self.rate
                        raise AudioError.of(
                            self.path, f"NaN or infinite samples after {seconds:.2f} s; {REMOVE}"
                        )
                    yield _mono(block[max(0, first - position) :])
                    position += len(block)
        except soundfile.LibsndfileError as error:
            raise self._cut(position, error.error_string) from error
        except OSError as error:
            raise AudioError.of(self.path, f"cannot be read ({error}); {REMOVE}") from error
        if stop is not None and position < stop and not self.may_end_early:
            raise self._cut(position, "the data ends there")

    @contextmanager
    def _decoder(self) -> Iterator[soundfile.SoundFile]:
        if self.rewrite is not None:
            with _piped(self.path, self.rewrite) as pipe, _Sequential(pipe, closefd=False) as file:
                yield file
        else:
            kind = _Sequential if self.samples is None else soundfile.SoundFile
            with _decodable(self.path) as data, kind(data) as file:
                yield file

    def _cut(self, position: int, reason: str) -> AudioError:
        at = position / self.rate
        declared = f" of {self.samples / self.rate:.2f} s" if self.samples else ""
        return AudioError.of(
            self.path, f"truncated or damaged after {at:.2f} s{declared} ({reason}); {REMOVE}"
        )

    def whole(self, sample_rate: int) -> np.ndarray:
        """Everything, resampled: [S], S > 0."""
        length = self.length(sample_rate)
        if length is None:
            chunks = list(_resampled(self.blocks(), self.rate, sample_rate))
            waveform_S = np.concatenate([np.empty(0, dtype=np.float32), *chunks])
        else:
            waveform_S = self.read(0, length, sample_rate)
        if waveform_S.size == 0:
            raise AudioError.of(self.path, f"0 samples after decoding; {REMOVE}")
        return waveform_S

    def read(self, first: int, stop: int, sample_rate: int) -> np.ndarray:
        """Samples [first, stop), stop <= length(), of the file resampled to `sample_rate`."""
        if first >= stop:
            return np.empty(0, dtype=np.float32)
        # `source_step` source samples last as long as `target_step` resampled ones. A part that begins on
        # such a step finds the resampler in the same phase as the whole does.
        common = math.gcd(self.rate, sample_rate)
        source_step, target_step = self.rate // common, sample_rate // common
        margin = 0 if self.rate == sample_rate else math.ceil(_MARGIN / min(source_step, target_step))
        first_step = max(0, first // target_step - margin)
        stop_step = math.ceil(stop / target_step) + margin
        blocks = self.blocks(first_step * source_step, min(stop_step * source_step, self.samples or 0))
        out_S = np.empty(stop - first, dtype=np.float32)
        position = first_step * target_step - first  # of the next resampled sample within out_S
        for chunk in _resampled(blocks, self.rate, sample_rate):
            begin, end = max(position, 0), min(position + len(chunk), len(out_S))
            if begin < end:
                out_S[begin:end] = chunk[begin - position : end - position]
            position += len(chunk)
        return out_S[: max(position, 0)]


def inspect_file(path: AudioSource) -> AudioFile:
    """Read a file's header and look for missing data; AudioError says why it cannot be used."""
    if not isinstance(path, AudioBytes):
        if not Path(path).exists():
            raise AudioError.of(path, "no such file; check the path")
        if Path(path).is_dir():
            raise AudioError.of(path, "is a folder, not a file; find_audio lists the files in it")
    if byte_size(path) == 0:
        raise AudioError.of(path, f"0 bytes; {REMOVE}")
    try:
        with _decodable(path) as data, soundfile.SoundFile(data) as file:
            findings = examine(path, file)
    except soundfile.LibsndfileError as error:
        raise AudioError.of(path, f"not readable as audio ({error.error_string}); {REMOVE}") from error
    except OSError as error:
        raise AudioError.of(path, f"cannot be read ({error}); {REMOVE}") from error
    if findings.missing:
        raise AudioError.of(path, f"truncated: {findings.missing}; copy it again, {REMOVE}")
    return AudioFile(
        path,
        file.samplerate,
        file.channels,
        samples=None if findings.rewrite or file.frames == _UNDECLARED else file.frames,
        seek_limit=findings.seek_limit,
        # Tools that cut an MP3 leave its tag unchanged.
        may_end_early=file.format == "MP3",
        rewrite=findings.rewrite,
    )


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """What soxr gives: rounded, halves up."""
    return (2 * samples * target_rate + source_rate) // (2 * source_rate)


def _mono(block: np.ndarray) -> np.ndarray:
    """Mean over the channels.

    One add per channel is ten times as fast as numpy's mean over a short axis. Unlike a matrix product it
    rounds a sample the same way wherever its block begins.
    """
    if block.shape[1] == 1:
        return block[:, 0]
    total = block[:, 0] + block[:, 1]
    for channel in range(2, block.shape[1]):
        total += block[:, channel]
    return total * np.float32(1 / block.shape[1])


def _resampled(blocks: Iterable[np.ndarray], rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """`blocks` at `sample_rate`, in pieces with other borders."""
    if rate == sample_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


class _Sequential(soundfile.SoundFile):
    """Leaves out soundfile's seek after each read, which fails at the end of a file of undeclared length."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _decodable(source: AudioSource) -> Iterator[str | os.PathLike[str] | BinaryIO]:
    """What soundfile opens: a path, which libsndfile reads, or a Python file."""
    if isinstance(source, AudioBytes):
        with source.for_decoder() as data:
            yield data
    else:
        yield source


@contextmanager
def _piped(source: AudioSource, rewrite: Rewrite) -> Iterator[int]:
    """The reading end of a pipe that a thread fills with the rewritten file.

    A failure looks like the end of the file to the reader; its error is raised when the context exits.
    """
    reading, writing = os.pipe()
    failures: list[Exception] = []

    def feed() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe, open_bytes(source) as file:
                pipe.write(rewrite.head)
                file.seek(rewrite.offset)
                shutil.copyfileobj(file, pipe)
        except BrokenPipeError:  # the reader stopped before the end
            pass
        except Exception as error:
            failures.append(error)

    feeder = Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield reading
    finally:
        os.close(reading)
        feeder.join()
        if failures:
            raise failures[0]
