"""What held-out clips say of a classifier: thresholds for clips with several labels, and how far to trust it.

Shape suffixes: N clips, Y labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ajepa.model.classifier import LabelSet

UNDECIDED = 0.5  # the threshold of a label that no held-out clip has


def best_thresholds(probability_NY: Tensor, target_NY: Tensor) -> tuple[float, ...]:
    """For each label the threshold with the highest F1; the highest of several.

    It is half-way between two clips' probabilities, so that rounding moves no clip across it.
    """
    found = []
    for probability_N, target_N in zip(probability_NY.double().T, target_NY.double().T, strict=True):
        if not target_N.any():
            found.append(UNDECIDED)
            continue
        falling_N, order_N = probability_N.sort(descending=True, stable=True)
        hits_N = target_N[order_N].cumsum(0)
        chosen_N = torch.arange(1, len(falling_N) + 1)
        f1_N = 2 * hits_N / (chosen_N + target_N.sum())
        below_N = torch.cat([falling_N[1:], falling_N.new_zeros(1)])
        f1_N = f1_N.masked_fill(below_N == falling_N, -1.0)  # equal probabilities are on one side
        best = int(f1_N.argmax())
        found.append(float(falling_N[best] + below_N[best]) / 2)
    return tuple(found)


def macro_f1(probability_NY: Tensor, target_NY: Tensor, thresholds: tuple[float, ...]) -> float:
    """The mean F1 of the labels that some of the clips have."""
    chosen_NY, true_NY = probability_NY.double() >= torch.tensor(thresholds).double(), target_NY.bool()
    both_Y, sum_Y = (chosen_NY & true_NY).sum(0), chosen_NY.sum(0) + true_NY.sum(0)
    f1_Y = 2 * both_Y / sum_Y.clamp_min(1)
    return float(f1_Y[true_NY.any(0)].mean())


def measured(labels: LabelSet, scores_NY: Tensor, target: Tensor) -> dict[str, float]:
    """How good its answers are on clips that it was not trained on.

    Args:
        scores_NY: logits, or logarithms of probabilities.
        target: label numbers [N], or 0 and 1 [N, Y] for several labels.

    Returns:
        With several labels `f1` of the answers at the thresholds; else `right`, the share of right answers,
        and `confidence`, the mean probability of the answers: about the same if probabilities can be trusted.
    """
    probability_NY = labels.probabilities(scores_NY.double())
    if labels.several:
        return {"f1": macro_f1(probability_NY, target, labels.thresholds)}
    confidence_N, answer_N = probability_NY.max(1)
    right = float((answer_N == target).double().mean())
    return {"right": right, "confidence": float(confidence_N.mean())}
