"""Labels that look wrong: the neighbours of a clip and a classifier agree on another one.

Neither sees clips of the same group, so that a recording does not vouch for its own label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from ajepa.search.cosine import Space, neighbours

from .clips import AuditClip, Finding

NEIGHBOURS = 10
LOOKED_AT = 60  # nearest clips from which those of other groups are taken
FOLDS = 5
FEWEST = 50  # clips, below which nothing is said
MOST_TRAINING = 20_000
MARGIN = 0.5  # by which another label leads with both


def suspects(
    clips: Sequence[AuditClip], places: Sequence[int], values_ND: Tensor, groups: Sequence[int]
) -> Iterator[Finding]:
    """The clips whose label looks wrong, with the label that looks right.

    Args:
        places: numbers of the labelled clips.
        values_ND: their embeddings.
        groups: the group of each.
    """
    labels = [clips[place].label for place in places]
    classes = sorted(set(labels))
    if len(places) < FEWEST or len(classes) < 2 or len(set(groups)) < FOLDS:
        return
    number = {label: place for place, label in enumerate(classes)}
    target_N, group_N = np.array([number[label] for label in labels]), np.array(groups)
    space = Space.of(values_ND)
    shares_NK = [
        _votes(values_ND, space, target_N, group_N, len(classes)),
        _classified(space.unit(values_ND).numpy(), target_N, group_N, len(classes)),
    ]
    rows = np.arange(len(places))
    for share_NK in shares_NK:
        share_NK -= share_NK[rows, target_N][:, None]
    margin_NK = np.minimum(*shares_NK)
    margin_NK[rows, target_N] = -np.inf
    best = margin_NK.argmax(1)
    for row in (margin_NK[rows, best] >= MARGIN).nonzero()[0]:
        value, suggestion = float(margin_NK[row, best[row]]), classes[best[row]]
        note = f"{labels[row]}, but sounds like {suggestion}"
        yield Finding("label", places[row], value, note, suggestion=suggestion)


def _votes(
    values_ND: Tensor, space: Space, target_N: np.ndarray, group_N: np.ndarray, classes: int
) -> np.ndarray:
    """The share of each class among the nearest clips of other groups, weighted by their cosines: [N, K]."""
    found = neighbours(values_ND, min(LOOKED_AT, len(values_ND) - 1), space)
    rows_NQ, weights_NQ = found.rows_QK.numpy(), found.scores_QK.clamp_min(0).numpy()
    weights_NQ = np.where(group_N[rows_NQ] != group_N[:, None], weights_NQ, 0)
    # The first few that count: a place has as many before it as the sum says.
    weights_NQ[(weights_NQ > 0).cumsum(1) > NEIGHBOURS] = 0
    share_NK = np.zeros((len(target_N), classes))
    for place in range(rows_NQ.shape[1]):
        np.add.at(share_NK, (np.arange(len(target_N)), target_N[rows_NQ[:, place]]), weights_NQ[:, place])
    return share_NK / np.maximum(share_NK.sum(1, keepdims=True), 1e-9)


def _classified(unit_NE: np.ndarray, target_N: np.ndarray, group_N: np.ndarray, classes: int) -> np.ndarray:
    """The probability of each class, by a classifier that saw no clip of the same group: [N, K]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    features_NE = unit_NE * np.sqrt(unit_NE.shape[1])  # about unit variance
    probability_NK = np.zeros((len(target_N), classes))
    generator = np.random.default_rng(0)
    for train, test in GroupKFold(FOLDS).split(features_NE, groups=group_N):
        if len(train) > MOST_TRAINING:
            train = generator.choice(train, MOST_TRAINING, replace=False)
        if len(set(target_N[train])) < 2:
            continue
        classifier = LogisticRegression(C=0.1, max_iter=300).fit(features_NE[train], target_N[train])
        probability_NK[np.ix_(test, classifier.classes_)] = classifier.predict_proba(features_NE[test])
    return probability_NK


def groups_of(clips: Sequence[AuditClip], copies: Sequence[tuple[int, int]]) -> list[int]:
    """A number for each clip's group; copies are of one group, and a clip without a group is one alone."""
    parent = list(range(len(clips)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[str, int] = {}
    links = [
        (first.setdefault(clip.group, number), number) for number, clip in enumerate(clips) if clip.group
    ]
    for one, other in [*links, *copies]:
        parent[root(other)] = root(one)
    return [root(number) for number in range(len(clips))]
