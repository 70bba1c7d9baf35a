"""The cells of a table as text: separated text, JSON, JSON Lines and Parquet.

Separated text is what spreadsheets, pandas and databases write: comma, semicolon or tab. The header line
decides which: the one that cuts it into the most columns; of equals the comma, in .tsv files the tab. (A line
`sep=;` before it, which Excel writes and heeds, decides before that.) A mark of the byte order, Windows line
ends and rows of separators alone do not matter. The text is UTF-8, or UTF-16 with its mark.

JSON is a list of objects, that list under the key `data`, or an object with a list or an object of values for
each column, as pandas writes it. JSON Lines has an object in each line.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from ajepa.errors import AjepaError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")  # that say a file is a table
LONGEST_FIELD = 2**24  # characters; Python's own limit of 131,072 refuses texts that people have
EXAMPLE = '[{"path": "a.wav", "label": "dog"}, ...]'


class CellsError(AjepaError, ValueError):
    """What a table's file has that a table cannot have; whoever reads it adds the file's name."""


class Cells(NamedTuple):
    """A table as it stands in its file.

    Attributes:
        columns: names, as written.
        rows: cells, to be taken once; those of separated text are read meanwhile, and may be fewer or more
            than the columns.
        comma: whether a comma may be the decimal point.
    """

    columns: list[str]
    rows: Iterable[list[str]]
    comma: bool


def read_cells(path: Path, joint: str) -> Cells:
    """Read a table; the suffix decides how.

    Args:
        joint: what joins the items of a cell that holds a list.

    Raises:
        CellsError: it is not UTF-8, or not of the form above; also while rows are taken, as the others.
        OSError, ValueError, RecursionError, csv.Error, pyarrow.ArrowException: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _of_objects(_parquet(path), joint)
    if suffix == ".json":
        return _of_objects(_objects(json.loads(_text(path))), joint)
    if suffix in (".jsonl", ".ndjson"):
        return _of_objects(_lines(_text(path)), joint)
    return _separated(path)


def separator_of(file: TextIO, first: str = ",") -> str:
    """The separator of a text, which is then read up to its header; see the module docstring.

    Args:
        first: what is taken where several cut the header into as many columns.
    """
    start = file.tell()
    if found := re.fullmatch(r"sep=(.)\s*", file.readline()):
        return found[1]
    columns = {}
    for separator in sorted(",;\t", key=lambda one: one != first):
        file.seek(start)
        columns[separator] = sum(
            bool(name.strip()) for name in next(csv.reader(file, delimiter=separator), ())
        )
    file.seek(start)
    return max(columns, key=lambda one: columns[one])


def _separated(path: Path) -> Cells:
    lines = _lines_of(path)
    try:
        separator, header = next(lines)[0], next(lines, [])
    except UnicodeDecodeError as error:
        raise CellsError(_not_text(error)) from error
    return Cells(header, _decoded(lines), separator != ",")


def _lines_of(path: Path) -> Iterator[list[str]]:
    """The separator alone, then the header and the rows."""
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(newline="", encoding=_encoding(path)) as file:
        separator = separator_of(file, "\t" if path.suffix.lower() == ".tsv" else ",")
        yield [separator]
        yield from csv.reader(file, delimiter=separator)


def _decoded(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise CellsError(_not_text(error)) from error


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding=_encoding(path))
    except UnicodeDecodeError as error:
        raise CellsError(_not_text(error)) from error


def _not_text(error: UnicodeDecodeError) -> str:
    return f"is not UTF-8 ({error.reason}); save it as UTF-8, in Excel as 'CSV UTF-8'"


def _lines(text: str) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise CellsError(f"line {number} is not JSON ({error})") from error
            if not isinstance(value, dict):
                raise CellsError(f"line {number} is not an object such as {EXAMPLE[1:32]}")
            found.append(value)
    return found


def _objects(content: Any) -> list[dict[str, Any]]:
    """JSON of one of the forms above as a list of objects."""
    if isinstance(content, dict):
        if _is_rows(content.get("data")):
            content = content["data"]
        elif content and all(isinstance(values, list) for values in content.values()):
            content = _transposed(content)
        elif _is_rows(list(content.values())) and len({tuple(values) for values in content.values()}) == 1:
            content = _transposed({name: list(values.values()) for name, values in content.items()})
    if not _is_rows(content):
        raise CellsError(f"expected a list of objects such as {EXAMPLE}")
    return content


def _is_rows(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(one, dict) for one in content)


def _transposed(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if len({len(values) for values in columns.values()}) > 1:
        raise CellsError("its columns differ in length")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _parquet(path: Path) -> list[dict[str, Any]]:
    """The rows, without columns of bytes or of structures, such as audio within the table."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        kept = [field.name for field in schema if not _is_opaque(field.type)]
        rows = file.read(columns=kept).to_pylist()
    return rows or [dict.fromkeys(kept)]


def _is_opaque(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _of_objects(objects: Sequence[dict[str, Any]], joint: str) -> Cells:
    names = list(dict.fromkeys(name for one in objects for name in one))
    return Cells(names, _rows(objects, names, joint), comma=False)


def _rows(objects: Sequence[dict[str, Any]], names: Sequence[str], joint: str) -> Iterator[list[str]]:
    for number, one in enumerate(objects, 1):
        try:
            yield [as_text(one.get(name), joint) for name in names]
        except CellsError as error:
            raise CellsError(f"row {number}: {error}") from error


def as_text(value: Any, joint: str) -> str:
    """A value as a cell, empty for none. A list's items are joined; CellsError for one that has `joint`."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, list):
        items = [as_text(item, joint) for item in value]
        if wrong := [item for item in items if joint in item]:
            raise CellsError(
                f"{wrong[0]!r} in a list contains {joint!r}, which separates labels; name another separator"
            )
        return joint.join(items)
    return str(value)
