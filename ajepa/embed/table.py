"""Rows as Parquet: the columns, and what the file says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ajepa.files import in_place_of
from ajepa.model import AudioEncoder
from ajepa.model.embedding import layers_text
from ajepa.model.fingerprint import fingerprint

from .compute import Row
from .options import Number, Wanted

ABOUT = b"ajepa"  # the key of the description in a file's metadata
NUMBERS: dict[Number, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}


def describe(model: AudioEncoder, wanted: Wanted) -> dict[str, Any]:
    """What all rows of a job share; two jobs with the same description give the same values."""
    states, statistics = len(model.encoder.blocks) + 1, 1 if model.pooling == "mean" else 2
    of_layer = model.encoder.freq_patches * model.encoder.width * statistics
    width = {"clip": model.clip_size, "layers": states * of_layer}
    return {
        **asdict(wanted),
        "features": width.get(wanted.what, model.embedding_size),
        "layers": states if wanted.what == "layers" else 1,
        "frequency_patches": model.encoder.freq_patches,
        "width": model.encoder.width if wanted.what == "layers" else model.joined_width,
        "pooling": model.pooling,
        "joined": layers_text(model.embedding_layers),
        "hop_seconds": model.hop_seconds,
        "sample_rate": model.sample_rate,
        "precision": model.precision,
        "weights": fingerprint(model),
        "source": model.source.recipe if model.source else "",
        "version": version("ajepa"),
    }


def schema_of(about: dict[str, Any]) -> pa.Schema:
    """The columns.

    path, start, end and sha256 say which audio a row is of: seconds into the file, and the checksum of the
    file's bytes. The last column is named after what it holds: `clip` and `layers` have a fixed number of
    values, `frames` and `patches` a list of time steps with a fixed number of values each.
    """
    vector = pa.list_(NUMBERS[about["numbers"]], about["features"])
    values = vector if about["what"] in ("clip", "layers") else pa.list_(vector)
    columns = {"path": pa.string(), "start": pa.float64(), "end": pa.float64(), "sha256": pa.string()}
    return pa.schema([*columns.items(), (about["what"], values)], metadata={ABOUT: json.dumps(about)})


def write_part(path: Path, rows: Sequence[Row], checksums: Sequence[str], about: dict[str, Any]) -> None:
    """Write rows as one file, whole or not at all."""
    schema = schema_of(about)
    table = pa.table(
        [
            pa.array([row.piece.item.name for row in rows], pa.string()),
            pa.array([row.piece.start for row in rows], pa.float64()),
            pa.array([row.piece.end for row in rows], pa.float64()),
            pa.array(list(checksums), pa.string()),
            _values([row.values.numpy() for row in rows], schema.field(4).type),
        ],
        schema=schema,
    )
    with in_place_of(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _values(arrays: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    inner = kind if pa.types.is_fixed_size_list(kind) else kind.value_type
    numbers = np.float16 if inner.value_type == pa.float16() else np.float32
    flat = np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.empty(0)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(numbers)), type=inner)
    if inner is kind:
        return vectors
    steps = np.cumsum([0, *(len(array) for array in arrays)])
    return pa.ListArray.from_arrays(pa.array(steps, pa.int32()), vectors)


def about_of(schema: pa.Schema) -> dict[str, Any]:
    """The description in a file's metadata; empty where it has none."""
    return json.loads((schema.metadata or {}).get(ABOUT, b"{}"))
