"""Records of probes, for tests that need no command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ajepa.eval.models.open import Named
from ajepa.eval.protocols.probing import Probing, probe_model
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import compare_with
from ajepa.eval.tasks import Task


def probed(
    models: Sequence[Named], task: Task, how: Probing, cache: Path, baseline: str | None = None
) -> list[Record]:
    """One record for each model; with `layer="each"` one for each layer."""
    results = [result for model in models for result in probe_model(model, task, how, cache)]
    if baseline is not None:
        results = compare_with(results, baseline)
    return [result.record for result in results]
