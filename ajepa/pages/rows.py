"""A page of rows whose clips can be played: what `ajepa similar` and `ajepa audit` write with --html."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ajepa.files import write

from .media import LONGEST, RATE, Media

MEGABYTES = 15.0


class Clip(NamedTuple):
    """A clip on a page.

    Attributes:
        path: its file; one that is not there or cannot be decoded has no player.
        start, end: seconds into the file; `end` None is the file's end.
    """

    path: str
    start: float = 0.0
    end: float | None = None


class Row(NamedTuple):
    """A row: a text for each column, and the clips that it is about."""

    cells: tuple[str, ...]
    clips: tuple[Clip, ...]


class Section(NamedTuple):
    """A table under a heading."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: Sequence[Row]


def write_page(
    out: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    *,
    megabytes: float = MEGABYTES,
    progress: Callable[[int], object] = lambda rows: None,
) -> None:
    """Write the page, whole or not at all.

    Clips are put in from the top of each section until it has its share of `megabytes`; the page says how
    many there was no room for.

    Args:
        facts: names and values above the tables.
        progress: called with 1 after each row.
    """
    from jinja2 import Environment

    media, most = Media(0), round(megabytes * 1e6)
    shown = []
    for place, section in enumerate(sections):
        media.limit = media.used + (most - media.used) // (len(sections) - place)
        rows = []
        for row in section.rows:
            rows.append({"cells": row.cells, "clips": [_shown(media, clip) for clip in row.clips]})
            progress(1)
        shown.append(section._asdict() | {"rows": rows})
    source = resources.files("ajepa.pages").joinpath("rows.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    page = template.render(
        title=title,
        facts=facts,
        sections=shown,
        left_out=media.left_out,
        lost=media.lost,
        megabytes=f"{megabytes:g}",
        longest=f"{LONGEST:g}",
        version=version("ajepa"),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )
    write(out, page.encode("utf-8", errors="backslashreplace"))  # names that are not Unicode


def _shown(media: Media, clip: Clip) -> dict[str, Any]:
    """What the template needs of a clip."""
    seconds = None if clip.end is None else max(clip.end - clip.start, 1 / RATE)
    number = media.add(clip.path, clip.start, seconds)
    return {"path": clip.path, "times": _times(clip), **({} if number is None else media.clips[number])}


def _times(clip: Clip) -> str:
    if clip.end is None:
        return f"from {clip.start:.2f} s" if clip.start else ""
    return f"{clip.start:.2f} to {clip.end:.2f} s"
