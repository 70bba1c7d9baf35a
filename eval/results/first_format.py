"""Converts records of versions up to 0.3, whose keys differed between protocols, to today's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys that mean the same today. Keys not listed here or below are the protocol's own.
SAME = (
    *("model", "source", "task", "protocol", "protocol_kind", "metric", "score", "interval"),
    *("interval_method", "spread", "folds", "seeds", "by_seed", "chosen", "layer", "clips"),
    *("clips_by_split", "classes", "clips_per_s", "weights", "task_hash", "versions", "hardware"),
    *("threads", "notes"),
)
SECONDS = ("probe_seconds", "predict_seconds", "wall_seconds")
BY_RUN = ("weights", "by_seed", "chosen")  # lists with one entry per run if there were several


def converted(old: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the first format with the keys of the second."""
    old = dict(old)
    new: dict[str, Any] = {}
    if "counts" in old:  # the first records of s3prl, which have one training's keys instead of `chosen`
        counts = old.pop("counts")
        new["classes"] = counts["test_classes"]
        new["clips_by_split"] = {
            "test": counts["test"],
            "train": counts["train"],
            "valid": counts["validation"],
        }
        new["clips"] = sum(new["clips_by_split"].values())
        new["folds"] = {"test": old["score"]}
        new["chosen"] = [
            {"seed": old["seeds"][0], **{key: old.pop(key) for key in ("step", "lr", "validation")}}
        ]
    runs, baseline = old.pop("pretraining", None), old.pop("baseline", None)
    new |= {key: old.pop(key) for key in SAME if key in old}
    if seconds := [old.pop(key) for key in SECONDS if key in old]:
        (new["seconds"],) = seconds
    new.setdefault("protocol_kind", new["protocol"].split()[0])  # "s3prl 0.4.18, frozen, SUPERB head"
    if baseline is not None:
        by = "model" if "model" in baseline else "protocol"
        new["baseline"] = {"by": by, "name": baseline[by]} | {k: v for k, v in baseline.items() if k != by}
    if runs is not None:
        own: dict[str, Any] = {}
        if len(runs["seeds"]) > 1:
            own = {key: new.pop(key) for key in BY_RUN if key in new}
        new["pretraining"] = [
            {"seed": seed, "score": score, "run": run, **spent}
            | {key: _chosen(of_runs[place]) for key, of_runs in own.items()}
            for place, (seed, score, run, spent) in enumerate(
                zip(runs["seeds"], runs["scores"], runs["runs"], runs["spent"], strict=True)
            )
        ]
    if "chosen" in new:
        new["chosen"] = _chosen(new["chosen"])
    return new | {"details": old}


def _chosen(value: Any) -> Any:
    """Converts the choices of probes, which were a mapping from test split to choice."""
    if not isinstance(value, dict):
        return value
    return [{"split": split, **choice} for split, choice in value.items()]
