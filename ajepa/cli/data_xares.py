"""`ajepa data xares`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `ajepa data`."""
    xares = commands.add_parser("xares", help="convert a data set that you have into tars for X-ARES")
    xares.add_argument("dataset", choices=["esc50", "esc10", "speechcommandsv1", "voxceleb1"])
    xares.add_argument("--source", type=Path, required=True, help="the data set's folder")
    xares.add_argument("--out", type=Path, required=True, help="the folder that X-ARES calls env")
    xares.add_argument(
        "--csv", type=Path, help="esc50, esc10: another table than meta/esc50.csv, with folds 1 to 5"
    )
    xares.add_argument("--split-list", type=Path, help="voxceleb1: another list than iden_split.txt")
    xares.add_argument("--skip-missing", action="store_true", help="leave out clips whose audio is missing")
    xares.add_argument("--force", action="store_true", help="replace an existing folder")
    xares.set_defaults(run=run_xares)


def run_xares(options: argparse.Namespace) -> None:
    """`ajepa data xares`."""
    from ajepa.eval.toolkits.xares.sets import SETS, write_tars

    folder = write_tars(
        options.dataset,
        options.source,
        options.out,
        csv=options.csv,
        split_list=options.split_list,
        skip_missing=options.skip_missing,
        force=options.force,
    )
    scored = f"ajepa evaluate xares --task {SETS[options.dataset].task} --data {options.out}"
    print(f"{folder}: tars for X-ARES; score encoders with `{scored}`")
