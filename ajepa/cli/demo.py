"""`ajepa demo`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser("demo", help="train and evaluate an encoder on synthetic audio, in minutes")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--data", type=Path, default=None, help="your own audio for pre-training")
    demo.set_defaults(run=run_demo)


def run_demo(options: argparse.Namespace) -> None:
    """`ajepa demo`."""
    from ajepa.eval.demo import demo

    demo(options.out, options.data)
