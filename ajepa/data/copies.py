"""Copies of data sets as people have them: sometimes re-encoded, or with a clip in two formats at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# A listed file may have any of these suffixes; if several exist, the first counts.
COPY_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")

_SPEAKER = re.compile(r"([^-_]+)_nohash_")


def one_of_each(paths: Iterable[Path]) -> list[Path]:
    """The audio files among `paths`, one for each stem: a clip in two formats is still one clip."""
    found: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.stem, path.name)):
        suffix = path.suffix.lower()
        if suffix not in COPY_SUFFIXES:
            continue
        other = found.setdefault(path.stem, path)
        if COPY_SUFFIXES.index(suffix) < COPY_SUFFIXES.index(other.suffix.lower()):
            found[path.stem] = path
    return list(found.values())


def speaker(name: str) -> str:
    """The speaker of a Speech Commands file, or "" if the name has none.

    Files are named `bd76a7fd_nohash_0.wav`, in the test archive's `_unknown_` `marvin_bd76a7fd_nohash_0.wav`.
    """
    found = _SPEAKER.search(name)
    return found[1] if found else ""
