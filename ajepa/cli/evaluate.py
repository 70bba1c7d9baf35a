"""`ajepa evaluate` and `ajepa demo`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    evaluate = commands.add_parser("evaluate", help="score models on HEAR tasks with the stock HEAR toolkit")
    evaluate.add_argument(
        "--model",
        action="append",
        required=True,
        help="what ajepa.load_model takes, or `logmel`; NAME=SOURCE names its row; may be repeated",
    )
    evaluate.add_argument("--protocol", choices=["hear"], default="hear")
    evaluate.add_argument("--tasks-dir", type=Path, required=True, help="made by `ajepa data hear-task`")
    evaluate.add_argument("--task", default="all", help="one task's folder name; default: all of them")
    evaluate.add_argument(
        "--out", type=Path, required=True, help="folder for embeddings, scores and records.json"
    )
    evaluate.add_argument("--grid", choices=["default", "fast", "faster"], default="default")
    evaluate.add_argument("--grid-points", type=int, default=8, help="hyper-parameter settings to try")
    evaluate.set_defaults(run=run_evaluate)

    demo = commands.add_parser("demo", help="the whole job on synthetic audio, in minutes")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--data", type=Path, default=None, help="your own audio for pre-training")
    demo.set_defaults(run=run_demo)


def run_evaluate(options: argparse.Namespace) -> None:
    """`ajepa evaluate`."""
    from ajepa.eval.hear import Entry, evaluate, table

    entries = [Entry.parse(text) for text in options.model]
    records = evaluate(
        entries,
        options.tasks_dir,
        options.out,
        task=options.task,
        grid=options.grid,
        grid_points=options.grid_points,
    )
    print(table(records))


def run_demo(options: argparse.Namespace) -> None:
    """`ajepa demo`."""
    from ajepa.eval.demo import demo

    demo(options.out, options.data)
