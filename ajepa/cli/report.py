"""`ajepa report`: one page about runs and scores."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ajepa.files import check_place

from .usage import UsageError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="write one HTML page about runs and scores: curves, masks, tables, maps, errors to play",
        description="Write one self-contained HTML page about runs and scores: recipes and data, "
        "learning curves, masks on spectrograms, tables with intervals, classes, errors to play, curves over "
        "noise and layers, and maps of clips. Everything is read from the files of the runs and evaluations; "
        "only the positions on the maps and what each run's encoder sees in a few clips are computed.",
    )
    report.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folders of runs ([NAME=]RUN), --out folders of `ajepa compare` or `ajepa evaluate`, or files "
        "of records",
    )
    report.add_argument("--out", type=Path, required=True, help="the page, such as report.html")
    report.add_argument(
        "--audio",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="show masks and patches on this file, up to three; default: the first clips of each run's data",
    )
    report.add_argument("--megabytes", type=float, default=15.0, help="largest size of the page; default: 15")
    report.add_argument("--map-points", type=int, default=2000, help="most clips on a map; default: 2000")
    report.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> None:
    """`ajepa report`."""
    check_place(options.out, "--out")
    if options.out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {options.out}: the report is a page; end the name in .html")
    if not options.megabytes > 0:
        raise UsageError(f"--megabytes is {options.megabytes:g}, must be above 0")
    if options.map_points < 1:
        raise UsageError(f"--map-points is {options.map_points}, must be at least 1")
    for file in options.audio:
        if not file.is_file():
            raise UsageError(f"--audio {file}: no such file")

    from ajepa.eval.report import write_report

    notes = write_report(
        options.sources,
        options.out,
        audio=options.audio,
        megabytes=options.megabytes,
        map_points=options.map_points,
        say=lambda line: print(line, file=sys.stderr),
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
