"""Scores with intervals: accuracy and mean average precision, and the bootstrap of both.

Clips of one group (a recording's parts, a speaker's utterances) are not independent. The bootstrap therefore
draws groups, if the task has them, within each test split. Where a split is one group, it would always be
itself: then the splits are drawn too. Draws depend on the task alone: the draws of two models are paired, and
so their difference has an interval too.

Shape suffixes: M clips of a split, C classes, G groups, S draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import torch
from torch import Tensor

ACCURACY_DRAWS, PRECISION_DRAWS = 10_000, 1_000
DRAWS_A_PASS = 500
LEVEL = 0.95
FEW_GROUPS = 5  # fewer vary too little for an interval that holds


@dataclass(frozen=True)
class Scored:
    """A test split after scoring.

    Attributes:
        split: its name.
        scores_MC: the higher, the more likely the class.
        target: class numbers [M], or 0 and 1 [M, C] for several labels.
        groups: each clip's group, empty if the clip is independent.
    """

    split: str
    scores_MC: Tensor
    target: Tensor
    groups: tuple[str, ...]

    @property
    def score(self) -> float:
        """Accuracy, or with several labels mean average precision."""
        return float(score(self.scores_MC, self.target))

    def group_numbers(self) -> Tensor:
        """Group of each clip as a number from 0, [M]."""
        names = [group or f"clip {index}" for index, group in enumerate(self.groups)]
        number = {name: index for index, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([number[name] for name in names])


def joined_folds(splits: Sequence[Scored]) -> Scored:
    """The test splits as one, without their groups."""
    scores_MC = torch.cat([split.scores_MC for split in splits])
    return Scored("folds", scores_MC, torch.cat([split.target for split in splits]), ())


def score(scores_MC: Tensor, target: Tensor) -> Tensor:
    """Accuracy if `target` is class numbers, mean average precision if it is 0 and 1."""
    if target.ndim == 1:
        return (scores_MC.argmax(1) == target).double().mean()
    return mean_average_precision(scores_MC, target, scores_MC.new_ones(1, len(target)))[0]


def mean_average_precision(scores_MC: Tensor, target_MC: Tensor, weight_SM: Tensor) -> Tensor:
    """Mean of the classes' average precision, for each row of clip weights [S].

    The unweighted mean over classes that have clips; average precision as in scikit-learn, ties as one step.
    """
    total_S = torch.zeros(len(weight_SM), dtype=torch.float64)
    present_S = torch.zeros_like(total_S)
    for scores_M, target_M in zip(scores_MC.T, target_MC.T, strict=True):
        order_M = scores_M.argsort(descending=True)
        falling_M = -scores_M[order_M]
        last_M = torch.searchsorted(falling_M, falling_M, right=True) - 1
        clips_SM = weight_SM[:, order_M].double()
        hits_SM = clips_SM * target_M[order_M]
        precision_SM = hits_SM.cumsum(1)[:, last_M] / clips_SM.cumsum(1)[:, last_M].clamp_min(1e-12)
        positives_S = hits_SM.sum(1)
        total_S += (hits_SM * precision_SM).sum(1) / positives_S.clamp_min(1e-12)
        present_S += positives_S > 0
    return total_S / present_S.clamp_min(1)


def mean_of_splits(drawn_KS: Tensor, groups: Sequence[int], generator: torch.Generator) -> Tensor:
    """Resampled scores of K test splits, averaged over the splits: [S], or [0] without anything to resample.

    Args:
        groups: how many each split has.
    """
    splits, draws = drawn_KS.shape
    if min(groups) > 1:
        return drawn_KS.mean(0)
    if splits == 1:
        return drawn_KS.new_empty(0)
    chosen_KS = torch.randint(splits, (splits, draws), generator=generator)
    return drawn_KS.gather(0, chosen_KS).mean(0)


def resampling(groups: Sequence[int], units: str) -> str:
    """What was drawn, for a record: `units`, or also test splits.

    Args:
        groups: how many each test split has.
    """
    if max(groups) == 1 and len(groups) == 1:
        return "none: all test clips are of one group"
    few = f" ({min(groups)} in the smallest: too few for an interval that holds)"
    if min(groups) > 1:
        return f"{units} within each test split{few if min(groups) < FEW_GROUPS else ''}"
    return f"test splits, and {units} within each, since a split has one group alone"


def bootstrap(splits: Sequence[Scored], seed: int = 0) -> Tensor:
    """Scores of a task, averaged over its test splits, in resamples of their groups [S], float64.

    Empty where the only test split is one group.
    """
    several = splits[0].target.ndim == 2
    draws = PRECISION_DRAWS if several else ACCURACY_DRAWS
    generator = torch.Generator().manual_seed(seed)
    drawn_KS = torch.zeros(len(splits), draws, dtype=torch.float64)
    numbers = [split.group_numbers() for split in splits]
    counts = [int(group_M.max()) + 1 for group_M in numbers]
    for split, result_S, group_M, groups in zip(splits, drawn_KS, numbers, counts, strict=True):
        hits_M = (split.scores_MC.argmax(1) == split.target).double() if not several else None
        for first in range(0, draws, DRAWS_A_PASS):
            drawn_SG = torch.randint(groups, (DRAWS_A_PASS, groups), generator=generator)
            times_SG = torch.zeros(DRAWS_A_PASS, groups, dtype=torch.float64)
            times_SG.scatter_add_(1, drawn_SG, torch.ones_like(times_SG))
            if hits_M is None:
                part_S = mean_average_precision(split.scores_MC, split.target, times_SG[:, group_M])
            else:
                hits_G = times_SG.new_zeros(groups).index_add_(0, group_M, hits_M)
                clips_G = torch.bincount(group_M, minlength=groups).double()
                part_S = (times_SG @ hits_G) / (times_SG @ clips_G)
            result_S[first : first + DRAWS_A_PASS] = part_S
    return mean_of_splits(drawn_KS, counts, generator)


def summary(runs: Sequence[Sequence[Scored]], method: str = "") -> tuple[dict[str, Any], Tensor]:
    """Score, interval, spread and folds in the form of records, and the bootstrap draws [S] of the score.

    Args:
        runs: for each seed of a head or a training, the test splits. The score is averaged over the splits,
            then over the seeds; all seeds share the draws.
        method: what `interval_method` says after the resampling.
    """
    by_seed = tuple(mean([split.score for split in splits]) for splits in runs)
    draws_S = torch.stack([bootstrap(splits) for splits in runs]).mean(0)
    grouped = any(any(split.groups) for split in runs[0])
    units = "groups of clips of one source" if grouped else "clips"
    how = resampling([int(split.group_numbers().max()) + 1 for split in runs[0]], units)
    fields = {
        "score": mean(by_seed),
        "interval": interval(draws_S),
        "interval_method": f"95 %, bootstrap of {len(draws_S):,} draws over {how}{method}"
        + (f", the mean of {len(runs)} seeds" if len(runs) > 1 else "")
        if len(draws_S)
        else how,
        "spread": deviation(by_seed),
        "by_seed": by_seed,
        "folds": {parts[0].split: mean([part.score for part in parts]) for parts in zip(*runs, strict=True)},
    }
    return fields, draws_S


def mean(scores: Sequence[float]) -> float:
    """Mean of one or more scores."""
    return sum(scores) / len(scores)


def deviation(scores: Sequence[float]) -> float | None:
    """Standard deviation; None for only one score."""
    return stdev(scores) if len(scores) > 1 else None


def interval(draws_S: Tensor) -> tuple[float, float] | None:
    """The central 95 % of the draws; None without draws."""
    if not len(draws_S):
        return None
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=draws_S.dtype)
    low, high = draws_S.quantile(tails).tolist()
    return low, high


def two_sided(difference_S: Tensor) -> float:
    """A p-value of "no difference": twice the share of draws on the rarer side of 0, at least one draw."""
    least = 1 / len(difference_S)
    below, above = (difference_S <= 0).double().mean(), (difference_S >= 0).double().mean()
    return min(1.0, max(least, 2 * float(torch.minimum(below, above))))
