"""Models on tasks with a probe on frozen features: one JSON record for each pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ajepa.errors import AjepaError
from ajepa.eval.models.open import Named
from ajepa.eval.results.errors import check_distinct
from ajepa.eval.results.provenance import about_task, interval_method, provenance
from ajepa.eval.results.result import Result, compare_with
from ajepa.eval.results.scores import bootstrap, interval
from ajepa.eval.tasks import Task

from .embeddings import DEFAULT_CACHE, POOLS, TIMES, Embedded, embed_task
from .probes import BALANCED, PROBES, Probe
from .selection import describe, run_probe

CLASS_WEIGHTS = ("none", "balanced")


class ProbeError(AjepaError, ValueError):
    """An evaluation was asked for that cannot be done; the message says what can."""


@dataclass(frozen=True)
class ProbeOptions:
    """How models are probed.

    Args:
        protocol: "linear" or "knn".
        layer: "last", a number from 1, "best" on validation, "each" (a record for each), or "weighted": a sum
            with weights that are learned with the linear probe.
        pool: frequency patches of a time step side by side ("concat"), averaged ("mean"), or what is "best"
            on validation.
        time: over time the mean ("mean"), with the standard deviation behind it ("mean+std"), or what is
            "best" on validation. `logmel` has both in any case.
        class_weight: in the linear probe clips weigh alike ("none"), or classes do ("balanced"), as with the
            samplers of s3prl's keyword spotting.
        cache: folder of the embeddings.
    """

    protocol: str = "linear"
    layer: str = "last"
    pool: str = "concat"
    time: str = "mean"
    class_weight: str = "none"
    cache: str | Path = DEFAULT_CACHE

    def __post_init__(self) -> None:
        if self.protocol not in PROBES:
            raise ProbeError(f"protocol is {self.protocol!r}; choose {' or '.join(PROBES)}")
        if self.layer == "weighted" and self.protocol != "linear":
            raise ProbeError(f"weights of layers are learned with a linear probe, not with {self.protocol}")
        if self.class_weight not in CLASS_WEIGHTS:
            raise ProbeError(f"class_weight is {self.class_weight!r}; choose {' or '.join(CLASS_WEIGHTS)}")
        if self.class_weight == "balanced" and self.protocol != "linear":
            raise ProbeError(f"classes are balanced in a linear probe, not with {self.protocol}")
        for name, value, known in (("pool", self.pool, POOLS), ("time", self.time, TIMES)):
            if value not in (*known, "best"):
                raise ProbeError(f"{name} is {value!r}; choose {', '.join(known)} or best")

    def probe(self, task: Task) -> Probe:
        """The probe for a task. Raises ProbeError: clips of several labels have no balance of classes."""
        if self.class_weight == "none":
            return PROBES[self.protocol]
        if task.multilabel:
            raise ProbeError(f"{task.name}: clips have several labels; balanced classes need one a clip")
        return BALANCED


def probe_models(
    models: Sequence[Named],
    task: Task,
    options: ProbeOptions,
    baseline: str | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """One record for each model (with `layer="each"` for each layer too).

    Args:
        models: models, with names that differ.
        task: the task.
        options: how.
        baseline: name of the model that the others are compared with, clip by clip; None compares none.
        report: is given each record before the next one is begun, which may fail. A later baseline is added
            to it when that is there.

    Raises:
        ProbeError: names that are alike, no such baseline, layer or pooling.
        AudioError: a clip cannot be decoded.
    """
    check_distinct([model.name for model in models], baseline, ProbeError)
    results: list[Result] = []
    for model in models:
        for result in probe_model(model, task, options):
            results.append(result)
            if baseline is not None:
                compare_with(results, baseline)
            if report is not None:
                report(result.record)
    return [result.record for result in results]


def probe_model(model: Named, task: Task, options: ProbeOptions) -> Iterator[Result]:
    """The result of one model; with `layer="each"` one for each layer, as they come.

    Raises:
        ProbeError: no such layer or pooling.
        AudioError: a clip cannot be decoded.
    """
    embedded = embed_task(model, task, all_layers=options.layer != "last", cache=options.cache)
    layers = [options.layer]
    if options.layer == "each":
        layers = [*(str(number) for number in range(1, embedded.values.shape[1])), "last"]
    for layer in layers:
        yield _probe(model, task, embedded, layer, options)


def _probe(model: Named, task: Task, embedded: Embedded, layer: str, options: ProbeOptions) -> Result:
    probe, started = options.probe(task), time.perf_counter()
    try:
        representations = embedded.representations(layer, options.pool, options.time)
    except ValueError as error:
        raise ProbeError(f"{model.name}: {error}") from error
    outcome = run_probe(representations, task, probe)
    seconds = time.perf_counter() - started
    drawn = bootstrap(outcome.splits)
    scores = [split.score for split in outcome.splits]
    # One clip tells the width; the representations of all of them take gigabytes.
    one = embedded._replace(values=embedded.values[:1]).representations(layer, options.pool, options.time)
    chosen = describe(outcome.choices, task.rounds(), probe)
    for choice, weights in zip(chosen.values(), outcome.layer_weights, strict=True):
        if weights:
            # The first block's to the last one's, and the normed last one's.
            choice["layer_weights"] = weights
    record = {
        "model": model.name,
        "source": model.source,
        "task": task.name,
        "protocol": options.protocol,
        "metric": task.metric,
        "score": outcome.score,
        "interval": interval(drawn),
        "interval_method": interval_method(task),
        "spread": float(torch.tensor(scores).std()) if len(scores) > 1 else None,
        "folds": {split.split: split.score for split in outcome.splits},
        "seeds": [],  # a convex fit or a count of neighbours: nothing is drawn
        "chosen": chosen,
        "layer": layer,
        "pool": options.pool,
        "time": options.time,
        "class_weight": options.class_weight,
        "precision": model.precision,
        "features": next(iter(one.values()))().shape[-1],
        "embed_seconds": embedded.seconds,
        "embeddings_cached": embedded.cached,
        "clips_per_s": len(task.clips) / embedded.seconds,
        "probe_seconds": seconds,
        "weights": embedded.weights,
        **about_task(task),
        **provenance(torch.device("cpu")),  # the probe's; embedding may have run elsewhere
    }
    return Result(record, drawn)
