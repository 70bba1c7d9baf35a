"""The parts of a record about the task, the interval's method, versions and hardware."""

from __future__ import annotations

from typing import Any

import torch

from ajepa.eval.tasks import Task
from ajepa.training.provenance import describe_run

from .scores import ACCURACY_DRAWS, PRECISION_DRAWS


def about_task(task: Task) -> dict[str, Any]:
    """Counts, notes and fingerprint of what is scored."""
    return {
        "clips": len(task.clips),
        "clips_by_split": dict(sorted(task.counts.items())),
        "classes": len(task.classes),
        "notes": task.notes,
        "task_hash": task.fingerprint(),
    }


def interval_method(task: Task) -> str:
    """How `scores.bootstrap` resamples the task."""
    draws = PRECISION_DRAWS if task.multilabel else ACCURACY_DRAWS
    grouped = any(clip.group for clip in task.clips)
    of = "groups of clips of one source" if grouped else "clips"
    return f"95 %, bootstrap of {draws:,} draws over {of} within each test split"


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and threads."""
    run = describe_run(device)
    return {
        "versions": {name: run[name] for name in ("ajepa", "commit", "torch", "python")},
        "hardware": run["device"],
        "threads": run["threads"],
    }
