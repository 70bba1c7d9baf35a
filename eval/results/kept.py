"""What a record leaves out: each scored clip's answer, and every clip's place among the others.

Both are Parquet files next to the record, which pandas, polars and DuckDB open directly. The report lists
errors, compares models and draws maps from them.

Columns of answers, a row for each scored clip of each layer and seed: `layer`, `seed` (null without one),
`split`, `clip` (path, or the toolkit's name), `start` and `seconds` (null for a whole file), `group`, `truth`
(labels), `labels` (the most likely ones, at most MOST_LABELS) and `scores` (theirs, falling; null where a
toolkit reports labels alone).

Columns of features, a row for each clip: `split`, `clip`, `start`, `seconds`, `truth` and `features`, the
first COMPONENTS principal components of the features that were probed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ajepa.errors import AjepaError
from ajepa.files import printable, write

from .scores import Scored

if TYPE_CHECKING:
    import pyarrow as pa

    from ajepa.eval.tasks import Task

MOST_LABELS = 20
COMPONENTS = 32
MOST_MAPPED = 10_000  # clips; of a larger set, evenly spaced ones


class KeptError(AjepaError, ValueError):
    """A file of answers or features cannot be read; the message names it."""


def answers_of(
    task: Task, runs: Sequence[Sequence[Scored]], *, layer: str = "last", seeds: Sequence[int] = ()
) -> pa.Table:
    """The answers to a task's clips.

    Args:
        runs: for each seed, or once, the test splits with their clips in the task's order.
        seeds: their numbers; empty if nothing is random.
    """
    members = {
        split: [place for place, clip in enumerate(task.clips) if clip.split == split]
        for split in task.counts
    }
    rows = []
    for number, splits in enumerate(runs):
        for split in splits:
            best_MK = split.scores_MC.float().topk(min(MOST_LABELS, split.scores_MC.shape[1]))
            for place, labels, scores in zip(
                members[split.split], best_MK.indices.tolist(), best_MK.values.tolist(), strict=True
            ):
                clip = task.clips[place]
                rows.append(
                    {
                        "layer": layer,
                        "seed": seeds[number] if seeds else None,
                        "split": split.split,
                        "clip": printable(clip.name),
                        "start": clip.start,
                        "seconds": clip.seconds,
                        "group": printable(clip.group),
                        "truth": list(clip.labels),
                        "labels": [task.classes[label] for label in labels],
                        "scores": scores,
                    }
                )
    return answers_table(rows)


def answers_of_toolkit(runs: Sequence[Mapping[str, Any]], seeds: Sequence[int], layer: str) -> pa.Table:
    """The answers of a toolkit's heads.

    Args:
        runs: for each seed, the columns of `ajepa.eval.results.answers.scored`.
    """
    rows = []
    for seed, run in zip(seeds, runs, strict=True):
        columns = (run[name] for name in ("splits", "clips", "groups", "truth", "answers"))
        for split, clip, group, truth, answer in zip(*columns, strict=True):
            place = {"split": split, "clip": clip, "start": 0.0, "group": group}
            answered = {"truth": [truth], "labels": [answer]}
            rows.append({"layer": layer, "seed": seed, **place, **answered})
    return answers_table(rows)


def answers_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Answers as a table.

    Args:
        rows: with the columns named above; one that is missing is null.
    """
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=_schema())


def features_of(task: Task, features_ND: Tensor) -> pa.Table:
    """The principal components of a task's clips, for a map.

    Args:
        features_ND: those of all clips, in the task's order. Each column is scaled to unit variance first, as
            the probes do.
    """
    import pyarrow as pa

    step = -(-len(task.clips) // MOST_MAPPED)
    clips, values_ND = task.clips[::step], features_ND[::step].float()
    values_ND = values_ND - values_ND.mean(0)
    values_ND = values_ND / values_ND.std(0).clamp_min(1e-6)
    count = min(COMPONENTS, *values_ND.shape)
    # Random projections draw from the global generator; the same clips must give the same map.
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        _, _, basis_DK = torch.pca_lowrank(values_ND, count, center=False)
    return pa.table(
        {
            "split": [clip.split for clip in clips],
            "clip": [printable(clip.name) for clip in clips],
            "start": [clip.start for clip in clips],
            "seconds": pa.array([clip.seconds for clip in clips], pa.float64()),
            "truth": pa.array([list(clip.labels) for clip in clips], pa.list_(pa.string())),
            "features": pa.array((values_ND @ basis_DK).tolist(), pa.list_(pa.float32())),
        }
    )


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "layer": pa.string(),
            "seed": pa.int64(),
            "split": pa.string(),
            "clip": pa.string(),
            "start": pa.float64(),
            "seconds": pa.float64(),
            "group": pa.string(),
            "truth": pa.list_(pa.string()),
            "labels": pa.list_(pa.string()),
            "scores": pa.list_(pa.float32()),
        }
    )


def write_table(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write tables as one Parquet file, which appears complete or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.concat_tables(tables), buffer, compression="zstd")
    write(path, buffer.getvalue())


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of such a file.

    Args:
        columns: those that it must have.

    Raises:
        KeptError: it is missing or damaged, or lacks a column.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise KeptError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from error
    if missing := sorted(set(columns) - set(table.column_names)):
        raise KeptError(f"{path}: it has no column {', '.join(missing)}; run the comparison again")
    kinds = {field.name: field.type for field in _schema()} | {"features": pa.list_(pa.float32())}
    try:
        return pa.table({name: table[name].cast(kinds[name]) for name in columns}).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise KeptError(
            f"{path}: damaged ({' '.join(str(error).split())}); run the comparison again"
        ) from error
