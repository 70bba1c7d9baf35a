"""The linear probe that is kept: its weights, and what was held out from it.

Without folds it is the probe that is scored. With folds, each test fold is scored by a probe of its own; the
kept one is trained on all folds, with the settings that most folds chose.

Shape suffixes: N clips, L layers, V features, Y classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ajepa.eval.results.scores import Scored, joined_folds
from ajepa.eval.tasks import Task

from .layer_weights import learn_mixes, nearest_penalty
from .probes import Probe, class_weights, fit_linear, moments
from .selection import Choice, Outcome


class Weights(NamedTuple):
    """A linear probe: logits = ((mixed features - mean) * scale) @ weight + bias.

    Attributes:
        mix_LV: factors of a weighted sum of layers; None for features of one layer.
        scale_V: 1 over the standard deviation; 0 for a feature that is constant in training.
    """

    mix_LV: Tensor | None
    mean_V: Tensor
    scale_V: Tensor
    weight_VY: Tensor
    bias_Y: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [N, Y] of features [N, V] or [N, L, V]."""
        features_NV = features if self.mix_LV is None else (features * self.mix_LV).sum(1)
        return (features_NV - self.mean_V) * self.scale_V @ self.weight_VY + self.bias_Y


class FinalProbe(NamedTuple):
    """The probe that is kept.

    Attributes:
        choice: its representation and value.
        splits: that it is trained on.
        held_out: clips scored by probes that were not trained on them: the validation split, or all folds.
    """

    weights: Weights
    choice: Choice
    splits: frozenset[str]
    held_out: Scored


def final_probe(
    representations: Mapping[str, Callable[[], Tensor]], task: Task, probe: Probe, outcome: Outcome
) -> FinalProbe:
    """Fit it again on the features that `run_probe` had; the fit is the same."""
    rounds, target = task.rounds(), torch.from_numpy(task.target())
    made = [(choice.representation, choice.value) for choice in outcome.choices]
    usual, _ = Counter(made).most_common(1)[0]
    choice = outcome.choices[made.index(usual)]
    features = representations[choice.representation]()

    def fitted(splits: frozenset[str]) -> Weights:
        rows = _rows(task, splits)
        return _fit(features[rows], target[rows], choice.value, len(task.classes), probe.balanced)

    if task.folds:
        every = frozenset(task.counts)
        return FinalProbe(fitted(every), choice, every, joined_folds(outcome.splits))
    ((inner, valid),) = rounds[0].inner
    weights = fitted(rounds[0].train)
    judge = weights if inner == rounds[0].train else fitted(inner)
    rows = _rows(task, frozenset({valid}))
    return FinalProbe(
        weights, choice, rounds[0].train, Scored(valid, judge(features[rows]), target[rows], ())
    )


def _rows(task: Task, splits: frozenset[str]) -> Tensor:
    return torch.tensor([place for place, clip in enumerate(task.clips) if clip.split in splits])


def _fit(features: Tensor, target: Tensor, value: float, classes: int, balanced: bool) -> Weights:
    mix_LV = None
    if features.ndim == 3:
        penalty = nearest_penalty(value)
        weight_N = class_weights(target) if balanced else None
        mix = learn_mixes(features, target, [penalty], classes, weight_N)[penalty]
        mix_LV, features = mix.weight_L[:, None] / mix.scale_LD, mix(features)
    mean_V, std_V = moments(features)
    linear = fit_linear((features - mean_V) / std_V, target, [value], classes, True, balanced)
    return Weights(mix_LV, mean_V, 1 / std_V, linear.weight_RDC[0], linear.bias_RC[0])
