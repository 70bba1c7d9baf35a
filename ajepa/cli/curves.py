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
    from ajepa.curves import draw_curves
    from ajepa.named_source import named_source

    runs = {}
    for text in options.runs:
        name, path = named_source(text)
        runs[name or Path(path).name] = Path(path)
    shown = draw_curves(runs, options.out)
    print(f"{options.out}: {', '.join(shown)}")
