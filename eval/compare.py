"""Models times tasks times protocols, from one file; what is finished is not run again.

    models:                       # name: what `ajepa evaluate --model` takes
      log-mel: logmel
      twin: ajepa-small-cpu
      A-JEPA: runs/first
    tasks:                        # name: the task's data and options; `task` where the name is another
      esc10: {data: esc50}
      words: {task: speech_commands_v2, data: speech_commands_v0.02}
    protocols: [linear, knn]
    baseline: log-mel             # optional: the model that the others are compared with
    layer: last                   # optional, as are pool and precision

Every cell leaves its record and its bootstrap draws in files named by a hash of the weights, the task and the
options. A cell that fails is reported, and the others are done.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import yaml

from ajepa.files import write, write_json
from ajepa.precision import Precision

from .embeddings import DEFAULT_CACHE
from .hear import fingerprint
from .models import Named, open_model
from .native import ProbeOptions, Result, compare_with, probe_model
from .published import published
from .tasks import Task, open_task


class ComparisonError(ValueError):
    """The file of a comparison cannot be used; the message names it and the entry."""


@dataclass(frozen=True)
class Comparison:
    """A comparison as its file has it; see this module's text."""

    models: dict[str, str]
    tasks: dict[str, dict[str, Any]]
    protocols: list[str] = field(default_factory=lambda: ["linear"])
    baseline: str | None = None
    layer: str = "last"
    pool: str = "concat"
    precision: Precision = "float32"

    @classmethod
    def read(cls, path: str | Path) -> Comparison:
        """Raises ComparisonError: no such file, an unknown or missing entry, or one of another kind."""
        path = Path(path)
        if not path.is_file():
            raise ComparisonError(f"{path}: no such file; expected YAML with models, tasks and protocols")
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ComparisonError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
        known = [entry.name for entry in fields(cls)]
        if not isinstance(content, dict) or (surplus := sorted(map(str, set(content) - set(known)))):
            found = ", ".join(surplus) if isinstance(content, dict) else "no entries"
            raise ComparisonError(f"{path}: {found}; a comparison has {', '.join(known)}")
        for name in ("models", "tasks"):
            if not isinstance(content.get(name), dict) or not content[name]:
                raise ComparisonError(f"{path}: {name} must be names with values, at least one")
        for name, options in content["tasks"].items():
            if not isinstance(options, dict) or "data" not in options:
                raise ComparisonError(f"{path}: task {name} needs its data, such as {{data: FOLDER}}")
        baseline = content.get("baseline")
        if baseline is not None and baseline not in content["models"]:
            raise ComparisonError(f"{path}: baseline {baseline} is none of the models")
        content["layer"] = str(content.get("layer", "last"))
        if content["layer"] == "each":
            raise ComparisonError(f"{path}: layer is each; a comparison takes last, best or a number")
        if content.get("precision", "float32") not in get_args(Precision):
            raise ComparisonError(f"{path}: precision must be {' or '.join(get_args(Precision))}")
        return cls(**content)


@dataclass(frozen=True)
class Failure:
    """A cell that could not be done, and why."""

    model: str
    task: str
    protocol: str
    reason: str


def compare(
    comparison: Comparison, out: str | Path, cache: str | Path = DEFAULT_CACHE
) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Run what is not finished, and write `records.json`, `table.md` and `table.csv` into `out`.

    Raises:
        ProbeError: an unknown protocol.
    """
    out = Path(out)
    options = {
        protocol: ProbeOptions(protocol, comparison.layer, comparison.pool, cache)
        for protocol in comparison.protocols
    }
    failures: list[Failure] = []
    tasks = _open_tasks(comparison, failures)
    results: dict[tuple[str, str], list[Result]] = {}
    for name, source in comparison.models.items():
        try:
            model = open_model(f"{name}={source}", precision=comparison.precision)
        except (ValueError, RuntimeError, OSError) as error:
            failures += [_failed(name, t, p, error) for t in tasks for p in options]
            continue
        weights = fingerprint(model.module)
        for task_name, task in tasks.items():
            for protocol, how in options.items():
                try:
                    result = _cell(model, weights, task, how, out / "cells")
                except (ValueError, RuntimeError, OSError) as error:
                    failures.append(_failed(name, task_name, protocol, error))
                else:
                    result.record["task"] = task_name
                    results.setdefault((task_name, protocol), []).append(result)
    records = []
    for members in results.values():
        if comparison.baseline in {result.record["model"] for result in members}:
            compare_with(members, str(comparison.baseline))
        records += [result.record for result in members]
    complete = {name: task.name for name, task in tasks.items() if not task.notes}
    rows = _rows(records, complete, failures)
    write_json(out / "records.json", records)
    write(out / "table.md", markdown(rows))
    write(out / "table.csv", as_csv(rows))
    return records, failures


def _open_tasks(comparison: Comparison, failures: list[Failure]) -> dict[str, Task]:
    tasks = {}
    for name, given in comparison.tasks.items():
        options = {key: value for key, value in given.items() if key not in {"task", "data"}}
        try:
            tasks[name] = open_task(given.get("task", name), given["data"], **options)
        except (ValueError, OSError) as error:
            failures += [_failed(m, name, p, error) for m in comparison.models for p in comparison.protocols]
    return tasks


def _failed(model: str, task: str, protocol: str, error: Exception) -> Failure:
    print(f"failed: {model} on {task}, {protocol}: {error}", file=sys.stderr)
    return Failure(model, task, protocol, str(error))


def _cell(model: Named, weights: str, task: Task, options: ProbeOptions, folder: Path) -> Result:
    parts = (
        version("ajepa"),
        weights,
        type(model.module).__name__,
        model.precision,
        task.fingerprint(),
        options.protocol,
        options.layer,
        options.pool,
    )
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
    record_file, draws_file = folder / f"{key}.json", folder / f"{key}.npy"
    if record_file.is_file() and draws_file.is_file():
        record = json.loads(record_file.read_text())
        return Result(record | {"model": model.name}, torch.from_numpy(np.load(draws_file)))
    (result,) = probe_model(model, task, options)
    draws = io.BytesIO()
    np.save(draws, result.draws_S.numpy())
    write(draws_file, draws.getvalue())
    write_json(record_file, result.record)  # last: with it the cell is finished
    return result


def _rows(
    records: Sequence[dict[str, Any]], complete: dict[str, str], failures: Sequence[Failure]
) -> list[dict[str, str]]:
    """The table's rows: ours, failures, and what others have published for the tasks that are complete."""
    rows = []
    for record in records:
        low, high = record["interval"]
        over = ""
        if "baseline" in record:
            compared = record["baseline"]
            below, above = compared["interval"]
            over = f"{compared['difference']:+.3f} ({below:+.3f} to {above:+.3f})"
        rows.append(
            _row(record["model"], record["task"], record["protocol"], f"{record['score']:.3f}")
            | {"interval": f"{low:.3f} to {high:.3f}", "over the baseline": over}
            | {"clips/s": f"{record['clips_per_s']:.0f}", "remark": "; ".join(record["notes"])}
        )
    for failure in failures:
        reason = f"failed: {failure.reason}"
        rows.append(_row(failure.model, failure.task, failure.protocol, "-") | {"remark": reason})
    for task, protocol in dict.fromkeys((record["task"], record["protocol"]) for record in records):
        for entry in published(complete.get(task, ""), protocol):
            remark = f"published: {entry.source}"
            rows.append(_row(entry.model, task, protocol, f"{entry.score:.3f}") | {"remark": remark})
    return rows


def _row(model: str, task: str, protocol: str, score: str) -> dict[str, str]:
    empty = {"interval": "", "over the baseline": "", "clips/s": "", "remark": ""}
    return {"task": task, "protocol": protocol, "model": model, "score": score} | empty


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(text.replace("|", "/") for text in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    """The table as CSV."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
