"""Clips with labels, as a table of the user lists them: the one reader of such tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ajepa.audio.source import AudioBytes

from .tables import (
    LABEL_SEPARATOR,
    Table,
    TaskError,
    check_separator,
    find_path_column,
    listed,
    locate,
    read_table,
)

LABEL_COLUMNS = ("label", "labels")
START_COLUMNS, END_COLUMNS, DURATION_COLUMNS = ("start", "onset"), ("end", "offset"), ("duration",)
# What a label may lie beyond the end of its file: editors round, and decoders drop a codec's padding.
BEYOND_SECONDS = 0.1
ROUNDING = 1e-6  # seconds; start + (end - start) may be a hair more than end
AUTO = "auto"  # in the place of a column of splits: there is none
SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid"}
SPLIT_NAMES |= {"dev": "valid", "test": "test", "testing": "test", "eval": "test"}


class Labelled(NamedTuple):
    """A clip with its labels.

    Attributes:
        path: its file, which may be missing.
        name: the file as its source names it.
        labels: one label, or any number of several.
        split: train, valid or test; with folds, the fold's name; empty if the source has neither.
        group: what it shares with other clips (recording, speaker); empty if it is independent.
        start: where it begins in the file, in seconds.
        seconds: its length; None is the rest of the file.
        inside: its audio, if the file holds that of many clips.
    """

    path: Path
    name: str
    labels: tuple[str, ...]
    split: str = ""
    group: str = ""
    start: float = 0.0
    seconds: float | None = None
    inside: AudioBytes | None = None

    @property
    def recording(self) -> str:
        """Which audio it is a part of."""
        return str(self.path) if self.inside is None else self.inside.name


class LabelTable(NamedTuple):
    """A table of labels that was read.

    Attributes:
        clips: in the table's order, each once.
        folds: whether their splits are folds.
        segments: whether they are parts of their files.
        path_column: the column of the files.
        notes: what a reader of scores should know.
    """

    clips: list[Labelled]
    folds: bool
    segments: bool
    path_column: str
    notes: tuple[str, ...]


def read_labelled(
    path: Path,
    *,
    label: str | None = None,
    fold: str | None = None,
    split: str | None = None,
    group: str | None = None,
    path_column: str | None = None,
    audio_root: str | Path | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    segments: bool = False,
) -> LabelTable:
    """Read a table with one row for each clip; `read_table` has the formats.

    Args:
        label: column of the labels; None is `label` or `labels`.
        fold, split: column of the folds, or of train, valid and test. Without both it is `fold` or `split`,
            whichever the table has. The split "auto", or the file of a split, says that there is none.
        group: column of what clips share.
        path_column: column of the files; None is one of `PATH_COLUMNS`.
        audio_root: folder that the files' paths start from; the table's folder if None.
        multilabel: a cell holds any number of labels, separated by `label_separator`; rows of the same clip
            are joined.
        segments: a row is a part of its file, from `start` (or `onset`) to `end` (or `offset`), or for
            `duration`, in seconds. It is taken to be one anyway where a file is in several rows.

    Raises:
        TaskError: the table or a column is missing, or a cell cannot be used; files may be missing.
    """
    check_separator(path, label_separator, multilabel)
    table = read_table(path, joint=label_separator)
    root = path.parent if audio_root is None else Path(audio_root)
    files = find_path_column(table, path_column)
    names = dict.fromkeys(row[files].strip() for row in table.rows)
    return labelled_rows(
        table,
        files,
        {name: (locate(root, name, anywhere=True), None) for name in names if name},
        label=label,
        assigned=_needed(table, fold, split),
        group=group,
        label_separator=label_separator if multilabel else None,
        segments=segments,
    )


def labelled_rows(
    table: Table,
    files: str,
    located: Mapping[str, tuple[Path, AudioBytes | None]],
    *,
    label: str | None,
    assigned: Assigned,
    group: str | None,
    label_separator: str | None,
    segments: bool,
) -> LabelTable:
    """The clips of a table's rows; see `read_labelled`.

    Args:
        files: the column of the files' names.
        located: by these names, the file, and the audio if the file holds that of many clips.
        assigned: the column of the splits.
        label_separator: between several labels; None if clips have one.
    """
    labels = table.need(label) if label else table.find(*LABEL_COLUMNS) or table.need(LABEL_COLUMNS[0])
    grouped = table.need(group) if group else None
    times = _Times.of(table)
    names = [row[files].strip() for row in table.rows]
    if segments and times is None:
        raise TaskError(f"{table.path}: no columns start and end; its columns are {listed(table.columns)}")
    cut = times is not None and (segments or len(set(names)) < len(names))
    clips: dict[tuple[str, float, float | None], Labelled] = {}
    for number, (name, row) in enumerate(zip(names, table.rows, strict=True)):
        where = f"{table.where(number)}: {name}"
        if not name:
            raise TaskError(f"{table.where(number)}: {files} is empty; name a file or remove the row")
        start, seconds = times.read(table, number) if cut and times else (0.0, None)
        path, inside = located[name]
        clip = Labelled(
            path,
            name,
            _labels(row[labels], label_separator, labels, where),
            assigned.read(row, where),
            row[grouped].strip() if grouped else "",
            start,
            seconds,
            inside,
        )
        place = clip.recording, start, seconds
        other = clips.setdefault(place, clip)
        if other is not clip:
            clips[place] = _joined(other, clip, label_separator is not None, where)
    notes: tuple[str, ...] = ()
    if times is not None and not cut:
        notes = (
            f"columns {times.start} and {times.end} are not read, because each file has one row; "
            "--segments reads them",
        )
    return LabelTable(list(clips.values()), assigned.folds, cut, files, notes)


class Assigned(NamedTuple):
    """The column that assigns clips to splits, None if there is none, and whether it holds folds."""

    column: str | None
    folds: bool = False

    def read(self, row: Mapping[str, str], where: str) -> str:
        """A row's split, empty without a column. Raises TaskError."""
        if self.column is None:
            return ""
        text = row[self.column].strip()
        if not text:
            raise TaskError(f"{where}: column {self.column!r} is empty; fill it in or remove the row")
        if self.folds:
            return text
        if text.lower() not in SPLIT_NAMES:
            raise TaskError(f"{where}: column {self.column!r} is {text!r}; use train, valid and test")
        return SPLIT_NAMES[text.lower()]


def find_assigned(table: Table, fold: str | None, split: str | None) -> Assigned | None:
    """The column that is named, or the one that is called `fold` or `split`; None if there is none.

    Raises TaskError if both are named, the one named is not there, or the table has both.
    """
    if fold is not None and split is not None:
        raise TaskError(f"{table.path}: pass a column of folds or one of splits, not both")
    if split == AUTO or (split is not None and table.find(split) is None and Path(split).is_file()):
        return Assigned(None)
    if fold is not None or split is not None:
        return Assigned(table.need(fold or split or ""), fold is not None)
    found = {name: column for name in ("fold", "split") if (column := table.find(name))}
    if len(found) > 1:
        raise TaskError(
            f"{table.path}: expected a column 'fold' or 'split'; has both columns; name the one to use"
        )
    return next((Assigned(column, name == "fold") for name, column in found.items()), None)


def _needed(table: Table, fold: str | None, split: str | None) -> Assigned:
    if found := find_assigned(table, fold, split):
        return found
    raise TaskError(
        f"{table.path}: expected a column 'fold' or 'split'; its columns are {listed(table.columns)}; name "
        f"it with --fold or --split, or pass --split {AUTO}"
    )


def _labels(text: str, separator: str | None, column: str, where: str) -> tuple[str, ...]:
    if separator is not None:
        return tuple(dict.fromkeys(part.strip() for part in text.split(separator) if part.strip()))
    if not text.strip():
        raise TaskError(f"{where} has no {column}; fill it in or remove the row")
    return (text.strip(),)


def _joined(first: Labelled, second: Labelled, multilabel: bool, where: str) -> Labelled:
    """Two rows of one clip."""
    if not multilabel:
        raise TaskError(f"{where} is listed twice; pass multilabel, or remove one row")
    if first.split != second.split:
        raise TaskError(f"{where} is in {first.split} and in {second.split}; keep one")
    return first._replace(labels=tuple(dict.fromkeys((*first.labels, *second.labels))))


class _Times(NamedTuple):
    """The columns of a segment's start, and of its end or its duration."""

    start: str
    end: str
    is_duration: bool

    @classmethod
    def of(cls, table: Table) -> _Times | None:
        start, end, duration = (
            table.find(*names) for names in (START_COLUMNS, END_COLUMNS, DURATION_COLUMNS)
        )
        if start and end:
            return cls(start, end, False)
        return cls(start, duration, True) if start and duration else None

    def read(self, table: Table, number: int) -> tuple[float, float | None]:
        """Start and length of a row, in seconds."""
        start = table.number(number, self.start) or 0.0
        end = table.number(number, self.end)
        seconds = end if end is None or self.is_duration else end - start
        if start < 0 or (seconds is not None and seconds <= 0):
            rule = "more than 0" if self.is_duration else "after the start"
            raise TaskError(
                f"{table.where(number)}: {self.start} is {start:g}, {self.end} is {end}; give seconds from 0 "
                f"on, and for {self.end} {rule}"
            )
        return start, seconds


def check_no_overlap(clips: Sequence[Labelled], source: Path) -> None:
    """Raises TaskError for audio that is in two splits, which would be both trained on and tested."""
    spans: dict[str, list[tuple[float, float, str, str]]] = {}
    for clip in clips:
        end = float("inf") if clip.seconds is None else clip.start + clip.seconds
        spans.setdefault(clip.recording, []).append((clip.start, end, clip.split, clip.name))
    for found in spans.values():
        latest: dict[str, float] = {}  # end of what has begun so far, by split
        for start, end, split, name in sorted(found):
            begun = (one for one, until in latest.items() if one != split and until > start + ROUNDING)
            if other := next(begun, None):
                raise TaskError(
                    f"{source}: {name} from {start:g} s on is in {split} and in {other}; keep each second of "
                    "a recording in one split"
                )
            latest[split] = max(end, latest.get(split, 0.0))
