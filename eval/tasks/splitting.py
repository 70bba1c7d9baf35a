"""Splits for a table without any: train, valid and test, the same each time, written down for others."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ajepa.data.tables import TaskError
from ajepa.files import write

AUTO = "auto"
SEED = 0
PARTS = 5  # of equal size: one for testing, one for validation, the others for training


def auto_split(
    table: Path,
    rows: Sequence[dict[str, str]],
    path: str,
    label: str,
    group: str | None = None,
    multilabel: bool = False,
) -> list[str]:
    """The split of each row, 60 % train, 20 % valid and 20 % test; also written to `split_file(table)`.

    Clips of one group stay together. The splits have similar shares of each label; a table with several
    labels per clip is split by group alone. The order of the rows does not matter.

    Args:
        table: the table that the rows come from, for messages and the file's place.
        path, label, group: the columns of the files, the labels and the groups (what clips share).

    Raises:
        TaskError: there are too few clips or groups to split, or the split file holds another split.
    """
    order = sorted(range(len(rows)), key=lambda row: rows[row][path])
    labels = [rows[row][label].strip() for row in order]
    groups = [rows[row][group].strip() if group else "" for row in order]
    # A clip without a group is its own group.
    names = [name or f"clip {place}" for place, name in enumerate(groups)]
    parts = _parts(table, None if multilabel else labels, names)
    splits = [""] * len(rows)
    for row, part in zip(order, parts, strict=True):
        splits[row] = ("test", "valid")[part] if part < 2 else "train"
    _keep(table, rows, order, path, splits)
    return splits


def split_file(table: Path) -> Path:
    """Where the split of a table is written: next to it, with the file column and `split`."""
    return table.with_name(f"{table.stem}-split.csv")


def _parts(table: Path, labels: list[str] | None, groups: list[str]) -> np.ndarray:
    """The part of each clip, from 0 to PARTS - 1."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if (count := len(set(groups))) < PARTS:
        raise TaskError(
            f"{table}: {count} groups of clips are too few for --split {AUTO}, which makes {PARTS} parts; "
            "add clips or a column of splits"
        )
    if labels is not None:
        rarest, size = Counter(labels).most_common()[-1]
        if size < PARTS:
            raise TaskError(
                f"{table}: the label {rarest!r} has {size} clips; --split {AUTO} needs "
                f"{PARTS} of each label: leave it out, or add a column of splits"
            )
    # Groups are numbered at random here. scikit-learn's own shuffle is missing in some releases (GroupKFold)
    # or loses the balance of labels (StratifiedGroupKFold, 1.6); the split must not depend on the release.
    numbers = np.unique(groups, return_inverse=True)[1]
    numbers = np.random.default_rng(SEED).permutation(numbers.max() + 1)[numbers]
    if labels is None:
        folds = GroupKFold(PARTS).split(groups, groups=numbers)
    else:
        folds = StratifiedGroupKFold(PARTS).split(groups, labels, numbers)
    parts = np.empty(len(groups), dtype=int)
    for part, (_, held_out) in enumerate(folds):
        parts[held_out] = part
    return parts


def _keep(
    table: Path, rows: Sequence[dict[str, str]], order: list[int], path: str, splits: list[str]
) -> None:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([path, "split"])
    lines.writerows([rows[row][path], splits[row]] for row in order)
    place = split_file(table)
    if not place.exists():
        write(place, text.getvalue())
    elif place.read_text(encoding="utf-8") != text.getvalue():
        raise TaskError(
            f"{place}: holds another split than the one for this table and these options; remove it, or add "
            "its column to the table and name the column with --split"
        )
