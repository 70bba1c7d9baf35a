"""The parts of a record about the task, versions and hardware."""

from __future__ import annotations

from typing import Any

import torch

from ajepa.eval.tasks import Task
from ajepa.training.provenance import describe_run


def about_task(task: Task) -> dict[str, Any]:
    """Counts, notes and fingerprint of what is scored."""
    return {
        "clips": len(task.clips),
        "clips_by_split": dict(sorted(task.counts.items())),
        "classes": len(task.classes),
        "notes": task.notes,
        "task_hash": task.fingerprint(),
        "published_as": "" if task.notes else task.name,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and threads."""
    run = describe_run(device)
    return {
        "versions": {name: run[name] for name in ("ajepa", "commit", "torch", "python")},
        "hardware": run["device"],
        "threads": run["threads"],
    }
