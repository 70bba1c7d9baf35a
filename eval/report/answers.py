"""The clips' answers as a report shows them: errors, scores by class, and two models clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ajepa.eval.results.kept import read_table

from .sources import Found

COLUMNS = ("layer", "seed", "split", "clip", "start", "seconds", "group", "truth", "labels")
MOST_CLASSES = 60  # of a confusion matrix
MOST_MODELS = 12  # of a task and protocol that are compared in pairs


class Spot(NamedTuple):
    """Where a clip is: its file, or a toolkit's name for it, and its place in it."""

    clip: str
    start: float
    seconds: float | None

    @property
    def name(self) -> str:
        """The last two parts of its path: many sets give files of several folders the same name."""
        name = "/".join(self.clip.split("/")[-2:])
        return f"{name} at {self.start:g} s" if self.start else name


@dataclass(frozen=True)
class Answers:
    """A model's answers to the test clips of a task, in the order of the clips.

    Attributes:
        truth, labels: of each clip its labels, and the likeliest labels first; of the first seed.
        right_by_seed: for each seed, whether the likeliest label is right.
    """

    clips: tuple[Spot, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    truth: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    right_by_seed: tuple[tuple[bool, ...], ...]

    @property
    def multilabel(self) -> bool:
        """Whether clips have several labels, or none."""
        return any(len(labels) != 1 for labels in self.truth)

    @classmethod
    def read(cls, found: Found) -> Answers | None:
        """Those of a record; several pre-trainings count as seeds. None if none are kept.

        Raises:
            KeptError: a file is missing or damaged.
        """
        by_seed = []
        for file in found.files("answers"):
            mine = [row for row in read_table(file, COLUMNS) if row["layer"] == found.record.layer]
            for seed in dict.fromkeys(row["seed"] for row in mine):
                rows = [row for row in mine if row["seed"] == seed]
                by_seed.append(sorted(rows, key=lambda row: (row["clip"], row["start"])))
        if not by_seed or not by_seed[0]:
            return None
        first = by_seed[0]
        return cls(
            clips=tuple(Spot(row["clip"], row["start"], row["seconds"]) for row in first),
            splits=tuple(row["split"] for row in first),
            groups=tuple(row["group"] for row in first),
            truth=tuple(tuple(row["truth"]) for row in first),
            labels=tuple(tuple(row["labels"]) for row in first),
            right_by_seed=tuple(tuple(row["labels"][0] in row["truth"] for row in rows) for rows in by_seed),
        )


def task_sections(found: Sequence[Found], answers: dict[int, Answers]) -> list[dict[str, Any]]:
    """A section for each task and protocol whose clips' answers are kept.

    Its models answered the same clips; one that answered others has a section of its own.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, its in answers.items():
        record = found[place].record
        groups.setdefault((record.task, record.protocol, its.clips), []).append(place)
    return [_section(found, answers, places) for places in groups.values()]


def _section(found: Sequence[Found], answers: dict[int, Answers], places: Sequence[int]) -> dict[str, Any]:
    first = answers[places[0]]
    classes = sorted({label for labels in first.truth for label in labels})
    others = {label for place in places for labels in answers[place].labels for label in labels[:1]}
    classes += sorted(others - set(classes))
    number = {label: index for index, label in enumerate(classes)}
    record = found[places[0]].record
    names = [
        found[place].record.model
        + (f" ({found[place].record.layer})" if len({found[p].record.layer for p in places}) > 1 else "")
        for place in places
    ]
    models = []
    for name, place in zip(names, places, strict=True):
        its = answers[place]
        models.append(
            {
                "name": name,
                "score": found[place].record.score,
                "answers": [number[labels[0]] for labels in its.labels],
                "right": [bool(value) for value in its.right_by_seed[0]],
                "seeds": len(its.right_by_seed),
                "classes": _by_class(its, classes),
            }
        )
    return {
        "task": record.task,
        "protocol": record.protocol,
        "metric": record.metric,
        "multilabel": first.multilabel,
        "classes": classes,
        "matrix": len(classes) <= MOST_CLASSES and not first.multilabel,
        "clips": [spot.name for spot in first.clips],
        "splits": list(first.splits),
        "truth": [[number[label] for label in labels] for labels in first.truth],
        "models": models,
        "pairs": _pairs(names[:MOST_MODELS], [answers[place] for place in places]),
        "spots": first.clips,
    }


def _by_class(answers: Answers, classes: Sequence[str]) -> list[dict[str, float]]:
    """Precision, recall and F1 of each class by the likeliest label, and its number of clips."""
    from sklearn.metrics import precision_recall_fscore_support

    if answers.multilabel:
        # A clip counts as found where the likeliest label is one of its labels.
        truth = np.array([[label in labels for label in classes] for labels in answers.truth])
        given = np.array([[label == labels[0] for label in classes] for labels in answers.labels])
    else:
        number = {label: index for index, label in enumerate(classes)}
        truth = np.array([number[labels[0]] for labels in answers.truth])
        given = np.array([number[labels[0]] for labels in answers.labels])
    scores = precision_recall_fscore_support(truth, given, labels=range(len(classes)), zero_division=0.0)
    return [
        {"precision": float(p), "recall": float(r), "f1": float(f), "clips": int(count)}
        for p, r, f, count in zip(*scores, strict=True)
    ]


def _pairs(names: Sequence[str], answers: Sequence[Answers]) -> list[dict[str, Any]]:
    """McNemar's exact test for each two models: clips that one alone has right, and the p-value."""
    from scipy.stats import binomtest

    listed = []
    for one, two in combinations(range(len(names)), 2):
        first, second = (np.array(answers[place].right_by_seed[0]) for place in (one, two))
        ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
        p = binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
        listed.append({"models": [one, two], "first": ours, "second": theirs, "p": float(p)})
    return listed
