"""Scores of the answers from a toolkit's trained heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter

import torch
from torch.nn import functional

from .scores import Scored


def scored(run: Mapping[str, Sequence[str]]) -> list[Scored]:
    """The test splits as the heads of one seed scored them, clips in the order of their names.

    Args:
        run: columns with an entry per clip: `clips` (names), `splits` (test splits), `groups` (such as
            speakers; empty if a clip is independent), `truth` and `answers` (labels).
    """
    labels = sorted({*run["truth"], *run["answers"]})
    number = {label: index for index, label in enumerate(labels)}
    columns = (run[name] for name in ("clips", "splits", "groups", "truth", "answers"))
    rows = sorted(zip(*columns, strict=True), key=itemgetter(0))
    found = []
    for split in sorted(set(run["splits"]), key=lambda name: (len(name), name)):
        _, _, groups, truth, answers = zip(*(row for row in rows if row[1] == split), strict=True)
        answered = torch.tensor([number[label] for label in answers])
        target = torch.tensor([number[label] for label in truth])
        found.append(Scored(split, functional.one_hot(answered, len(labels)).float(), target, groups))
    return found
