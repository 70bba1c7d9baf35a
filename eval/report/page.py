"""Gathers a report's contents and writes the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ajepa.files import write
from ajepa.pages.media import Media

from . import scores
from .answers import Answers, Spot, task_sections
from .drawings import drawing
from .errors import ReportError
from .maps import maps
from .runs import RunReport, curves
from .sources import sort_sources

MEGABYTES = 15.0
MAP_POINTS = 2_000


def write_report(
    sources: Sequence[str],
    out: Path,
    *,
    audio: Sequence[Path] = (),
    megabytes: float = MEGABYTES,
    map_points: int = MAP_POINTS,
    say: Callable[[str], Any] = print,
) -> list[str]:
    """Write one self-contained HTML page about runs and scores.

    Args:
        sources: see `ajepa.eval.report.sources.sort_sources`.
        out: the page.
        audio: clips to show the runs' masks and encoders on; none for the first clips of the runs' data.
        megabytes: the page's size; clips are embedded, the telling ones first, until it is reached.
        map_points: points of a map.
        say: called with a line before each slow part.

    Returns:
        What was left out, a sentence each.

    Raises:
        ReportError: there is nothing to report, or the page would be larger even without clips.
        RecordError, KeptError: a file of records, answers or features cannot be read.
    """
    folders, found, drawings = sort_sources(sources)
    notes: list[str] = []
    runs = {name: RunReport(name, folder) for name, folder in folders.items()}
    if runs:
        say(f"{len(runs)} runs: curves, masks, similarities")
    views, masks = [], {}
    for name, run in runs.items():
        own = run.views(audio)
        views += own
        masks[name] = run.masks()
        if not own:
            notes.append(f"{name}: its audio is gone or cannot be read; --audio FILE shows masks on a file.")
    answers = {place: its for place, one in enumerate(found) if (its := Answers.read(one)) is not None}
    if found and not answers:
        notes.append("The records keep no clips' answers: there are no errors to list.")
    sections = task_sections(found, answers)
    drawn = []
    for one in maps(found, map_points):
        say(f"map of {one['task']} by {one['model']}: {len(one['x'])} clips")
        drawn.append(one)
    content: dict[str, Any] = {
        "runs": [{"name": name, "facts": run.facts(), "yaml": run.yaml()} for name, run in runs.items()],
        "curves": curves(runs),
        "views": views,
        "masks": masks,
        "rows": scores.rows(found, answers),
        "robustness": scores.robustness(found),
        "layers": scores.layers(found),
        "tasks": sections,
        "maps": drawn,
        "drawings": [drawing(folder) for folder in drawings],
    }
    _join_answers(drawn, sections)
    spots = [one.pop("spots") for one in (*sections, *drawn)]
    page = _render(content | {"clips": [], "notes": []}, out)
    media = Media(round(megabytes * 1e6) - len(page.encode()) - 16 * sum(map(len, spots)))
    if media.limit <= 0:
        raise ReportError(
            f"--megabytes {megabytes:g}: the page takes {len(page.encode()) / 1e6:.1f} MB without clips; "
            "give more, or fewer runs and records"
        )
    say("clips to hear")
    numbers = _embed(media, sections, spots)
    for one, places in zip((*sections, *drawn), spots, strict=True):
        one["media"] = [numbers.get(spot) for spot in places]
    if media.left_out:
        notes.append(
            f"{media.left_out:,} clips cannot be heard here: the page is limited to {megabytes:g} MB. "
            "Clips on which models differ, then errors, were taken first."
        )
    if media.lost:
        notes.append(f"{media.lost:,} clips cannot be heard: their files are gone or have other names here.")
    write(out, _render(content | {"clips": media.clips, "notes": notes}, out))
    return notes


def _join_answers(drawn: Sequence[dict[str, Any]], sections: Sequence[dict[str, Any]]) -> None:
    """Adds to each map its clips' names, and whether its model's answer is right, where one is kept."""
    for one in drawn:
        right: dict[Spot, bool] = {}
        for section in sections:
            for model in section["models"]:
                if (section["task"], model["name"]) == (one["task"], one["model"]) and not right:
                    right = dict(zip(section["spots"], model["right"], strict=True))
        one["right"] = [right.get(spot) for spot in one["spots"]]
        one["names"] = [spot.name for spot in one["spots"]]


def _embed(
    media: Media, sections: Sequence[dict[str, Any]], spots: Sequence[Sequence[Spot]]
) -> dict[Spot, int | None]:
    """The clips' numbers on the page. First those on which models differ, then errors, then all others, and
    in turn from each section."""
    ranked: list[tuple[int, int, Spot]] = []
    for number, places in enumerate(spots):
        section = sections[number] if number < len(sections) else None
        for place, spot in enumerate(places):
            rank = 2
            if section:
                right = {model["right"][place] for model in section["models"]}
                rank = 0 if len(right) > 1 else 1 if False in right else 2
            ranked.append((rank, place, spot))
    numbers: dict[Spot, int | None] = {}
    for _, _, spot in sorted(ranked, key=lambda entry: entry[:2]):
        if spot not in numbers:
            numbers[spot] = media.add(spot.clip, spot.start, spot.seconds)
    return numbers


def _render(content: dict[str, Any], out: Path) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape
    from plotly.offline import get_plotlyjs

    folder = resources.files(__package__)
    environment = Environment(
        loader=PackageLoader("ajepa.eval.report", ""), autoescape=select_autoescape(["html", "j2"])
    )
    # "<" as an escape: no string of the data can end the script element.
    charted = {name: value for name, value in content.items() if name != "drawings"}
    data = json.dumps(charted, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    names = [run["name"] for run in content["runs"]]
    names += [f"samples for {one['clip']}" for one in content["drawings"]]
    names += list(dict.fromkeys(row["task"] for row in content["rows"]))
    return environment.get_template("page.html.j2").render(
        title=", ".join(names[:4]) + (" and others" if len(names) > 4 else ""),
        version=version("ajepa"),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        content=content,
        data=data,
        plotly=get_plotlyjs(),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
    )
