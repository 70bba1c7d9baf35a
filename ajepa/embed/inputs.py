"""What is to be embedded: clips of files, folders, manifests and shards under names that stay the same."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ajepa.audio import AudioError
from ajepa.audio.source import AudioBytes
from ajepa.data import open_clips
from ajepa.data.cells import SUFFIXES
from ajepa.data.clips import Clip, Clips, say_left_out


class Item(NamedTuple):
    """One clip of the inputs.

    Attributes:
        name: the file as users know it: the path given, or the folder's path and the path within it.
        clip: where its audio is.
    """

    name: str
    clip: Clip

    @property
    def key(self) -> str:
        """The same for the same clip in every start of a job: another part of a file is another clip."""
        start, seconds = self.clip.start, self.clip.seconds
        return self.name if start == 0 and seconds is None else f"{self.name}\0{start!r}\0{seconds!r}"

    def size(self) -> int:
        """Encoded bytes; 0 where that is not known."""
        audio = self.clip.audio
        if isinstance(audio, AudioBytes):
            return audio.size
        try:
            return os.stat(audio).st_size  # noqa: PTH116  # a million times
        except OSError:
            return 0


class Inputs:
    """All clips of several inputs, in the order given; numbered from 0, with little memory for each.

    Args:
        sources: audio files, folders, manifests and tables of segments (`cells.SUFFIXES`), folders of
            tar shards or their addresses.

    Raises:
        AudioError: a file or a folder is not there, or a folder holds no audio.
        DataError: a manifest or an index cannot be used.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._parts: list[tuple[str, Clips | None]] = []
        for source in sources:
            path = Path(source)
            is_set = path.is_dir() or "://" in source or path.suffix.lower() in SUFFIXES
            if not is_set and not path.exists():
                raise AudioError(f"{source}: no such file; check the path", path=source)
            self._parts.append((source, open_clips(source) if is_set else None))
        sizes = (1 if clips is None else len(clips) for _, clips in self._parts)
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Item:
        part = bisect_right(self._ends, number)
        source, clips = self._parts[part]
        if clips is None:
            return Item(source, Clip(source, source))
        clip = clips.clip(number - (self._ends[part] - len(clips)))
        name = clip.audio if isinstance(clip.audio, str) else f"{source.rstrip('/')}/{clip.name}"
        return Item(name, clip)

    def tars(self) -> Iterator[str]:
        """A hash of the content of each set of tar shards, whose clips have no date of their own."""
        for _, clips in self._parts:
            if clips is not None and len(clips) and isinstance(clips.clip(0).audio, AudioBytes):
                yield str(clips.fingerprint()["sha256"])

    def say_left_out(self) -> None:
        """Print what the folders hold besides audio, if anything."""
        for source, clips in self._parts:
            if clips is not None:
                say_left_out(clips, source)

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))

    def keys(self) -> Iterator[str]:
        """The keys of all clips, in order."""
        return (item.key for item in self)
