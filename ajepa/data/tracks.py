"""Audacity's label tracks: text files with a line `start TAB end TAB label` for each label, in seconds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from .tables import TaskError

TRACK_SUFFIX = ".txt"
FREQUENCIES = "\\"  # begins a line with the band of the label before it, which is not read


class Span(NamedTuple):
    """A label: where it begins, its length in seconds, and its text."""

    start: float
    seconds: float
    label: str


def read_track(path: Path) -> list[Span]:
    """The labels of a track, in its order; none of an empty file.

    Raises TaskError for a line of another form, for a label without a text, and for a point, which has no
    length.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: is not UTF-8 ({error.reason}); export the labels again") from error
    return [
        _span(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith(FREQUENCIES)
    ]


def _span(line: str, where: str) -> Span:
    start, end, *rest = [*line.split("\t", 2), "", ""][:3]
    label = "".join(rest).strip()
    try:
        first, last = (float(text.replace(",", ".")) for text in (start, end))
    except ValueError:
        first = last = math.nan
    if not (math.isfinite(first) and math.isfinite(last) and 0 <= first <= last):
        raise TaskError(f"{where}: {line!r}; expected `start TAB end TAB label`, in seconds")
    if not label:
        raise TaskError(f"{where}: the label at {first:g} s has no text; name it or remove it")
    if first == last:
        raise TaskError(f"{where}: {label!r} is a point at {first:g} s; a clip needs a length: draw a region")
    return Span(first, last - first, label)
