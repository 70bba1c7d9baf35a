"""Scores of the answers from a toolkit's trained heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .scores import Scored, summary


@dataclass(frozen=True)
class Answers:
    """The answers of a toolkit's trained heads, one row per clip.

    Attributes:
        clips: names of the clips.
        splits: test split of each clip.
        groups: what clips share, such as their speaker; empty if a clip is independent.
        truth: labels of the clips.
        answers: for each seed, the labels that its heads gave.
    """

    clips: list[str]
    splits: list[str]
    groups: list[str]
    truth: list[str]
    answers: list[list[str]]

    def scored(self, seed: int) -> list[Scored]:
        """The test splits as the seed's heads scored them, clips in the order of their names."""
        labels = sorted({*self.truth, *self.answers[seed]})
        number = {label: index for index, label in enumerate(labels)}
        order = sorted(range(len(self.clips)), key=lambda row: self.clips[row])
        splits = []
        for split in sorted(set(self.splits), key=lambda name: (len(name), name)):
            rows = [row for row in order if self.splits[row] == split]
            answered = torch.tensor([number[self.answers[seed][row]] for row in rows])
            truth = torch.tensor([number[self.truth[row]] for row in rows])
            groups = tuple(self.groups[row] for row in rows)
            splits.append(Scored(split, functional.one_hot(answered, len(labels)).float(), truth, groups))
        return splits

    def summary(self) -> tuple[dict[str, Any], Tensor]:
        """As `scores.summary`."""
        runs = [self.scored(seed) for seed in range(len(self.answers))]
        return summary(runs, ", of the toolkit's answers")
