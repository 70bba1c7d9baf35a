"""The options of tasks, shared by the commands that score models."""

from __future__ import annotations

import argparse
from typing import Any

# Options of `ajepa evaluate` that a task reads: flag, the task function's argument, help.
TASK_OPTIONS = (
    ("--csv", "csv", "esc50, esc10: another table with other folds; default: meta/esc50.csv"),
    (
        "--test-data",
        "test_data",
        "speech_commands_v1: the unpacked official test archive; default: next to the data set's folder",
    ),
    ("--split-list", "split_list", "voxceleb1: another list of splits; default: iden_split.txt"),
    ("--label", "label", "table: column of the labels; default: label or labels"),
    ("--fold", "fold", "table: column of the folds; default: fold, if the table has it"),
    (
        "--split",
        "split",
        "table: column of train, valid and test; default: split, if the table has it; for all your own "
        "labels: auto makes a split and writes it next to the data; or the file of such a split",
    ),
    (
        "--group",
        "group",
        "what clips of one recording or speaker have in common, so that they stay in one split. table: a "
        "column; folder, audacity: a regular expression for file names, or `folder` for each file's folder",
    ),
    ("--path", "path", "table: column of the files; default: filename, path, file_name or file"),
    (
        "--label-separator",
        "label_separator",
        "with --multilabel: the text between labels; default: ;",
    ),
    ("--audio-root", "audio_root", "table: folder of relative paths; default: the table's folder"),
)


FLAGS = ("multilabel", "segments", "skip_missing")
ARGUMENTS = (*(argument for _, argument, _ in TASK_OPTIONS), "id_list", *FLAGS)


def add(group: argparse._ArgumentGroup) -> None:
    """Add the options of tasks to a parser's group."""
    group.add_argument("--skip-missing", action="store_true", help="leave out clips whose audio is missing")
    for flag, argument, text in TASK_OPTIONS:
        group.add_argument(flag, dest=argument, default=None, help=text)
    group.add_argument(
        "--id-list",
        action="append",
        help="audioset: file of the clips to use, one ID per line or AST's JSON; may be repeated",
    )
    group.add_argument("--multilabel", action="store_true", help="table, audacity: clips have several labels")
    group.add_argument(
        "--segments",
        action="store_true",
        help="table: rows are parts of files, with columns start and end (or duration) in seconds; the "
        "default if a file is in several rows",
    )


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the names of the task function's arguments."""
    values = {name: getattr(options, name) for name in ARGUMENTS}
    return {name: value for name, value in values.items() if value is not None and value is not False}
