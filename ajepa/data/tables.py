"""Tables of labelled clips on disk, and the files that they list."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ajepa.errors import AjepaError

from .cells import Cells, CellsError, read_cells
from .copies import COPY_SUFFIXES

PATH_COLUMNS = ("filename", "path", "file_name", "file")  # default columns of the files in a table
LABEL_SEPARATOR = ";"


class TaskError(AjepaError, ValueError):
    """A source cannot become a task; the message says what was expected and what to do."""


@dataclass(frozen=True)
class Table:
    """A table with cells of text.

    Attributes:
        path: its file.
        columns: their names, in order.
        rows: a cell for every column; empty where the file has none.
        comma: whether a comma may be the decimal point.
    """

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]
    comma: bool = False

    def where(self, row: int) -> str:
        """The table and a row, for messages. Rows are counted from 1, after the header."""
        return f"{self.path}: row {row + 1}"

    def find(self, *names: str) -> str | None:
        """The first of these columns that the table has, also if it is written in another case."""
        for name in names:
            alike = [column for column in self.columns if column.lower() == name.lower()]
            if name in alike:
                return name
            if len(alike) == 1:
                return alike[0]
        return None

    def need(self, name: str, remedy: str = "") -> str:
        """A column that must be there. Raises TaskError."""
        if found := self.find(name):
            return found
        has = f"{self.path}: no column {name}; its columns are {listed(self.columns)}"
        raise TaskError(f"{has}; {remedy}" if remedy else has)

    def number(self, row: int, column: str) -> float | None:
        """The number in a cell, None if it is empty. Raises TaskError for anything else."""
        text = self.rows[row][column]
        try:
            return as_number(text, self.comma)
        except ValueError as error:
            raise TaskError(f"{self.where(row)}: {column} is {text.strip()!r}; {NO_NUMBER}") from error


NO_NUMBER = "give a number or leave it empty"


def as_number(text: str, comma: bool) -> float | None:
    """The finite number in a cell, None if it is empty. Raises ValueError for anything else.

    Args:
        comma: whether the comma may be the decimal point.
    """
    if not (plain := text.strip()):
        return None
    if comma and plain.count(",") == 1 and "." not in plain:
        plain = plain.replace(",", ".")
    if not math.isfinite(value := float(plain)):
        raise ValueError(f"{plain} is not finite")
    return value


def existing_folder(path: str | Path, expected: str) -> Path:
    """`path`, if it is a folder; the TaskError otherwise says what was `expected`."""
    if not Path(path).is_dir():
        raise TaskError(f"{path}: no such folder; expected {expected}")
    return Path(path)


def plain_columns(path: Path, header: Sequence[str], kind: type[AjepaError] = TaskError) -> list[str]:
    """The names of a table's columns without the spaces around them, the rule of all tables and manifests.

    Raises an error of this kind for two columns of one name: which one counts would be a guess.
    """
    names = [name.strip() for name in header]
    if doubled := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise kind(f"{path}: two columns are named {doubled[0]}; rename one")
    return names


def read_table(path: Path, columns: Sequence[str] = (), joint: str = LABEL_SEPARATOR) -> Table:
    """A table that has at least `columns`, named exactly so.

    The suffix decides how it is read: .parquet, .json, .jsonl or .ndjson, and anything else as separated text
    (see `cells`).

    Args:
        joint: what joins the items of a cell that holds a list.

    Raises:
        TaskError: the file is missing or unreadable, has no rows, a row is longer than the header, or a
            column is missing.
    """
    if not path.is_file():
        wanted = f" with the columns {', '.join(columns)}" if columns else ""
        raise TaskError(f"{path}: no such file; expected a table{wanted}")
    with readable(path, TaskError, "a table"):
        cells = read_cells(path, joint)
        names = plain_columns(path, cells.columns)
        table = Table(path, [name for name in names if name], [], cells.comma)
        if missing := [column for column in columns if column not in names]:
            raise TaskError(f"{path}: no column {listed(missing)}; its columns are {listed(table.columns)}")
        for row in filled_rows(path, cells):
            table.rows.append({name: cell for name, cell in zip(names, row, strict=True) if name})
    if not table.rows:
        raise TaskError(f"{path}: the table has no rows")
    return table


@contextmanager
def readable(path: Path, kind: type[AjepaError], what: str) -> Iterator[None]:
    """Errors of `read_cells` and of taking its rows become one line of this kind, with the file's name."""
    try:
        yield
    except CellsError as error:
        raise kind(f"{path}: {error}") from error
    except AjepaError:
        raise
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise kind(f"{path}: cannot be read as {what} ({' '.join(str(error).split())})") from error


def filled_rows(path: Path, cells: Cells, kind: type[AjepaError] = TaskError) -> Iterator[list[str]]:
    """The rows that are not empty, with a cell for each column; what a short row lacks is empty.

    Spreadsheets write rows of separators alone at the end. Raises an error of this kind for a longer row.
    """
    number, width = 0, len(cells.columns)
    for row in cells.rows:
        if not any(map(str.strip, row)):
            continue
        number += 1
        if any(row[width:]):
            raise kind(
                f"{path}: row {number} has {len(row)} cells, and the header {width}; put cells that "
                "contain the separator in quotes"
            )
        yield row[:width] + [""] * (width - len(row))


def find_path_column(table: Table, named: str | None) -> str:
    """The column of the files in a table: the one named, else the first of `PATH_COLUMNS`."""
    wanted = PATH_COLUMNS if named is None else (named,)
    if found := table.find(*wanted):
        return found
    raise TaskError(
        f"{table.path}: no column {' or '.join(wanted)} with the files; its columns are "
        f"{listed(table.columns)}; name the right one with --path"
    )


def check_separator(table: Path, separator: str, multilabel: bool) -> None:
    """Raises TaskError for a separator that is empty or would be ignored."""
    if not separator:
        raise TaskError(f"{table}: the label separator is empty; give one, such as {LABEL_SEPARATOR!r}")
    if separator != LABEL_SEPARATOR and not multilabel:
        raise TaskError(
            f"{table}: only multilabel tables separate labels (by {separator!r}); pass multilabel too"
        )


def locate(root: Path, name: str, *, anywhere: bool = False) -> Path:
    """`root`/`name`, or the file of the same stem in another audio format; it may be missing.

    A name may lack its suffix, and its folders may be separated as on Windows.

    Args:
        anywhere: a user's own table, whose paths may be absolute or lead out of `root`. One that came with
            an archive may not, as written: links inside the data set may lead elsewhere.

    Raises TaskError for a path that leads out of `root`.
    """
    name = name.strip()
    base = os.path.normpath(Path.cwd() / root)
    path = Path(os.path.normpath(Path(base, name)))
    if not name or not (anywhere or path.is_relative_to(base)):
        raise TaskError(
            f"path {name!r} is empty or leads out of {root}; pass the folder that contains all audio"
        )
    if is_file(path):
        return path
    if "\\" in name:
        return locate(root, name.replace("\\", "/"), anywhere=anywhere)
    others = [path.with_suffix(suffix) for suffix in COPY_SUFFIXES if path.suffix]
    others += [path.with_name(f"{path.name}{suffix}") for suffix in COPY_SUFFIXES]
    return next(filter(is_file, others), path)


def without_missing(located: list[Any], table: Path, skip: bool) -> list[Any]:
    """The tuples of `located` whose first item is a file; missing files are an error, with `skip` a note."""
    missing = [item[0] for item in located if not is_file(item[0])]
    if not missing:
        return located
    message = f"{table}: {len(missing):,} of {len(located):,} listed files are missing: {listed(missing)}"
    if not skip or len(missing) == len(located):
        raise TaskError(f"{message}; complete the copy, or pass skip_missing to leave them out")
    note(message)
    return [item for item in located if is_file(item[0])]


def without_suffix(name: str) -> str:
    """`word/clip.wav` as `word/clip`: a list says .wav, whatever the format of the copy."""
    return str(Path(name).with_suffix(""))


def listed(items: Sequence[Any]) -> str:
    """The first five, and how many more; of a long one its beginning."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(str(item)[:300] or "''" for item in items[:5]) + more


def is_file(path: Path) -> bool:
    """Whether a file is there, whatever a table says: False also for names too long for the system."""
    return os.path.isfile(path)  # noqa: PTH113


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
