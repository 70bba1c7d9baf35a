"""Curves of pre-training runs from their metrics.jsonl, in one picture."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ajepa.errors import AjepaError
from ajepa.objectives.metrics import Panel

from .files import save

# What every run logs; `panels` puts what the objectives log between the two.
FIRST_PANELS = {
    "loss": Panel(
        "loss",
        "What the optimiser minimises. In a JEPA the targets change while the encoder learns, so a falling "
        "loss proves nothing, and a rising one can be fine: follow a probe and RankMe.",
    ),
    "rankme": Panel(
        "RankMe of the features (1: collapse)",
        "The effective number of dimensions that the features fill, at most their width. Healthy: it rises. "
        "Below half of its highest value the features are collapsing, often while the loss falls.",
    ),
    "probe": Panel(
        "kNN probe",
        "Accuracy of nearest neighbours on labelled clips. Healthy: it rises above its first value, that of "
        "random weights. This is the curve to trust.",
    ),
}
LAST_PANELS = {
    "attention_entropy": Panel(
        "attention entropy",
        "How evenly tokens attend to others: 1 is uniform, 0 is to one token only. Healthy: it falls from 1 "
        "as attention becomes selective.",
    ),
    "grad_norm": Panel(
        "gradient norm",
        "The gradient's length before it is clipped. Single spikes are normal; if it keeps rising, lower "
        "optim.lr or lengthen optim.warmup_steps.",
    ),
    "clips_per_s": Panel(
        "clips/s",
        "Clips trained on per second. A drop means that the machine does other work, or that training waits "
        "for audio.",
    ),
    "data_wait": Panel(
        "waiting for audio",
        "Share of the time in which training waited for audio. Above a few percent, more data.workers, a "
        "cache or shards make the run faster.",
    ),
}
CAPTION_LETTERS = 66  # of a line of an explanation: as wide as a panel
POINTS = 200  # of a curve, each the mean of its neighbourhood: steps of few clips are mostly noise


class CurvesError(AjepaError, ValueError):
    """A run has no curves to draw; the message says why."""


def panels() -> dict[str, Panel]:
    """Metrics with their titles and explanations; a picture has a panel for each that a run logged."""
    from ajepa.objectives.systems import ObjectiveError, objective_config, objective_names

    found = dict(FIRST_PANELS)
    for system in objective_names():
        with suppress(ObjectiveError):  # a broken package must not stop the others' curves
            for metric, panel in objective_config(system).metrics.items():
                found[metric] = Panel(panel) if isinstance(panel, str) else panel
    return found | LAST_PANELS


def training_time(lines: Iterable[Mapping[str, Any]], clips: int) -> tuple[int, float]:
    """Steps, and seconds of training alone, from the rates that a run has logged.

    Args:
        lines: of metrics.jsonl.
        clips: of a step.
    """
    seconds, before = 0.0, 0
    for line in lines:
        if line.get("clips_per_s"):
            seconds += (line["step"] - before) * clips / line["clips_per_s"]
            before = line["step"]
    return before, seconds


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return what a run logged, in the order of its steps.

    A run that was killed and resumed has logged some steps twice: the later line counts. An incomplete line
    is skipped. Raises CurvesError if there is no metrics.jsonl or it is empty.
    """
    path = run / "metrics.jsonl" if run.is_dir() else run
    if not path.is_file():
        raise CurvesError(f"{path}: no such file; give the folder that `ajepa pretrain` wrote")
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows[row["step"]] = rows.get(row["step"], {}) | row
    if not rows:
        raise CurvesError(f"{path}: no metrics in it; the run has to log a step first (run.log_every)")
    return [rows[step] for step in sorted(rows)]


def curve(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], list[float]]:
    """Return steps and values of one metric, averaged over neighbours to at most ``POINTS`` points."""
    found = [(row["step"], row[metric]) for row in rows if isinstance(row.get(metric), (int, float))]
    points = np.array([point for point in found if np.isfinite(point[1])]).reshape(-1, 2)
    groups = np.array_split(points, max(1, min(POINTS, len(points)))) if len(points) else []
    means = [group.mean(0).tolist() for group in groups]
    return [step for step, _ in means], [value for _, value in means]


def draw_curves(runs: Mapping[str, Path], out: Path) -> list[str]:
    """Draw the curves of named runs into one picture; returns the metrics in it.

    Raises CurvesError if a run has none.
    """
    from matplotlib.figure import Figure

    logs = {name: read_metrics(path) for name, path in runs.items()}
    known = panels()
    curves = {metric: {name: curve(rows, metric) for name, rows in logs.items()} for metric in known}
    shown = [metric for metric, lines in curves.items() if any(steps for steps, _ in lines.values())]
    if not shown:
        raise CurvesError(f"{', '.join(map(str, runs.values()))}: none of {', '.join(known)} was logged")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, metric in zip(axes.flat, shown, strict=False):
        for name, (steps, values) in curves[metric].items():
            axis.plot(steps, values, label=name, linewidth=1.2)
        axis.set_title(known[metric].title, fontsize=9)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        caption = textwrap.fill(known[metric].explanation, CAPTION_LETTERS)
        axis.set_xlabel(f"step\n{caption}", fontsize=7, color="#555555", loc="left")
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    if len(runs) > 1:
        axes[0, 0].legend(fontsize=8)
    save(figure, out)
    return shown
