"""From features to scores: choices are made on validation alone, then each test split is scored once.

Features with an axis of layers are first reduced to one layer, by weights that are learned on the clips that
the probe is trained on.

Shape suffixes: N clips of the task, M scored clips, L layers, D features, C classes, V values of a probe's
hyper-parameter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ajepa.eval.results.scores import Scored, score
from ajepa.eval.tasks import Round, Task

from .layer_weights import learn_mixes, nearest_penalty
from .probes import Probe, class_weights


class Choice(NamedTuple):
    """What validation chose for a test split: a representation and a value, with their validation score."""

    representation: str
    value: float
    validation: float


class Outcome(NamedTuple):
    """Test splits with their scores, and the choices made for them, in the order of `Task.rounds`.

    Attributes:
        layer_weights: for each test split, the weights learned for the scored model; empty if none were.
        corrupted: for each corruption, the test splits with the scores of their corrupted clips.
    """

    splits: list[Scored]
    choices: list[Choice]
    layer_weights: list[list[float]]
    corrupted: dict[str, list[Scored]]

    @property
    def score(self) -> float:
        """Score, averaged over the test splits."""
        return sum(split.score for split in self.splits) / len(self.splits)


class _Data:
    """A task's labels and the members of its splits, as tensors."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.target = torch.from_numpy(task.target())
        self.classes = len(task.classes)
        self.members: dict[str, Tensor] = {
            split: torch.tensor([i for i, clip in enumerate(task.clips) if clip.split == split])
            for split in task.counts
        }

    def rows(self, splits: frozenset[str]) -> Tensor:
        """Clips of several splits, in the task's order."""
        return torch.cat([self.members[split] for split in sorted(splits)]).sort().values


Representations = Mapping[str, Callable[[], Tensor]]


def run_probe(
    representations: Representations,
    task: Task,
    probe: Probe,
    corrupted: Mapping[str, Representations] | None = None,
) -> Outcome:
    """Choose on validation, then score each test split.

    Args:
        representations: by name, functions that return the features of the task's clips, [N, D], or
            [N, L, D] for a learned sum of layers. Each is called when needed: one is in memory at a time.
        corrupted: by a corruption's name, the same representations of the corrupted `task.test_clips`. The
            probe that is trained, and chosen, on clean clips scores these too.
    """
    data, rounds = _Data(task), task.rounds()
    tried: dict[Round, list[Choice]] = defaultdict(list)
    for name, make in representations.items():
        grids = _validate(make(), data, rounds, probe)
        for one in rounds:
            merit_V, tie_V = (torch.stack(parts).mean(0) for parts in zip(*grids[one], strict=True))
            best_V = merit_V >= merit_V.max() - 1e-9
            value = int(torch.where(best_V, tie_V, -torch.inf).argmax())
            tried[one].append(Choice(name, probe.values[value], float(merit_V[value])))
    choices = [max(tried[one], key=lambda choice: choice.validation) for one in rounds]

    corrupted = corrupted or {}
    scored: dict[str, tuple[list[Scored], list[float]]] = {}
    for name in dict.fromkeys(choice.representation for choice in choices):
        features = representations[name]()
        also = [given[name]() for given in corrupted.values()]
        for one, choice in zip(rounds, choices, strict=True):
            if choice.representation == name:
                scored[one.test] = _test(features, also, data, one, choice.value, probe)
    by_split, layer_weights = zip(*(scored[one.test] for one in rounds), strict=True)
    clean, *others = zip(*by_split, strict=True)
    heard = {name: list(splits) for name, splits in zip(corrupted, others, strict=True)}
    return Outcome(list(clean), choices, list(layer_weights), heard)


def _validate(
    features: Tensor, data: _Data, rounds: list[Round], probe: Probe
) -> dict[Round, list[tuple[Tensor, Tensor]]]:
    """(score [V], mean log-probability of the truth [V]) of each round's inner splits.

    Folds a and b validate each other's rounds with the same model, trained on all folds but a and b.
    """
    wanted: dict[frozenset[str], list[str]] = defaultdict(list)
    for one in rounds:
        for train, valid in one.inner:
            if valid not in wanted[train]:
                wanted[train].append(valid)
    grid: dict[tuple[frozenset[str], str], tuple[Tensor, Tensor]] = {}
    for train, valids in wanted.items():
        rows = data.rows(train)
        scored = torch.cat([data.members[valid] for valid in valids])
        scores_VMC, _ = _scores(
            features[rows], data.target[rows], features[scored], data.classes, probe, probe.values, False
        )
        sizes = [len(data.members[valid]) for valid in valids]
        for valid, part_VMC in zip(valids, scores_VMC.split(sizes, dim=1), strict=True):
            target = data.target[data.members[valid]]
            merit_V = torch.stack([score(part_MC, target) for part_MC in part_VMC])
            tie_V = torch.zeros_like(merit_V)
            if target.ndim == 1:
                tie_V = part_VMC.gather(2, target.expand(len(part_VMC), -1)[..., None]).double().mean((1, 2))
            grid[train, valid] = merit_V, tie_V
    return {one: [grid[pair] for pair in one.inner] for one in rounds}


def _test(
    features: Tensor, also: Sequence[Tensor], data: _Data, one: Round, value: float, probe: Probe
) -> tuple[list[Scored], list[float]]:
    """The scored test split, the same clips scored as in each of `also`, and the layer weights."""
    rows, scored = data.rows(one.train), data.members[one.test]
    place_N = torch.full((len(data.task.clips),), -1)
    place_N[list(data.task.test_clips)] = torch.arange(len(data.task.test_clips))
    heard = torch.cat([features[scored], *(others[place_N[scored]] for others in also)])
    scores_VMC, layer_weights = _scores(
        features[rows], data.target[rows], heard, data.classes, probe, [value], True
    )
    groups = tuple(data.task.clips[index].group for index in scored.tolist())
    parts = scores_VMC[0].split(len(scored))
    return [Scored(one.test, part_MC, data.target[scored], groups) for part_MC in parts], layer_weights


def _scores(
    train: Tensor,
    target: Tensor,
    others: Tensor,
    classes: int,
    probe: Probe,
    values: Sequence[float],
    final: bool,
) -> tuple[Tensor, list[float]]:
    """Scores [V, M, C] of `others` by a probe trained on `train`, and the layer weights if learned."""
    if train.ndim == 2:
        return probe.scores(train, target, others, values, classes, final), []
    by_penalty: dict[float, list[float]] = defaultdict(list)  # ascending, like the values
    for value in values:
        by_penalty[nearest_penalty(value)].append(value)
    weight_N = class_weights(target) if probe.balanced else None
    mixes = learn_mixes(train, target, list(by_penalty), classes, weight_N)
    parts = [
        probe.scores(mixes[c](train), target, mixes[c](others), some, classes, final)
        for c, some in by_penalty.items()
    ]
    return torch.cat(parts), mixes[nearest_penalty(values[-1])].weight_L.tolist()


def describe(choices: list[Choice], rounds: list[Round], probe: Probe) -> tuple[dict[str, Any], ...]:
    """The choices in the form of records, which say if a value is the first or last of those tried."""
    ends = {probe.values[0], probe.values[-1]}
    return tuple(
        {
            "split": one.test,
            "representation": choice.representation,
            probe.parameter: choice.value,
            "validation": choice.validation,
            "at_the_end_of_the_grid": choice.value in ends,
        }
        for one, choice in zip(rounds, choices, strict=True)
    )
