"""Predictions as a table: CSV, JSON, JSON lines or Parquet, written row by row, whole or not at all.

CSV and Parquet have a row for each label, `path,start,end,label,probability`, and one without a label for a
file that has none. JSON has an object for each file or window, with a list of labels.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ajepa.errors import AjepaError, shown
from ajepa.files import in_place_of

from .files import Prediction

ENDINGS = (".csv", ".json", ".jsonl", ".parquet")
COLUMNS = {
    "path": pa.string(),
    "start": pa.float64(),
    "end": pa.float64(),
    "label": pa.string(),
    "probability": pa.float64(),
}
ROWS_A_GROUP = 65_536
DIGITS = 6

Write = Callable[[Prediction], None]


class PredictError(AjepaError, ValueError):
    """Predictions cannot be made or written as asked; the message says what to do."""


def check_ending(out: Path) -> None:
    """Raises PredictError for a name that does not say what is written."""
    if out.suffix.lower() not in ENDINGS:
        raise PredictError(
            f"--out {out}: name a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        )


@contextmanager
def open_table(out: Path | None, about: dict[str, Any]) -> Iterator[Write]:
    """A function that writes a prediction.

    Args:
        out: the file, which appears when the context exits without an error; None prints CSV.
        about: kept in the metadata of Parquet, under the key `ajepa`.
    """
    if out is None:
        yield _csv(sys.stdout, shown if sys.stdout.isatty() else str)
        return
    kind = out.suffix.lower()
    with in_place_of(out) as partial:
        if kind == ".parquet":
            with _parquet(partial, about) as write:
                yield write
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            if kind == ".csv":
                yield _csv(file)
            elif kind == ".jsonl":
                yield lambda row: print(_object(row), file=file)
            else:
                with _json(file) as write:
                    yield write


def _rows(row: Prediction) -> list[tuple[str, float, float, str | None, float | None]]:
    where = (row.path, round(row.start, DIGITS), round(row.end, DIGITS))
    return [(*where, label, round(value, DIGITS)) for label, value in row.labels] or [(*where, None, None)]


def _csv(file: IO[str], name: Callable[[str], str] = str) -> Write:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    return lambda row: writer.writerows(_rows(row._replace(path=name(row.path))))


def _object(row: Prediction) -> str:
    labels = [{"label": label, "probability": round(value, DIGITS)} for label, value in row.labels]
    where = {"path": row.path, "start": round(row.start, DIGITS), "end": round(row.end, DIGITS)}
    return json.dumps(where | {"labels": labels}, ensure_ascii=False)


@contextmanager
def _json(file: IO[str]) -> Iterator[Write]:
    before = "[\n"

    def write(row: Prediction) -> None:
        nonlocal before
        file.write(f"{before}{_object(row)}")
        before = ",\n"

    yield write
    file.write("[]\n" if before == "[\n" else "\n]\n")


@contextmanager
def _parquet(path: Path, about: dict[str, Any]) -> Iterator[Write]:
    schema = pa.schema(list(COLUMNS.items()), metadata={"ajepa": json.dumps(about)})
    held: list[tuple[Any, ...]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            columns = list(zip(*held, strict=True)) or [()] * len(COLUMNS)
            writer.write_table(
                pa.table(
                    [pa.array(c, t) for c, t in zip(columns, COLUMNS.values(), strict=True)], schema=schema
                )
            )
            held.clear()

        def write(row: Prediction) -> None:
            held.extend(_rows(row))
            if len(held) >= ROWS_A_GROUP:
                flush()

        yield write
        flush()
