"""`ajepa data`: data sets from what people have, and synthetic ones."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ajepa data` and what it makes."""
    data = commands.add_parser("data", help="make data sets").add_subparsers(required=True, metavar="WHAT")
    task = data.add_parser("hear-task", help="write a HEAR task folder from a data set that you have")
    task.add_argument("dataset", choices=["esc50", "esc10", "speech_commands", "table"])
    task.add_argument(
        "--source", type=Path, required=True, help="the data set's folder; for `table` a CSV file"
    )
    task.add_argument("--out", type=Path, required=True, help="the tasks folder")
    task.add_argument("--csv", type=Path, help="esc50: another table than meta/esc50.csv")
    task.add_argument("--test-source", type=Path, help="speech_commands: the official test archive")
    task.add_argument("--name", help="the task's name")
    task.add_argument(
        "--audio-root", type=Path, help="table: where relative paths start; default: beside the CSV"
    )
    task.add_argument("--label", default="label", help="table: column of the labels")
    task.add_argument("--fold", help="table: column of the folds, for cross-validation")
    task.add_argument("--split", help="table: column of the splits train, valid, test")
    task.add_argument("--seconds", type=float, help="table: clip length; default: the longest clip's")
    task.add_argument("--multilabel", action="store_true", help="table: labels are lists, split at ;")
    task.add_argument("--skip-missing", action="store_true", help="leave out clips whose audio is not there")
    task.add_argument("--force", action="store_true", help="replace a task folder that exists")
    task.set_defaults(run=run_hear_task)

    synthetic = data.add_parser("synthetic", help="write synthetic audio in the layout of a real data set")
    synthetic.add_argument("layout", choices=["esc50", "speech_commands", "voxceleb1", "unlabelled"])
    synthetic.add_argument("--out", type=Path, required=True)
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.set_defaults(run=run_synthetic)


def run_hear_task(options: argparse.Namespace) -> None:
    """`ajepa data hear-task`."""
    from ajepa.hear_module import tasks

    common = {
        "task_name": options.name,
        "skip_missing": options.skip_missing,
        "force": options.force,
    }
    if options.dataset in {"esc50", "esc10"}:
        esc10 = options.dataset == "esc10"
        path = tasks.from_esc50(options.source, options.out, esc10=esc10, csv=options.csv, **common)
    elif options.dataset == "speech_commands":
        path = tasks.from_speech_commands(
            options.source, options.out, test_source=options.test_source, **common
        )
    else:
        path = tasks.from_table(
            options.source,
            options.out,
            audio_root=options.audio_root,
            label_column=options.label,
            fold_column=options.fold,
            split_column=options.split,
            seconds=options.seconds,
            multilabel=options.multilabel,
            **common,
        )
    print(f"{path}: HEAR task folder")


def run_synthetic(options: argparse.Namespace) -> None:
    """`ajepa data synthetic`."""
    from ajepa.data import synthetic

    getattr(synthetic, f"write_{options.layout}")(options.out, seed=options.seed)
    print(f"{options.out}: synthetic audio in the layout of {options.layout}")
