"""Audio inside another file, such as a member of a tar, read by offset and length."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

# Up to this size, one read costs less than several small ones. From longer audio only the bytes that the
# decoder asks for are read: a crop of an hour of WAV does not read the hour.
_READ_AT_ONCE = 4 * 2**20
_READ_AHEAD = 256 * 2**10


@dataclass(frozen=True)
class AudioBytes:
    """An encoded audio file of `size` bytes, read by `read(offset, count)`; `name` is for messages.

    Up to 4 MiB are read once and kept as long as this object; longer audio is read piece by piece.
    """

    name: str
    size: int
    read: Callable[[int, int], bytes]

    def __str__(self) -> str:
        return self.name

    def open(self) -> BinaryIO:
        """A seekable file of the bytes."""
        return self._open(_Reader(self))

    @contextmanager
    def for_decoder(self) -> Iterator[BinaryIO]:
        """The same for a decoder in C, which cannot pass on exceptions.

        A failed read looks like the end of the file to it; the error is raised when the context exits.
        """
        reader = _Reader(self, raised_later=True)
        try:
            with self._open(reader) as file:
                yield file
        finally:
            if reader.failure is not None:
                raise reader.failure

    def _open(self, reader: _Reader) -> BinaryIO:
        if self.size <= _READ_AT_ONCE:
            return io.BytesIO(self._all)
        return cast(BinaryIO, io.BufferedReader(reader, _READ_AHEAD))

    @cached_property
    def _all(self) -> bytes:
        return self.read(0, self.size)


AudioSource = str | os.PathLike[str] | AudioBytes


def open_bytes(source: AudioSource) -> BinaryIO:
    """The encoded bytes of a file or of an `AudioBytes`, to read."""
    return source.open() if isinstance(source, AudioBytes) else Path(source).open("rb")


def byte_size(source: AudioSource) -> int:
    """Number of encoded bytes."""
    return source.size if isinstance(source, AudioBytes) else Path(source).stat().st_size


class _Reader(io.RawIOBase):
    def __init__(self, audio: AudioBytes, raised_later: bool = False) -> None:
        self.audio, self.position, self.raised_later = audio, 0, raised_later
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.audio.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # any writable buffer
        count = max(0, min(len(buffer), self.audio.size - self.position))
        try:
            content = self.audio.read(self.position, count) if count else b""
            if len(content) != count:
                raise OSError(f"{self.audio.name}: ends before byte {self.position + count}")
            buffer[:count] = content
        except Exception as error:
            if not self.raised_later:
                raise
            self.failure = self.failure or error
            return 0
        self.position += count
        return count
