"""Reading embeddings back: `ajepa.read_embeddings`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .options import EmbedError

PARTS = "part-*.parquet"


@dataclass(frozen=True)
class Embeddings:
    """What `ajepa embed` wrote, N rows.

    Attributes:
        paths: the file of each row, as the command named it.
        start, end: seconds into the file, [N].
        sha256: of each row's file.
        values: [N, features] with "clip"; [N, layers, features] with "layers"; else a list of arrays
            [T, features] or, with "patches", [T, F, D].
        about: what the job computed: model, options, time between steps.
    """

    paths: list[str]
    start: np.ndarray
    end: np.ndarray
    sha256: list[str]
    values: np.ndarray | list[np.ndarray]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.paths)


def read_embeddings(path: str | Path) -> Embeddings:
    """Read a Parquet file or a job's folder of `ajepa embed` into memory.

    pandas, polars and DuckDB open the same files directly.

    Raises:
        EmbedError: nothing is there, or it is not a result of `ajepa embed`.
    """
    from .table import about_of

    table = _table(Path(path))
    foreign = EmbedError(f"{path}: Parquet, but not of `ajepa embed`; read it with pandas or pyarrow")
    try:
        about = about_of(table.schema)
        return _embeddings(table, about)
    except Exception as error:  # of damaged or foreign metadata: any of Python's
        raise foreign from error


def _embeddings(table: pa.Table, about: dict[str, Any]) -> Embeddings:
    values: np.ndarray | list[np.ndarray]
    column = table[about["what"]].combine_chunks()
    if about["what"] in ("clip", "layers"):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        shape = (about["layers"], -1) if about["what"] == "layers" and len(table) else (about["features"],)
        values = flat.reshape(len(table), *shape)
    else:
        ends = column.offsets.to_numpy()
        steps = column.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, about["features"])
        if about["what"] == "patches":
            steps = steps.reshape(-1, about["frequency_patches"], about["width"])
        values = [steps[first:last] for first, last in pairwise(ends)]
    return Embeddings(
        table["path"].cast(pa.string()).to_pylist(),
        table["start"].cast(pa.float64()).to_numpy(),
        table["end"].cast(pa.float64()).to_numpy(),
        table["sha256"].cast(pa.string()).to_pylist(),
        values,
        about,
    )


def parts_of(folder: Path) -> list[Path]:
    """The finished parts of a job's folder, in the order of its plan."""
    return sorted(folder.glob(PARTS))


def _table(path: Path) -> pa.Table:
    if path.is_dir():
        parts = parts_of(path)
        if not parts:
            raise EmbedError(
                f"{path}: no {PARTS} in it; give a folder or a file that `ajepa embed --out` named"
            )
        return pa.concat_tables(read_parquet(part, "remove it and embed again") for part in parts)
    if not path.is_file():
        raise EmbedError(f"{path}: no such file; give a folder or a file that `ajepa embed --out` named")
    return read_parquet(path, "`.npz` is read by numpy.load")


def read_parquet(path: Path, remedy: str) -> pa.Table:
    """A table. Raises EmbedError, with this remedy, for a damaged file or one of another kind."""
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise EmbedError(f"{path}: not readable as Parquet ({reason}); {remedy}") from error
