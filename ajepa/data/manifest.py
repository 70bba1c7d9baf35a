"""Manifests: tables of clips, CSV or Parquet, for sets that are too large or too selective for a folder.

Columns: `path` (relative to the manifest's folder, or absolute), and optionally `start` and `duration` or
`end` in seconds (a part of the file; empty for all of it) and `labels` (text). Other columns are ignored. A
path may appear in several rows, for several parts of one recording.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from ajepa.files import in_place_of

from .clips import Clip, DataError
from .tables import LONGEST_FIELD, plain_columns

SUFFIXES = (".csv", ".parquet")
COLUMNS = {"path": pa.string(), "start": pa.float64(), "duration": pa.float64(), "end": pa.float64()}
_MISTAKEN = ("begin", "stop", "onset", "offset", "start_time", "end_time")  # would be ignored silently
_ROWS = 65_536  # at a time; changing it changes every fingerprint
_CHECKED_FILES = 8  # at the start, so that a wrong folder is reported before training


class Manifest:
    """The clips of a manifest. Only the columns are in memory; no file is opened.

    Args:
        path: the manifest.
        labels: keep the column `labels` too.

    Raises:
        DataError: it is missing, unreadable or without rows, a column or a value is wrong (the message has
            the row's number, counted from 1), or none of the files that were checked exists.
    """

    shard_sizes: tuple[int, ...] = ()

    def __init__(self, path: str | Path, *, labels: bool = False) -> None:
        self.path = Path(path)
        self.root = self.path.parent
        table = read_manifest(self.path, labels=labels)
        self._paths = table["path"]
        self._labels = table["labels"] if "labels" in table.column_names else None
        # NaN for empty cells. NumPy and Arrow arrays are single blocks of memory, which forked loader
        # processes share.
        self._starts, self._durations = (
            table[name].to_numpy() if name in table.column_names else None for name in ("start", "duration")
        )
        self._check_files()

    def __len__(self) -> int:
        return len(self._paths)

    def clip(self, index: int) -> Clip:
        name = self._paths[index].as_py()
        start = 0.0 if self._starts is None else float(np.nan_to_num(self._starts[index]))
        duration = np.nan if self._durations is None else self._durations[index]
        return Clip(
            name,
            str(self.root / name),
            start,
            None if np.isnan(duration) else float(duration),
            f"row {index + 1} of {self.path}",
            None if self._labels is None else self._labels[index].as_py(),
        )

    def siblings(self, index: int) -> range:
        return range(len(self))

    def seconds(self) -> np.ndarray:
        return np.full(len(self), np.nan) if self._durations is None else self._durations

    def fingerprint(self) -> dict[str, Any]:
        """A hash of paths, starts and durations, the same for CSV and Parquet."""
        digest = hashlib.sha256()
        for first in range(0, len(self), _ROWS):
            rows = slice(first, first + _ROWS)
            digest.update("\0".join(self._paths[rows].to_pylist()).encode())
            for times in (self._starts, self._durations):
                if times is not None:
                    digest.update(np.ascontiguousarray(times[rows], dtype="<f8").tobytes())
                digest.update(b"\n")
        return {"files": len(self), "sha256": digest.hexdigest()}

    def _check_files(self) -> None:
        places = np.linspace(0, len(self) - 1, num=min(_CHECKED_FILES, len(self)), dtype=int)
        files = [self.clip(int(place)).audio for place in places]
        if not any(os.path.exists(str(file)) for file in files):  # noqa: PTH110  # False for absurd names
            raise DataError(
                f"{self.path}: none of {len(files)} listed files exists, such as {files[0]}; paths are "
                "relative to the manifest's folder"
            )


def read_manifest(path: Path, *, labels: bool = False) -> pa.Table:
    """Those of the columns path, start, duration and labels that a manifest has; null for empty times."""
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; make one with `ajepa data manifest FOLDER {path}`")
    types = COLUMNS | ({"labels": pa.string()} if labels else {})
    try:
        table = _read_csv(path, types) if path.suffix.lower() == ".csv" else _read_parquet(path, types)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable as a manifest: {' '.join(str(error).split())}") from error
    if len(table) == 0:
        raise DataError(f"{path}: the manifest has no rows; list at least one file")
    absent = pc.or_kleene(pc.is_null(table["path"]), pc.equal(table["path"], ""))
    _refuse_rows(path, absent.to_numpy(), "path is empty, name a file or remove the row")
    for name, least in (("start", "at least 0"), ("duration", "more than 0")):
        if name in table.column_names:
            values = table[name].to_numpy()
            right = values >= 0 if name == "start" else values > 0
            wrong = table[name].is_valid().to_numpy() & ~(np.isfinite(values) & right)
            _refuse_rows(path, wrong, f"{name} must be a number of seconds, {least}, or empty")
    return _with_durations(path, table) if "end" in table.column_names else table


def _with_durations(path: Path, table: pa.Table) -> pa.Table:
    """A table of segments: `end` turned into `duration`."""
    if "duration" in table.column_names:
        raise DataError(f"{path}: has the columns duration and end; remove one")
    starts = table["start"].fill_null(0.0) if "start" in table.column_names else pa.scalar(0.0)
    durations = pc.subtract(table["end"], starts)
    values = durations.to_numpy()
    wrong = durations.is_valid().to_numpy() & ~(np.isfinite(values) & (values > 0))
    _refuse_rows(path, wrong, "end must be a number of seconds after start, or empty")
    return table.append_column("duration", durations).drop_columns(["end"])


def write_manifest(path: Path, rows: Iterable[dict[str, Any]], types: dict[str, pa.DataType]) -> int:
    """Write rows as CSV or Parquet by the suffix, whole or not at all; returns their number."""
    schema, count = pa.schema(types.items()), 0
    kind = pa.csv.CSVWriter if path.suffix.lower() == ".csv" else pa.parquet.ParquetWriter
    iterator = iter(rows)
    with in_place_of(path) as partial:
        with kind(str(partial), schema) as writer:
            while batch := list(islice(iterator, _ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema))
                count += len(batch)
        if count == 0:
            raise DataError(f"{path}: not written, because no file can be used")
    return count


def relative_path(file: Path, manifest: Path) -> str:
    """A file's path in a manifest: relative to the manifest's folder if it is below it, else absolute."""
    file, folder = Path(os.path.abspath(file)), Path(os.path.abspath(manifest.parent))  # noqa: PTH100  # keeps links
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()


def _read_csv(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    columns = _wanted(path, header, types)
    wanted = list(columns.values())

    def read(kinds: dict[str, pa.DataType]) -> pa.Table:
        convert = pa.csv.ConvertOptions(
            column_types={column: kinds[name] for name, column in columns.items()},
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        # One thread reads two million rows in a second; each further one would hold blocks of the file.
        serial = pa.csv.ReadOptions(use_threads=False)
        table = pa.csv.read_csv(
            path, read_options=serial, convert_options=convert, memory_pool=pa.system_memory_pool()
        )
        return table.rename_columns(list(columns))

    try:
        return read(types)
    except pa.ArrowInvalid:
        _name_bad_number(path, read(dict.fromkeys(types, pa.string())))
        raise


def _read_parquet(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    wanted = _wanted(path, pa.parquet.read_schema(path).names, types)
    schema = pa.schema([(name, types[name]) for name in wanted])
    # Batch by batch: two thirds of the peak of reading the table at once.
    with pa.parquet.ParquetFile(path, pre_buffer=False) as file:
        batches = [
            pa.record_batch([_cast(batch[column], types[name]) for name, column in wanted.items()], schema)
            for batch in file.iter_batches(_ROWS, columns=list(wanted.values()), use_threads=False)
        ]
    pa.default_memory_pool().release_unused()
    return pa.Table.from_batches(batches, schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):  # labels as lists
        return pc.binary_join(column, ";").cast(kind)
    return column.cast(kind)


def _wanted(path: Path, header: list[str], types: dict[str, pa.DataType]) -> dict[str, str]:
    """The columns to read, by this module's names; spaces around a name and its case do not matter."""
    found = dict(zip((name.lower() for name in plain_columns(path, header, DataError)), header, strict=True))
    if "path" not in found:
        listed = ", ".join(header) or "none"
        raise DataError(
            f"{path}: no column is called path (there are: {listed}); rename the column of the files"
        )
    if other := [name for name in _MISTAKEN if name in found]:
        raise DataError(
            f"{path}: a column is called {found[other[0]]!r}; parts are given by start and duration "
            "or end, in seconds: rename or remove it"
        )
    return {name: found[name] for name in types if name in found}


def _name_bad_number(path: Path, texts: pa.Table) -> None:
    """Raise DataError for the first value that is not a number, if there is one."""
    for name in ("start", "duration", "end"):
        if name not in texts.column_names:
            continue
        for row, text in enumerate(texts[name].to_pylist(), start=1):
            try:
                float(text or 0)
            except ValueError as error:
                raise DataError(
                    f"{path}: row {row}: {name} is {text!r}; give a number of seconds or leave it empty"
                ) from error


def _refuse_rows(path: Path, wrong: np.ndarray, rule: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        raise DataError(f"{path}: row {rows[0] + 1}{more}: {rule}")
