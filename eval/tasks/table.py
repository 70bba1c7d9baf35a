"""A task from any table: a CSV (or TSV) file with one row per clip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ajepa.data.tables import (
    LABEL_SEPARATOR,
    check_separator,
    find_path_column,
    listed,
    locate,
    read_table,
    without_missing,
)
from ajepa.hear_module.tasks import SPLIT_NAMES

from .splitting import AUTO, auto_split, split_file
from .task import Clip, Task, TaskError, check_once

NOTE = "the user's own table"


def open_table(
    data: str | Path,
    *,
    label: str = "label",
    fold: str | None = None,
    split: str | None = None,
    group: str | None = None,
    path: str | None = None,
    audio_root: str | Path | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    skip_missing: bool = False,
) -> Task:
    """A task from the table `data`.

    Args:
        data: the table.
        label, path: columns of the labels and of the audio files; if `path` is None, `filename` or `path`.
        fold, split: column of the folds, or of train, valid and test; give one of the two. The split "auto"
            is not a column: the table has none, and `splitting.auto_split` splits the clips.
        group: column of what clips share (recording, speaker); clips of a group are resampled together.
        audio_root: the folder that the files' paths start from; the table's folder if None.
        multilabel: a cell holds any number of labels, separated by `label_separator`.
        skip_missing: leave out clips whose files are missing.

    Raises:
        TaskError: the table, a column or a file is missing, a split is unknown, a label is empty or
            never trained on, or a file is named twice.
    """
    table = Path(data)
    if (fold is None) == (split is None):
        raise TaskError(f"{table}: name the column of the folds or of the splits (fold or split)")
    column, auto = fold or split or "", split == AUTO
    root = Path(audio_root) if audio_root is not None else table.parent
    check_separator(table, label_separator, multilabel)
    rows = read_table(table, [label, *([] if auto else [column]), *([group] if group else [])])
    path = find_path_column(table, rows[0], path)
    parts_by_row = (
        auto_split(table, rows, path, label, group, multilabel) if auto else [r[column] for r in rows]
    )
    located = without_missing(
        [
            (locate(root, row[path], anywhere=True), row, part)
            for row, part in zip(rows, parts_by_row, strict=True)
        ],
        table,
        skip_missing,
    )
    clips = []
    for file, row, given in located:
        part = given.strip()
        part = part if fold else SPLIT_NAMES.get(part.lower(), "")
        if not part:
            wanted = "folds" if fold else "train, valid and test"
            raise TaskError(f"{table}: column {column!r} is {given!r} for {row[path]}; use {wanted}")
        parts = row[label].split(label_separator) if multilabel else [row[label]]
        labels = tuple(dict.fromkeys(text.strip() for text in parts if text.strip()))
        if not labels and not multilabel:
            raise TaskError(f"{table}: {row[path]} has no {label}; fill it in or remove the row")
        clips.append(Clip(file, labels, part, row[group].strip() if group else ""))
    check_once(clips, table)
    made = [f"split by ajepa, as {split_file(table).name} lists"] if auto else []
    notes = (NOTE, *made, *_shared_groups(clips))
    task = Task(table.stem, tuple(clips), fold is not None, multilabel, notes)
    splits = _splits((name, clip.split) for clip in task.clips for name in clip.labels)
    # With folds, a label's clips in one fold are scored by a model trained on the other folds.
    unseen = [
        name for name in task.classes if (len(splits[name]) < 2 if fold else "train" not in splits[name])
    ]
    if unseen:
        problem = "occur in one fold only" if fold else "have no clip for training"
        raise TaskError(f"{table}: the labels {listed(unseen)} {problem}; split them again or leave them out")
    return task


def _splits(found: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """The splits that each label or group occurs in."""
    splits: dict[str, set[str]] = defaultdict(set)
    for name, split in found:
        splits[name].add(split)
    return splits


def _shared_groups(clips: list[Clip]) -> list[str]:
    """A note about groups with clips in both training and testing."""
    splits = _splits((clip.group, clip.split) for clip in clips if clip.group)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if not shared:
        return []
    return [f"{len(shared):,} of {len(splits):,} groups have clips in several splits: {listed(shared)}"]
