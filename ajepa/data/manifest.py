"""Manifests: tables of clips, for sets that are too large or too selective for a folder.

Columns: `path`, or as in other tables `filename`, `file_name` or `file` (relative to the manifest's folder,
or absolute), and optionally `start` and `duration` or `end` in seconds (a part of the file; empty for all of
it) and `labels` (text). Other columns are ignored. A path may appear in several rows, for several parts of
one recording.

They are read as all tables are (see `cells`), and Parquet as it is typed.
"""

from __future__ import annotations

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

from .cells import read_cells
from .clips import Clip, DataError
from .tables import LABEL_SEPARATOR, PATH_COLUMNS, Table, as_number, filled_rows, plain_columns, readable

WRITTEN = (".csv", ".parquet")
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
    with readable(path, DataError, "a manifest"):
        table = (_read_parquet if path.suffix.lower() == ".parquet" else _read_text)(path, types)
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


def _read_text(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    cells = read_cells(path, LABEL_SEPARATOR)
    wanted = _wanted(path, cells.columns, types)
    rows = filled_rows(path, cells, DataError)
    batches: list[pa.RecordBatch] = []
    schema = pa.schema([(name, types[name]) for name in wanted])
    # Batch by batch: only the columns of Arrow grow with the table.
    while batch := list(islice(rows, _ROWS)):
        first = _ROWS * len(batches) + 1
        arrays = []
        for name, place in wanted.items():
            texts = [row[place] for row in batch]
            if types[name] == pa.string():
                arrays.append(pa.array([text or None for text in texts], pa.string()))
            else:
                arrays.append(_numbers(texts, cells.comma, f"{path}: row", first, name))
        batches.append(pa.record_batch(arrays, schema))
    return pa.Table.from_batches(batches, schema)


def _numbers(texts: list[str], comma: bool, where: str, first: int, name: str) -> pa.Array:
    """Cells as numbers. Raises DataError for the first that is none; `first` is the number of its row."""
    found = []
    for text in texts:
        try:
            found.append(as_number(text, comma))
        except ValueError as error:
            row = first + len(found)
            raise DataError(
                f"{where} {row}: {name} is {text!r}; give a number of seconds or leave it empty"
            ) from error
    return pa.array(found, pa.float64())


def _read_parquet(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    header = pa.parquet.read_schema(path).names
    wanted = {name: header[place] for name, place in _wanted(path, header, types).items()}
    schema = pa.schema([(name, types[name]) for name in wanted])
    # Batch by batch: two thirds of the peak of reading the table at once.
    with pa.parquet.ParquetFile(path, pre_buffer=False) as file:
        batches = [
            pa.record_batch([_cast(batch[column], types[name]) for name, column in wanted.items()], schema)
            for batch in file.iter_batches(_ROWS, columns=list(wanted.values()), use_threads=False)
        ]
    pa.default_memory_pool().release_unused()
    table = pa.Table.from_batches(batches, schema)
    table.validate(full=True)  # texts in UTF-8
    return table


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):  # labels as lists
        return pc.binary_join(column, ";").cast(kind)
    return column.cast(kind)


def _wanted(path: Path, header: list[str], types: dict[str, pa.DataType]) -> dict[str, int]:
    """Where the columns to read are, by this module's names, in any case and with spaces."""
    names = plain_columns(path, header, DataError)
    table = Table(path, names, [])
    # `path` first: of manifests that have another of these columns too, it was always the one.
    files = table.find("path", *PATH_COLUMNS)
    if files is None:
        listed = ", ".join(header) or "none"
        raise DataError(
            f"{path}: no column is called path (there are: {listed}); rename the column of the files"
        )
    if other := table.find(*_MISTAKEN):
        raise DataError(
            f"{path}: a column is called {other!r}; parts are given by start and duration or end, in "
            "seconds: rename or remove it"
        )
    found = {name: files if name == "path" else table.find(name) for name in types}
    return {name: names.index(column) for name, column in found.items() if column is not None}


def _refuse_rows(path: Path, wrong: np.ndarray, rule: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        raise DataError(f"{path}: row {rows[0] + 1}{more}: {rule}")
