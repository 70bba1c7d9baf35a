"""Score models on HEAR tasks with the stock toolkit, unmodified: embeddings, then its MLP predictions.

Each (model, task) cell runs heareval's two commands in processes of their own and leaves one JSON record.
A cell's folder is named by a hash of the model's weights, its front end and the task, because heareval
itself takes whatever it finds in a folder for finished: other weights under the same name run anew.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ajepa.eval.models.sources import find_encoder
from ajepa.eval.results.errors import EvaluationError
from ajepa.files import write_json
from ajepa.model.fingerprint import fingerprint
from ajepa.model.loading import load_model
from ajepa.named_source import named_source

from .commands import alone_in, check_names, run_stock, versions


@dataclass(frozen=True)
class Entry:
    """One row of a comparison.

    Attributes:
        name: how the table calls it.
        module: the HEAR module that serves it.
        source: what `ajepa.load_model` takes, empty for the log-mel baseline.
    """

    name: str
    module: str
    source: str

    @classmethod
    def parse(cls, text: str) -> Entry:
        """`logmel`, SOURCE or NAME=SOURCE.

        Raises:
            EvaluationError, HubError, RecipeError: as `find_encoder`.
        """
        return cls.of(*named_source(text))

    @classmethod
    def of(cls, name: str, source: str) -> Entry:
        """Of a name, which may be empty, and a source; raises as `parse` does."""
        if source == "logmel":
            return cls(name or "log-mel", "ajepa.eval.logmel", "")
        name, path = find_encoder(name, source, "hear")  # heareval wants a path that exists
        return cls(name, "ajepa.hear_module", path)

    def load(self) -> nn.Module:
        """The model itself, for its weights' hash."""
        if self.source:
            return load_model(self.source)
        from ajepa.eval.models.logmel import LogMelStatistics

        return LogMelStatistics()


def evaluate(
    entries: Sequence[Entry],
    tasks_dir: str | Path,
    out: str | Path,
    *,
    task: str = "all",
    grid: str = "default",
    grid_points: int = 8,
) -> list[dict[str, Any]]:
    """Run every entry on every task; finished cells are read, not run again.

    Args:
        entries: models.
        tasks_dir: folder of HEAR task folders.
        out: results: `<task>/<name>-<hash>/` for each cell and `records.json` with all records.
        task: one task's folder name, or "all".
        grid, grid_points: heareval's hyper-parameter grid and how many of its points it tries.

    Raises:
        EvaluationError: no such task, none at a model's sample rate, names that are alike, or a heareval
            command failed.
    """
    tasks_dir, out = Path(tasks_dir), Path(out)
    tasks = sorted(p.parent for p in tasks_dir.glob("*/task_metadata.json") if task in ("all", p.parent.name))
    if not tasks:
        raise EvaluationError(
            f"{tasks_dir}: no HEAR task {'' if task == 'all' else task + ' '}in it; "
            "`ajepa data hear-task` makes one"
        )
    check_names([entry.name for entry in entries])
    records = []
    # All are loaded first: what cannot be scored is told before the toolkit runs.
    for entry, weights in [(entry, _weights(entry, tasks)) for entry in entries]:
        for folder in tasks:
            records.append(_cell(entry, weights, folder.resolve(), out.resolve(), grid, grid_points))
            write_json(out / "records.json", records)
    return records


def _weights(entry: Entry, tasks: Sequence[Path]) -> str:
    """The model's fingerprint. Raises EvaluationError where a task has no audio at its rate."""
    model = entry.load()
    for task in tasks:
        if not (task / str(model.sample_rate)).is_dir():
            raise EvaluationError(
                f"{task}: no audio at the {model.sample_rate} Hz of {entry.name}; `ajepa data hear-task "
                f"... --sample-rate {model.sample_rate} --out OTHER_FOLDER` makes the task at that rate"
            )
    return fingerprint(model)


def _cell(entry: Entry, weights: str, task: Path, out: Path, grid: str, grid_points: int) -> dict[str, Any]:
    task_hash = _task_fingerprint(task)
    parts = f"{weights} {task_hash} {grid} {grid_points} {versions('heareval')}"
    key = hashlib.sha256(parts.encode()).hexdigest()[:8]
    cell = out / task.name / f"{entry.name}-{key}"
    record_file = cell / "record.json"
    if record_file.is_file():
        return json.loads(record_file.read_text())
    model = ["--model", entry.source] if entry.source else []
    embed = [entry.module, *model, "--tasks-dir", str(task.parent), "--task", task.name]
    # Relative: heareval mirrors the path of the embeddings under its logs.
    embedded = Path("embeddings", entry.module, task.name)
    predict = [str(embedded), "--grid", grid, "--grid-points", str(grid_points)]
    with alone_in(cell):
        embed_seconds = _run("embeddings", [*embed, "--embeddings-dir", "embeddings"], cell)
        predict_seconds = _run("predictions", predict, cell)

    metadata = json.loads((task / "task_metadata.json").read_text())
    results = json.loads((cell / embedded / "test.predicted-scores.json").read_text())
    profile = json.loads((cell / embedded / "profile.embeddings.json").read_text())
    folds = {key: value["test_score"] for key, value in results.items() if _is_split(value)}
    clips = sum(len(json.loads((task / f"{split}.json").read_text())) for split in metadata["splits"])
    record = {
        "model": entry.name,
        "source": entry.source,
        "task": task.name,
        "protocol": "hear",
        "metric": metadata["evaluation"][0],
        "score": statistics.fmean(folds.values()),
        "spread": statistics.stdev(folds.values()) if len(folds) > 1 else None,
        "folds": folds,
        "seeds": [42],  # heareval seeds everything with 42
        "clips": clips,
        "embed_seconds": embed_seconds,
        "predict_seconds": predict_seconds,
        "clips_per_s": clips / profile["time_elapsed"],
        "grid": grid,
        "grid_points": grid_points,
        "hparams": results["hparams"],
        "weights": weights,
        "task_hash": task_hash,
        "versions": versions("heareval", "torch", "lightning", "numpy"),
    }
    write_json(record_file, record)
    return record


def _is_split(value: object) -> bool:
    return isinstance(value, dict) and "test_score" in value and "validation_score" in value


def _run(step: str, arguments: list[str], cell: Path) -> float:
    return run_stock(f"heareval.{step}.runner", arguments, cell, cell / f"{step}.log")


def _task_fingerprint(task: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(task.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(task).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(records: Sequence[dict[str, Any]]) -> str:
    """A text table: models down, tasks across, score ± standard deviation over folds."""
    tasks = list(dict.fromkeys(record["task"] for record in records))
    models = list(dict.fromkeys(record["model"] for record in records))
    cells = {(r["model"], r["task"]): _score_text(r) for r in records}
    rows = [["model", *tasks], *([model, *(cells[model, task] for task in tasks)] for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _score_text(record: dict[str, Any]) -> str:
    if record["spread"] is None:
        return f"{record['score']:.3f}"
    return f"{record['score']:.3f} ± {record['spread']:.3f}"
