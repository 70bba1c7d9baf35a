"""`ajepa curves`: the curves of pre-training runs, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    curves = commands.add_parser("curves", help="draw loss and health gauges of runs into a picture")
    curves.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="folders of runs, or a metrics.jsonl")
    curves.add_argument("--out", type=Path, required=True, help="picture to write, such as curves.png")
    curves.set_defaults(run=run_curves)


def run_curves(options: argparse.Namespace) -> None:
    """`ajepa curves`."""
    from ajepa.named_source import name_of, named_source
    from ajepa.pictures.curves import CurvesError, draw_curves
    from ajepa.pictures.files import check_picture

    check_picture(options.out)
    runs: dict[str, Path] = {}
    for text in options.runs:
        name, source = named_source(text)
        path = Path(source)
        run = path.parent if path.name == "metrics.jsonl" else path
        name = name or name_of(str(run.absolute()))
        if name in runs:
            raise CurvesError(f"{runs[name]} and {path} are both called {name}; tell them apart by NAME=RUN")
        runs[name] = path
    shown = draw_curves(runs, options.out)
    print(f"{options.out}: {', '.join(shown)}")
