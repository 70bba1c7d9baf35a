"""Scores of the answers from a toolkit's trained heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .scores import ACCURACY_DRAWS, Scored, bootstrap, interval


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
        """Score, interval, spread and folds in the form of records, and the bootstrap draws [S] of the score.

        The score is averaged over the test splits, then over the seeds; all seeds share the draws.
        """
        by_seed = [self.scored(seed) for seed in range(len(self.answers))]
        scores = [sum(split.score for split in splits) / len(splits) for splits in by_seed]
        draws_S = torch.stack([bootstrap(splits) for splits in by_seed]).mean(0)
        of = "groups of clips of one source" if any(self.groups) else "clips"
        spread = float(torch.tensor(scores).std()) if len(scores) > 1 else None
        fields_of_record = {
            "score": sum(scores) / len(scores),
            "interval": interval(draws_S),
            "interval_method": f"95 %, bootstrap of {ACCURACY_DRAWS:,} draws over {of} within each test "
            "split, of the toolkit's answers"
            + (f"; the mean of {len(scores)} seeds" if len(scores) > 1 else ""),
            "spread": spread,
            "by_seed": tuple(scores),
            "folds": {
                parts[0].split: sum(part.score for part in parts) / len(parts)
                for parts in zip(*by_seed, strict=True)
            },
        }
        return fields_of_record, draws_S
