"""A task from any table: separated text, JSON, JSON Lines or Parquet, with one row per clip."""

from __future__ import annotations

from pathlib import Path

from ajepa.data.labelled import read_labelled
from ajepa.data.tables import LABEL_SEPARATOR

from .labelled import make_task
from .task import Task

NOTE = "the user's own table"


def open_table(
    data: str | Path,
    *,
    label: str | None = None,
    fold: str | None = None,
    split: str | None = None,
    group: str | None = None,
    path: str | None = None,
    audio_root: str | Path | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    segments: bool = False,
    skip_missing: bool = False,
) -> Task:
    """A task from the table `data`; the columns are found as `ajepa.data.labelled.read_labelled` says.

    Args:
        data: the table.
        label, path: columns of the labels and of the audio files; None for their usual names.
        fold, split: column of the folds, or of train, valid and test. The split "auto" is not a column: the
            clips are split by `ajepa.data.splitting.auto_split`, or as a file says that it wrote.
        group: column of what clips share (recording, speaker); clips of a group are resampled together.
        audio_root: the folder that the files' paths start from; the table's folder if None.
        multilabel: a cell holds any number of labels, separated by `label_separator`.
        segments: each row is a part of its file.
        skip_missing: leave out clips whose files are missing.

    Raises:
        TaskError: the table, a column or a file is missing, a split is unknown, a label is empty or
            never trained on, or audio is listed twice.
    """
    table = Path(data)
    found = read_labelled(
        table,
        label=label,
        fold=fold,
        split=split,
        group=group,
        path_column=path,
        audio_root=audio_root,
        multilabel=multilabel,
        label_separator=label_separator,
        segments=segments,
    )
    return make_task(
        table,
        found.clips,
        name=table.stem,
        folds=found.folds,
        split=split,
        multilabel=multilabel,
        segments=found.segments,
        skip_missing=skip_missing,
        path_column=found.path_column,
        notes=(NOTE, *found.notes),
    )
