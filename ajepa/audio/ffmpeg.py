"""Files that FFmpeg reads, through PyAV: MP3, AAC, MP4, WebM and Matroska, AMR, 3GP, WMA, chained Ogg.

FFmpeg decodes from the start, since most of these codings carry state from frame to frame and their
containers' times are too coarse for single samples. MP3 is the exception: the samples of each frame are
known without decoding it, so that decoding begins shortly before a part. Shape suffixes: S samples, X
channels.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .containers import missing_mp3
from .errors import REMOVE, AudioError, AudioWarning, DecoderError
from .source import AudioBytes, AudioSource, open_bytes

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

# FFmpeg knows hundreds of containers and codings, and some containers that name other files or addresses.
# These are opened, and nothing else.
CONTAINERS = "mp3,aac,mov,matroska,ogg,asf,amr,amrnb,amrwb,caf,flac,wav,w64,aiff,au,avi,ac3,eac3"
CODINGS = (
    "mp3float,mp3,mp2float,mp2,mp1float,mp1,aac,alac,opus,libopus,vorbis,flac,ac3,eac3,"
    "amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,wmav1,wmav2,wmapro,wmalossless,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_f32le,pcm_f64le,pcm_u8,pcm_alaw,pcm_mulaw,"
    "adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,gsm,gsm_ms"
)
_MPEG = ("mp3float", "mp3", "mp2float", "mp2", "mp1float", "mp1")
# Of these the header states the length; elsewhere FFmpeg extrapolates from the bit rate.
_DECLARING = ("mov", "matroska", "asf", "caf")
_UNDECLARING = ("aac", "amr", "amrnb", "amrwb", "ac3", "eac3")
# Frames decoded before a part of an MP3 and dropped. A frame takes bits from up to 511 bytes before it, which
# are 23 frames at 8 kbit/s, and overlaps with the one before.
_PREROLL = 32
_DAMAGED_FRAMES = 64  # in a row: no MP3 any more
_SILENT = 0.02  # share of an MP3 that may be lost without a word, as at the borders of joined files
_BLOCK = 65_536  # samples given at a time


@dataclass(frozen=True)
class FFmpegFile:
    """How to decode a file; `mpeg`: its frames can be counted without decoding."""

    path: AudioSource
    rate: int
    mpeg: bool

    def samples(self, first: int) -> Iterator[np.ndarray]:
        """Blocks [S, X] from the sample `first` on; AudioError where the data are damaged."""
        with _opened(self.path) as (container, stream):
            if self.mpeg:
                blocks = self._mpeg(container, stream, first)
            else:
                blocks = self._others(container, stream, first)
            yield from _joined(blocks)

    def _others(self, container: Any, stream: Any, first: int) -> Iterator[np.ndarray]:
        position, failure = 0, None
        for packet in container.demux(stream):
            if failure is not None and packet.size:
                raise failure
            try:
                block_SX = self._decode(packet)
            except DecoderError as error:
                # Where nothing declares a length, a stream may end within a frame.
                failure = error
                continue
            position += len(block_SX)
            if position > first:
                yield block_SX[max(0, len(block_SX) - (position - first)) :]
        if failure is not None and container.format.name not in _UNDECLARING:
            raise failure

    def _mpeg(self, container: Any, stream: Any, first: int) -> Iterator[np.ndarray]:
        # The decoders in whole numbers spread their rounding over all samples that follow.
        in_floats = stream.codec_context.name.endswith("float")
        held: deque[tuple[Any, int]] = deque(maxlen=_PREROLL if in_floats else None)
        position, failed, silent = 0, 0, 0  # position: of the next sample
        for packet, size in _mpeg_frames(container, stream):
            if position + size <= first:  # not decoded unless a part begins soon
                held.append((packet, size))
                position += size
                continue
            while held:
                self._frame(*held.popleft())
            block_SX = self._frame(packet, size)
            failed = failed + 1 if block_SX is None else 0
            if failed > _DAMAGED_FRAMES:
                raise DecoderError(f"{failed} frames in a row cannot be decoded")
            if block_SX is None:  # the others stay where they are
                silent += size
                block_SX = np.zeros((size, stream.channels), dtype=np.float32)
            yield block_SX[max(0, first - position) :]
            position += size
        if silent > _SILENT * position:
            warnings.warn(
                f"{self.path}: {silent / self.rate:.2f} s of it cannot be decoded and are silence here; "
                "copy it again",
                AudioWarning,
                stacklevel=2,
            )

    def _frame(self, packet: Any, size: int) -> np.ndarray | None:
        """The last `size` samples of an MPEG frame, None if they cannot be decoded."""
        try:
            block_SX = self._decode(packet)
        except DecoderError:
            return None
        return block_SX[len(block_SX) - size :] if len(block_SX) >= size else None

    def _decode(self, packet: Any) -> np.ndarray:
        frames = [_as_float(frame) for frame in _decoded(packet) if self._same_rate(frame)]
        return np.concatenate(frames) if frames else np.empty((0, 1), dtype=np.float32)

    def _same_rate(self, frame: av.AudioFrame) -> bool:
        if frame.sample_rate != self.rate:
            raise AudioError.of(
                self.path, f"its sample rate changes from {self.rate} to {frame.sample_rate} Hz; split it"
            )
        return True


def inspect(path: AudioSource) -> tuple[FFmpegFile, int, int | None, float | None]:
    """(decoder, channels, samples, seconds that the header declares); None for what is not known.

    Raises:
        AudioError: it is truncated, of a coding that is not read, or holds no audio.
        DecoderError: it is not audio, or its first frame cannot be decoded.
    """
    with _opened(path) as (container, stream):
        mpeg = stream.codec_context.name in _MPEG
        names = container.format.name.split(",")
        seconds = None
        if any(name in names for name in _DECLARING):
            if stream.duration:
                seconds = float(stream.duration * stream.time_base)
            elif container.duration and len(container.streams) == 1:
                seconds = container.duration / 1e6
        rate, channels = _first_frame(path, container, stream, mpeg)
    if mpeg and (missing := missing_mp3(path)):
        raise AudioError.of(path, f"truncated: {missing}; copy it again or {REMOVE}")
    samples = None
    if mpeg:
        samples = _count(path) if isinstance(path, AudioBytes) else _counted(*_stamp(path))
    return FFmpegFile(path, rate, mpeg), channels, samples, seconds


def _first_frame(path: AudioSource, container: Any, stream: Any, mpeg: bool) -> tuple[int, int]:
    """(rate, channels) as decoded: high-efficiency AAC has twice the rate that its header says."""
    for packet in container.demux(stream):
        try:
            for frame in _decoded(packet):
                return frame.sample_rate, frame.layout.nb_channels
        except DecoderError:
            if not mpeg:
                raise
    raise AudioError.of(path, f"0 samples after decoding; {REMOVE}")


def _decoded(packet: Any) -> list[av.AudioFrame]:
    from av import FFmpegError

    try:
        return packet.decode()
    except FFmpegError as error:
        raise DecoderError(error.strerror) from error


def _count(path: AudioSource) -> int:
    with _opened(path) as (container, stream):
        return sum(size for _, size in _mpeg_frames(container, stream))


def _stamp(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    state = Path(path).stat()
    return str(path), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=4096)  # counting takes half a second for an hour, and each crop asks again
def _counted(path: str, modified: int, size: int) -> int:
    return _count(path)


def _mpeg_frames(container: Any, stream: Any) -> Iterator[tuple[Any, int]]:
    """The frames of an MP3 with their samples, without those that the encoder's tag says are padding.

    What is no frame (tags between joined files, bytes behind the audio) is left out, as FFmpeg does.
    """
    scale, skip = stream.time_base * stream.rate, 0
    for packet in container.demux(stream):
        head = bytes(memoryview(packet)[:2]) if packet.size > 1 else b""
        if head[:1] != b"\xff" or head[1] < 0xE0 or packet.duration is None:
            continue
        size = round(packet.duration * scale)
        if packet.has_sidedata("skip_samples"):
            trim = bytes(packet.get_sidedata("skip_samples"))
            skip += int.from_bytes(trim[:4], "little")
            size -= int.from_bytes(trim[4:8], "little")
        skipped = min(skip, size)
        skip -= skipped
        yield packet, max(0, size - skipped)


@contextmanager
def _opened(path: AudioSource) -> Iterator[tuple[InputContainer, Any]]:
    """A container and its first stream of audio, with one thread for decoding."""
    import av

    options = {"format_whitelist": CONTAINERS, "codec_whitelist": CODINGS, "protocol_whitelist": ""}
    try:
        with (
            open_bytes(path) as data,
            av.open(data, options=options, **_for_titles()) as container,
        ):
            if not container.streams.audio:
                raise AudioError.of(path, f"holds no audio; {REMOVE}")
            stream = container.streams.audio[0]
            name = stream.codec_context.name if stream.codec_context else "unknown"
            if name not in CODINGS.split(","):
                raise AudioError.of(path, f"its coding {name} is not read; convert it to FLAC or {REMOVE}")
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:  # of the container; not of what the file object raised
        raise DecoderError(error.strerror) from error


@cache
def _for_titles() -> dict[str, Any]:
    """Options for tags that are not UTF-8, such as titles in Latin-1; from 19 on PyAV needs none."""
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def _as_float(frame: av.AudioFrame) -> np.ndarray:
    """A frame's samples [S, X] as float32, full scale 1."""
    values = frame.to_ndarray()
    values_SX = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if values.dtype.kind == "u":
        return (values_SX.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values_SX.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return values_SX.astype(np.float32, copy=False)


def _joined(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Larger blocks: frames are too short for fast arithmetic. The number of channels may change."""
    held: list[np.ndarray] = []
    size = 0
    try:
        for block_SX in blocks:
            if held and (block_SX.shape[1] != held[0].shape[1] or size >= _BLOCK):
                yield np.concatenate(held)
                held, size = [], 0
            if len(block_SX):
                held.append(block_SX)
                size += len(block_SX)
    except DecoderError:
        if held:
            yield np.concatenate(held)  # what was decoded before it
        raise
    if held:
        yield np.concatenate(held)
