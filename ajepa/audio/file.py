"""One audio file: its header, and its samples as mono float32 blocks at any rate.

libsndfile and FFmpeg decode block by block (`ajepa.audio.sndfile`, `ajepa.audio.ffmpeg`); a block is mixed
down (mean of the channels) and resampled by soxr as a stream: decoding an hour of 44.1 kHz stereo needs
little more memory than its 16 kHz mono result. Nothing is allocated by what a header says. Shape suffixes: S
samples, X channels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

from . import ffmpeg, isolated, sndfile
from .errors import (
    LOUDEST,
    REMOVE,
    AudioError,
    AudioWarning,
    DecoderError,
    check_length,
    check_rate,
    check_target,
)
from .source import AudioBytes, AudioSource, byte_size, open_bytes

__all__ = ["REMOVE", "AudioError", "AudioFile", "inspect_file", "resampled_length"]

# Context on each side of a part before resampling, in samples of the lower of the two rates. The soxr HQ
# filter is shorter: from 160 samples on, parts agree with the resampled whole to 2e-7.
_MARGIN = 320
# The mix of channels in opposite phase: its power is this share of the channels', 20 dB below.
_CANCELLED = 0.01
# How much earlier than its header says the audio of a container may end: a share, and seconds.
_SHORTER, _SHORTER_SECONDS = 0.01, 0.1


class Decoder(Protocol):
    """How the samples of a file are decoded."""

    def samples(self, first: int) -> Iterator[np.ndarray]:
        """Blocks [S, X] float32 from the sample `first` on, to the end; DecoderError if it fails."""


@dataclass(frozen=True)
class AudioFile:
    """A file whose header was read and whose beginning was decoded."""

    path: AudioSource
    rate: int
    channels: int
    samples: int | None  # None where only decoding to the end can tell
    seconds: float | None  # what a header declares that is not exact to the sample
    may_end_early: bool  # ending before `samples` is no error
    decoder: Decoder

    def length(self, sample_rate: int) -> int | None:
        """Samples after resampling, None where only decoding to the end can tell."""
        if self.samples is None:
            return None
        return resampled_length(self.samples, self.rate, sample_rate)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Mono float32 blocks of the source samples [first, stop), at the file's rate."""
        stop = self.samples if stop is None else stop
        if stop is not None and first >= stop:
            return
        position, levels = first, _Levels()
        try:
            for decoded_SX in self.decoder.samples(first):
                block_SX = decoded_SX if stop is None else decoded_SX[: stop - position]
                # NaN is neither; without copies of the block.
                if not (block_SX.max() <= LOUDEST and block_SX.min() >= -LOUDEST):
                    raise AudioError.of(self.path, f"{self._extreme(block_SX, position)}; {REMOVE}")
                mono_S = _mono(block_SX)
                levels.add(block_SX, mono_S)
                yield mono_S
                position += len(block_SX)
                check_length(self.path, position, self.rate)
                if position == stop:
                    break
        except DecoderError as error:
            raise self._cut(position, str(error)) from error
        except OSError as error:
            raise AudioError.of(self.path, f"cannot be read ({error}); {REMOVE}") from error
        if stop is not None and position < stop and not self.may_end_early:
            if self.samples is not None or self._is_short(position):
                raise self._cut(position, "the data ends there")
        elif stop is None and self._is_short(position):
            raise self._cut(position, "the data ends there")
        levels.tell(self.path)

    def _is_short(self, position: int) -> bool:
        declared = self.seconds or 0.0
        return position / self.rate < declared * (1 - _SHORTER) - _SHORTER_SECONDS

    def _extreme(self, block_SX: np.ndarray, position: int) -> str:
        at = position / self.rate
        if not np.isfinite(block_SX).all():
            return f"NaN or infinite samples after {at:.2f} s"
        peak = float(np.abs(block_SX).max())
        return f"a sample of {peak:.2g} times full scale after {at:.2f} s, more than {LOUDEST:g}"

    def _cut(self, position: int, reason: str) -> AudioError:
        at, length = position / self.rate, self.seconds
        if self.samples is not None:
            length = self.samples / self.rate
        declared = f" of {length:.2f} s" if length else ""
        return AudioError.of(
            self.path, f"truncated or damaged after {at:.2f} s{declared} ({reason}); {REMOVE}"
        )

    def whole(self, sample_rate: int) -> np.ndarray:
        """Everything, resampled: [S], S > 0."""
        return _collected(self.stream(0, None, sample_rate))

    def read(self, first: int, stop: int | None, sample_rate: int) -> np.ndarray:
        """Samples [first, stop), fewer where the file ends, of the file resampled to `sample_rate`."""
        if stop is not None and first >= stop:
            return np.empty(0, dtype=np.float32)
        return _collected(self.stream(first, stop, sample_rate))

    def stream(self, first: int, stop: int | None, sample_rate: int) -> Iterator[np.ndarray]:
        """The same in blocks, at least one sample in all; without `stop` to the end of the file."""
        check_target(sample_rate)
        stop = self.length(sample_rate) if stop is None else stop
        # `source_step` source samples last as long as `target_step` resampled ones. A part that begins on
        # such a step finds the resampler in the same phase as the whole does.
        common = math.gcd(self.rate, sample_rate)
        source_step, target_step = self.rate // common, sample_rate // common
        margin = 0 if self.rate == sample_rate else math.ceil(_MARGIN / min(source_step, target_step))
        first_step = max(0, first // target_step - margin)
        end = self.samples
        if stop is not None:
            last = (math.ceil(stop / target_step) + margin) * source_step
            end = last if end is None else min(last, end)
        position = first_step * target_step  # of the next resampled sample
        for chunk in _resampled(self.blocks(first_step * source_step, end), self.rate, sample_rate):
            wanted = slice(max(0, first - position), len(chunk) if stop is None else max(0, stop - position))
            position += len(chunk)
            if len(part := chunk[wanted]):
                yield part
        if position == 0:
            raise AudioError.of(self.path, f"0 samples after decoding; {REMOVE}")


def inspect_file(path: AudioSource) -> AudioFile:
    """Read a file's header and its first samples; AudioError says why it cannot be used."""
    try:
        if not isinstance(path, AudioBytes):
            if not Path(path).exists():
                raise AudioError.of(path, "no such file; check the path")
            if Path(path).is_dir():
                raise AudioError.of(path, "is a folder, not a file; find_audio lists the files in it")
        if byte_size(path) == 0:
            raise AudioError.of(path, f"0 bytes; {REMOVE}")
        if isolated.is_isolated():
            return isolated.inspect(path)
        file = _inspected(path)
    except DecoderError as error:
        raise AudioError.of(path, f"not readable as audio ({error}); {REMOVE}") from error
    except OSError as error:
        raise AudioError.of(
            str(path)[:200], f"cannot be read ({error.strerror or error}); {REMOVE}"
        ) from error
    check_rate(path, file.rate)
    if file.samples is not None:
        check_length(path, file.samples, file.rate)
    return file


def _inspected(path: AudioSource) -> AudioFile:
    with open_bytes(path) as file:
        magic = file.read(4)
    if magic in sndfile.MAGIC:
        try:
            decoder, rate, channels, samples = sndfile.inspect(path)
            return AudioFile(path, rate, channels, samples, None, may_end_early=False, decoder=decoder)
        except sndfile.OtherDecoderError:
            pass
    found, channels, samples, seconds = ffmpeg.inspect(path)
    return AudioFile(path, found.rate, channels, samples, seconds, may_end_early=found.mpeg, decoder=found)


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """What soxr gives: rounded, halves up."""
    return (2 * samples * target_rate + source_rate) // (2 * source_rate)


class _Levels:
    """The power of a file's channels and of their mix, for stereo in opposite phase."""

    def __init__(self) -> None:
        self.channels, self.mix = 0.0, 0.0

    def add(self, block_SX: np.ndarray, mono_S: np.ndarray) -> None:
        if block_SX.shape[1] > 1:
            flat = block_SX.ravel()
            self.channels += float(np.vdot(flat, flat)) / block_SX.shape[1]
            self.mix += float(np.vdot(mono_S, mono_S))

    def tell(self, path: AudioSource) -> None:
        if self.mix < _CANCELLED * self.channels:
            warnings.warn(
                f"{path}: its channels cancel each other (opposite phase): their mean is 20 dB or more below "
                "them; invert one of them",
                AudioWarning,
                stacklevel=2,
            )


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


def _collected(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """One array of all blocks, which grows with what is decoded."""
    whole_S, size = np.empty(0, dtype=np.float32), 0
    for block_S in blocks:
        if size + len(block_S) > len(whole_S):
            whole_S.resize(max(size + len(block_S), len(whole_S) * 3 // 2), refcheck=False)
        whole_S[size : size + len(block_S)] = block_S
        size += len(block_S)
    whole_S.resize(size, refcheck=False)
    return whole_S
