"""What a report shows of scores: the rows of its table, and curves over noise and over layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ajepa.eval.results.published import published
from ajepa.eval.results.record import Record
from ajepa.eval.results.scores import Scored, bootstrap, interval
from ajepa.eval.robustness.corruptions import CorruptionError, parse

from .answers import Answers
from .sources import Found

LOWER_IS_BETTER = ("EER",)


def rows(found: Sequence[Found], answers: dict[int, Answers]) -> list[dict[str, Any]]:
    """The table's rows: a row for each record, then the published scores of the same task and protocol.

    Args:
        answers: of the records that keep them, by their place in `found`.
    """
    best = _best(found, answers)
    listed = []
    for place, (record, _) in enumerate(found):
        baseline = record.baseline
        listed.append(
            {
                "task": record.task,
                "protocol": record.protocol,
                "model": record.model,
                "layer": record.layer,
                "metric": record.metric,
                "score": record.score,
                "interval": record.interval,
                "spread": record.spread,
                "seeds": len(record.pretraining) or len(record.seeds) or 1,
                "best": place in best,
                "baseline": None
                if baseline is None
                else {
                    "name": baseline.name,
                    "difference": baseline.difference,
                    "interval": baseline.interval,
                    "p": baseline.p,
                },
                "clips": record.clips,
                "seconds": record.seconds,
                "hardware": record.hardware,
                "versions": dict(record.versions),
                "method": record.interval_method,
                "notes": list(record.notes),
                "published": "",
            }
        )
    return listed + _published(found)


def _published(found: Sequence[Found]) -> list[dict[str, Any]]:
    listed: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record, _ in found:
        for one in published(record.published_as, record.protocol_kind):
            listed[record.task, record.protocol, one.model] = {
                "task": record.task,
                "protocol": record.protocol,
                "model": one.model,
                "layer": "",
                "metric": record.metric,
                "score": one.score,
                "published": one.source,
            }
    return list(listed.values())


def _best(found: Sequence[Found], answers: dict[int, Answers]) -> set[int]:
    """Places of the records that are better than every other one of their task and protocol.

    Better means that the 95 % interval of the paired difference is above 0; where clips' answers are not
    kept, that the two intervals do not overlap. Records without an interval are never marked.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (record, _) in enumerate(found):
        if record.metric not in LOWER_IS_BETTER:
            groups[record.task, record.protocol].append(place)
    marked = set()
    for places in groups.values():
        first = max(places, key=lambda place: found[place].record.score)
        others = [place for place in places if place != first]
        if others and all(_above(found, answers, first, other) for other in others):
            marked.add(first)
    return marked


def _above(found: Sequence[Found], answers: dict[int, Answers], first: int, other: int) -> bool:
    one, two = answers.get(first), answers.get(other)
    if one and two and not one.multilabel and one.clips == two.clips:
        span = interval(accuracy_draws(one) - accuracy_draws(two))
        return span is not None and span[0] > 0
    ours, theirs = (found[place].record.interval for place in (first, other))
    return ours is not None and theirs is not None and ours[0] > theirs[1]


def accuracy_draws(answers: Answers) -> Tensor:
    """Bootstrap draws of the accuracy [S]; answers to the same clips share them. The mean over seeds."""
    drawn = []
    for right in answers.right_by_seed:
        splits = []
        for split in dict.fromkeys(answers.splits):
            places = [place for place, its in enumerate(answers.splits) if its == split]
            right_M = torch.tensor([right[place] for place in places])
            scores_MC = torch.stack([~right_M, right_M], 1).float()
            groups = tuple(answers.groups[place] for place in places)
            splits.append(Scored(split, scores_MC, torch.ones(len(places), dtype=torch.long), groups))
        drawn.append(bootstrap(splits))
    return torch.stack(drawn).mean(0)


def robustness(found: Sequence[Found]) -> list[dict[str, Any]]:
    """For each task and protocol with corrupted clips: a curve over noise, and bars for other corruptions."""
    charts: dict[tuple[str, str], dict[str, Any]] = {}
    for record, _ in found:
        if not record.corrupted:
            continue
        chart = charts.setdefault(
            (record.task, record.protocol),
            {"task": record.task, "protocol": record.protocol, "noise": [], "others": []},
        )
        noise, others = [], []
        for one in record.corrupted:
            entry = {"score": one.score, "interval": one.interval, "name": one.corruption}
            ratio = _ratio(one.corruption)
            if ratio is None:
                others.append(entry)
            else:
                noise.append({**entry, "x": ratio})
        noise.sort(key=lambda entry: -entry["x"])
        clean = {"score": record.score, "interval": record.interval, "name": "clean"}
        area = record.noise_area.score if record.noise_area else None
        if noise:
            chart["noise"].append({"model": record.model, "points": noise, "clean": clean, "area": area})
        if others:
            chart["others"].append({"model": record.model, "points": [clean, *others]})
    return list(charts.values())


def _ratio(corruption: str) -> float | None:
    """The signal-to-noise ratio of added noise, in dB; None for other corruptions."""
    try:
        (parsed,) = parse(corruption)
    except (CorruptionError, ValueError):
        return None
    return parsed.value if parsed.kind == "noise" else None


def layers(found: Sequence[Found]) -> list[dict[str, Any]]:
    """For each task and protocol with scores of several layers: a curve for each model."""
    charts: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record, _ in found:
        if record.layer.isdigit() or record.layer == "last":
            charts[record.task, record.protocol][record.model].append(record)
    listed = []
    for (task, protocol), models in charts.items():
        lines = []
        for model, records in models.items():
            ordered = sorted(records, key=lambda one: int(one.layer) if one.layer.isdigit() else 10**6)
            if len(ordered) > 1:
                points = [{"x": one.layer, "score": one.score, "interval": one.interval} for one in ordered]
                lines.append({"model": model, "points": points})
        if lines:
            listed.append({"task": task, "protocol": protocol, "lines": lines})
    return listed
