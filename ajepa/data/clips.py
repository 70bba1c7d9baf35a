"""A training set as the rest of the package sees it: numbered clips, and where their bytes are."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from ajepa.audio import AudioBytes, find_audio, left_out
from ajepa.errors import AjepaError
from ajepa.files import printable


class DataError(AjepaError, ValueError):
    """A manifest, a shard or its index cannot be used or fetched; the message says what to do.

    Unlike an `AudioError` it is never skipped in favour of other clips.
    """


class Clip(NamedTuple):
    """One clip of a set.

    Attributes:
        name: its name in the set, such as a path inside the set's folder.
        audio: a file's path, or bytes within a shard; opened or fetched only when it is read.
        start: seconds into the audio.
        seconds: length of the clip; None for the rest of the audio.
        origin: where the clip is listed, for messages; may be empty.
        labels: the manifest's text, if it was requested.
    """

    name: str
    audio: str | AudioBytes
    start: float = 0.0
    seconds: float | None = None
    origin: str = ""
    labels: str | None = None


class Clips(Protocol):
    """A set of clips, numbered from 0. A look-up takes microseconds, whatever the size of the set."""

    shard_sizes: tuple[int, ...]
    """Clips in each shard, in order; empty for separate files."""

    def __len__(self) -> int: ...

    def clip(self, index: int) -> Clip:
        """The clip of this number."""

    def siblings(self, index: int) -> range:
        """Numbers of the clips that are as cheap to read as this one: those in its shard, or all."""

    def seconds(self) -> np.ndarray:
        """The length of each clip in seconds, NaN where only its file can tell; no file is opened."""

    def fingerprint(self) -> dict[str, Any]:
        """The number of clips (`files`) and a hash (`sha256`) that changes with the set."""


class Folder:
    """The audio files in a folder and below it, in the order of `find_audio`.

    Attributes:
        others: how many files of other kinds are there, by their suffix.

    Raises AudioError if the folder is missing or holds no audio.
    """

    shard_sizes: tuple[int, ...] = ()

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.others: Counter[str] = Counter()
        names = (path.relative_to(self.root).as_posix() for path in find_audio(self.root, self.others))
        try:
            # Arrow keeps them in one block of memory, which forked loader processes share.
            self._names = pa.array(names, pa.large_string())
        except UnicodeEncodeError as error:
            name = printable(error.object)
            raise DataError(f"{root}: the name of the file {name} is not UTF-8; rename it") from error

    def __len__(self) -> int:
        return len(self._names)

    def clip(self, index: int) -> Clip:
        name = self._names[index].as_py()
        return Clip(name, str(self.root / name))

    def siblings(self, index: int) -> range:
        return range(len(self))

    def seconds(self) -> np.ndarray:
        return np.full(len(self), np.nan)

    def fingerprint(self) -> dict[str, Any]:
        """A hash over relative paths and sizes."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            name = self._names[index].as_py()
            path = self.root / name
            size = path.stat().st_size if path.exists() else "dangling link"
            digest.update(f"{name}\0{size}\n".encode())
        return {"files": len(self), "sha256": digest.hexdigest()}


def say_left_out(clips: Clips, source: object) -> None:
    """Print what a folder holds besides audio, if anything: an M4A under another name would go unheard."""
    if isinstance(clips, Folder) and clips.others:
        print(f"{source}: {len(clips):,} audio files; left out: {left_out(clips.others)}", file=sys.stderr)
