"""Tables of labelled clips on disk, and the files that they list."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ajepa.errors import AjepaError

from .copies import COPY_SUFFIXES, one_of_each

PATH_COLUMNS = ("filename", "path")  # default columns of the files in a table
LABEL_SEPARATOR = ";"
LONGEST_FIELD = 2**24  # characters; Python's own limit of 131,072 refuses texts that people have


class TaskError(AjepaError, ValueError):
    """A source cannot become a task; the message says what was expected and what to do."""


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


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV or TSV file that has at least `columns`."""
    if not path.is_file():
        raise TaskError(f"{path}: no such file; expected a table with the columns {', '.join(columns)}")
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            found = plain_columns(path, next(csv.reader(file, delimiter=delimiter), []))
            rows = list(csv.DictReader(file, found, delimiter=delimiter, restval="", restkey="surplus"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{path}: is not UTF-8 CSV ({error}); save it as such") from error
    if missing := [column for column in columns if column not in found]:
        raise TaskError(f"{path}: no column {listed(missing)}; its columns are {listed(found)}")
    if not rows:
        raise TaskError(f"{path}: the table has no rows")
    return rows


def find_path_column(table: Path, row: dict[str, str], named: str | None) -> str:
    """The column of the files in a table's row: the one named, else the first of `PATH_COLUMNS`."""
    wanted = PATH_COLUMNS if named is None else (named,)
    if found := [column for column in wanted if column in row]:
        return found[0]
    raise TaskError(
        f"{table}: no column {' or '.join(wanted)} with the files; its columns are {listed(list(row))}; name "
        "the right one with --path"
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
    if path.is_file():
        return path
    others = (path.with_suffix(suffix) for suffix in COPY_SUFFIXES if path.suffix)
    return next((other for other in others if other.is_file()), path)


def without_missing(located: list[Any], table: Path, skip: bool) -> list[Any]:
    """The tuples of `located` whose first item is a file; missing files are an error, with `skip` a note."""
    missing = [item[0] for item in located if not item[0].is_file()]
    if not missing:
        return located
    message = f"{table}: {len(missing):,} of {len(located):,} listed files are missing: {listed(missing)}"
    if not skip or len(missing) == len(located):
        raise TaskError(f"{message}; complete the copy, or pass skip_missing to leave them out")
    note(message)
    return [item for item in located if item[0].is_file()]


def without_suffix(name: str) -> str:
    """`word/clip.wav` as `word/clip`: a list says .wav, whatever the format of the copy."""
    return str(Path(name).with_suffix(""))


def audio_names(source: Path, folders: Iterable[str]) -> list[str]:
    """Audio files as folder/name, each clip once."""
    return [
        f"{folder}/{path.name}" for folder in folders for path in one_of_each((source / folder).iterdir())
    ]


def listed(items: Sequence[Any]) -> str:
    """The first five, and how many more."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(str(item) or "''" for item in items[:5]) + more


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
