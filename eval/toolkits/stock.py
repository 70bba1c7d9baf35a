"""What the protocols that train a stock toolkit's heads share: encoders, settings, scores from answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ajepa.eval.models.sources import find_encoder
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.result import Result, compare_with
from ajepa.eval.results.scores import ACCURACY_DRAWS, Scored, bootstrap, interval
from ajepa.model.fingerprint import fingerprint
from ajepa.model.loading import load_model
from ajepa.named_source import named_source

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Checkpoint:
    """An encoder as a toolkit in another process finds it.

    Attributes:
        name: how the table calls it.
        source: an absolute path.
    """

    name: str
    source: str

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """SOURCE or NAME=SOURCE, for X-ARES.

        Raises:
            EvaluationError, HubError, RecipeError: as `find_encoder`.
        """
        return cls(*find_encoder(*named_source(text), "xares"))

    def weights(self) -> str:
        """Fingerprint of the encoder."""
        return fingerprint(load_model(self.source))


@dataclass(frozen=True)
class Answers:
    """What a toolkit's trained heads answered, a row for each clip.

    Attributes:
        clips: names.
        splits: test split of each clip.
        groups: what clips share, such as their speaker; empty where a clip stands alone.
        truth: labels.
        answers: for each seed the labels that its heads gave.
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
        """Score, interval, spread and folds as records have them, and the bootstrap draws [S] of the score.

        The score is the mean over the seeds of the mean over the test splits; all seeds share the draws.
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
            "by_seed": scores,
            "folds": {
                parts[0].split: sum(part.score for part in parts) / len(parts)
                for parts in zip(*by_seed, strict=True)
            },
        }
        return fields_of_record, draws_S


class Cell(Protocol):
    """A model on a task with one setting."""

    def result(self, seeds: Sequence[int], report: Callable[[str], Any]) -> Result:
        """Its record, a training for each seed, and the bootstrap draws."""


def score_cells(
    cells: Iterable[Cell], seeds: Sequence[int], baseline: str | None, report: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """The cells' records, compared with that of the model called `baseline`, if there is one."""
    results = [cell.result(seeds, report) for cell in cells]
    if baseline is not None:
        compare_with(results, baseline)
    return [result.record for result in results]


def with_settings(config: Settings, settings: Sequence[str], what: str) -> Settings:
    """A dataclass of numbers and text, changed by KEY=VALUE.

    Raises:
        EvaluationError: an unknown key or a value of the wrong kind.
    """
    kinds: dict[str, Callable[[str], Any]] = {
        field.name: type(getattr(config, field.name))
        for field in fields(config)  # type: ignore[arg-type]
    }
    changes = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in kinds:
            raise EvaluationError(f"--set {setting}: {what} has the settings {', '.join(kinds)}")
        try:
            changes[key] = kinds[key](text)
            if isinstance(changes[key], float) and not math.isfinite(changes[key]):
                raise ValueError(f"{text} is no number to calculate with")
        except ValueError as error:
            raise EvaluationError(
                f"--set {setting}: expected a value such as {getattr(config, key)}"
            ) from error
    return replace(config, **changes)  # type: ignore[type-var]
