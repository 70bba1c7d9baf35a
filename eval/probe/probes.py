"""Probes on frozen features: a linear one and nearest neighbours.

A probe is a function from labelled training clips to scores of other clips, for several values of its one
hyper-parameter, listed from the smoothest to the sharpest. Where several values do equally well on
validation, the first is taken.

Shape suffixes: N training clips, M clips to score, D features, C classes, V values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .logistic import Linear, fit_logistic

LEAST_STD = 1e-6  # features that are constant in training stay at 0
ROWS = 1024  # clips per block of the neighbour search
CHOOSING = {"tolerance": 1e-4, "separated": 1e-2}  # for the fits that choose a penalty
FINAL = {"tolerance": 1e-6}  # for the fits that are scored


class Probe(NamedTuple):
    """A probe.

    Attributes:
        scores: (train_ND, target, scored_MD, values, classes, final) to [V, M, C]: log-probabilities, or with
            several labels (target [N, C]) values that rank the clips of a class. `final` marks the fit that
            is scored, as opposed to one that chooses a value.
        parameter: the hyper-parameter's name in records.
        values: the values to try.
        balanced: give all classes equal weight in the fit, however many clips they have.
    """

    scores: Callable[[Tensor, Tensor, Tensor, Sequence[float], int, bool], Tensor]
    parameter: str
    values: tuple[float, ...]
    balanced: bool = False


def moments(train_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over the training clips; infinite if it is constant."""
    mean_D, std_D = train_ND.mean(0), train_ND.std(0, correction=0)
    return mean_D, torch.where(std_D > LEAST_STD, std_D, torch.inf)


def standardised(train_ND: Tensor, scored_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets standardised to mean 0 and variance 1 over the training clips."""
    mean_D, std_D = moments(train_ND)
    return (train_ND - mean_D) / std_D, (scored_MD - mean_D) / std_D


def class_weights(target: Tensor) -> Tensor:
    """Weights [N], with mean 1, that give every class with clips the same total, for class numbers [N]."""
    _, place_N, count_C = target.unique(return_inverse=True, return_counts=True)
    return len(target) / (len(count_C) * count_C[place_N].float())


def linear(
    train_ND: Tensor,
    target: Tensor,
    scored_MD: Tensor,
    values: Sequence[float],
    classes: int,
    final: bool,
    *,
    balanced: bool = False,
) -> Tensor:
    """Multinomial logistic regression on standardised features; binary per class for several labels."""
    train_ND, scored_MD = standardised(train_ND, scored_MD)
    logits_VMC = fit_linear(train_ND, target, values, classes, final, balanced)(scored_MD)
    return logits_VMC if target.ndim == 2 else functional.log_softmax(logits_VMC, 2)


def fit_linear(
    train_ND: Tensor, target: Tensor, values: Sequence[float], classes: int, final: bool, balanced: bool
) -> Linear:
    """The linear probe's weights for standardised training clips; the arguments are those of a probe."""
    weight_N = class_weights(target) if balanced else None
    precision = FINAL if final else CHOOSING
    return fit_logistic(train_ND, target, values, classes, clip_weight_N=weight_N, **precision)


def knn(
    train_ND: Tensor, target: Tensor, scored_MD: Tensor, values: Sequence[float], classes: int, final: bool
) -> Tensor:
    """The k nearest training clips by cosine of standardised features vote, each with weight 1 + cosine."""
    train_ND, scored_MD = standardised(train_ND, scored_MD)
    train_ND, scored_MD = functional.normalize(train_ND), functional.normalize(scored_MD)
    truth_NC = (functional.one_hot(target, classes) if target.ndim == 1 else target).to(train_ND)
    most = min(len(train_ND), int(max(values)))
    shares_VMC = train_ND.new_empty(len(values), len(scored_MD), classes)
    for first in range(0, len(scored_MD), ROWS):
        cosine_MK, nearest_MK = (scored_MD[first : first + ROWS] @ train_ND.T).topk(most)
        votes_MKC = truth_NC[nearest_MK] * (1 + cosine_MK)[..., None]
        for row, neighbours in enumerate(values):
            count = min(most, int(neighbours))
            total_M1 = (1 + cosine_MK[:, :count]).sum(1, keepdim=True)
            shares_VMC[row, first : first + ROWS] = votes_MKC[:, :count].sum(1) / total_M1
    # The constant limits how much log-probability a class without votes loses.
    return shares_VMC if target.ndim == 2 else (shares_VMC + 1e-3).log()


PENALTIES = tuple(10 ** (half / 2) for half in range(-8, 5))
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
PROBES = {"linear": Probe(linear, "C", PENALTIES), "knn": Probe(knn, "k", NEIGHBOURS)}
BALANCED = PROBES["linear"]._replace(scores=partial(linear, balanced=True), balanced=True)
