"""A result: a record, and the bootstrap draws for comparing it with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .record import Difference, Record
from .scores import interval, two_sided

if TYPE_CHECKING:
    import pyarrow as pa


# These score the clips in the task's order, so that they draw the same ones. Toolkits have an order of
# their own.
OF_THE_TASK = {"linear", "knn", "finetune"}


class Result(NamedTuple):
    """A record, the bootstrap draws of its score, and what is kept next to it.

    Attributes:
        draws_S: of the clean score; empty if the protocol gives none.
        corrupted_XS: of the scores of corrupted clips, in the order of `record.corrupted`.
        answers, features: tables of `ajepa.eval.results.kept`; None if the protocol gives none, and for
            a result that was read: its record then names their files.
    """

    record: Record
    draws_S: Tensor
    corrupted_XS: Tensor = torch.empty(0)
    answers: pa.Table | None = None
    features: pa.Table | None = None

    def all_draws(self) -> Tensor:
        """Both as one tensor [1 + X, S]."""
        return torch.cat([self.draws_S[None], self.corrupted_XS])


def shuffled(draws_S: Tensor) -> Tensor:
    """The draws in another order: as if they were drawn independently of all others."""
    return draws_S[torch.randperm(len(draws_S), generator=torch.Generator().manual_seed(1))]


def compare_with(results: Sequence[Result], baseline: str, by: str = "model") -> list[Result]:
    """Results of one task, each with its difference from the baseline at the same layer, or else the last.

    Args:
        results: those without draws are left unchanged, as are the baseline itself and scores of another
            metric, which cannot be subtracted.
        baseline: a model's name; with `by="protocol"`, a protocol's name, compared for the same model.
    """
    of_baseline = {
        result.record.layer: result
        for result in results
        if getattr(result.record, by) == baseline and len(result.draws_S)
    }

    def compared(result: Result) -> Result:
        record, draws_S = result.record, result.draws_S
        if getattr(record, by) == baseline or not of_baseline or not len(draws_S):
            return result
        other = of_baseline.get(record.layer) or list(of_baseline.values())[-1]
        if other.record.metric != record.metric or len(other.draws_S) != len(draws_S):
            return result
        paired = by == "model" or {record.protocol_kind, other.record.protocol_kind} <= OF_THE_TASK
        difference_S = draws_S - (other.draws_S if paired else shuffled(other.draws_S))
        span = interval(difference_S)
        assert span is not None
        difference = Difference(
            by=by,
            name=baseline,
            difference=record.score - other.record.score,
            interval=span,
            p=two_sided(difference_S),
            method=f"the same bootstrap draws for both {by}s" if paired else "each protocol's own draws",
        )
        return result._replace(record=replace(record, baseline=difference))

    return [compared(result) for result in results]
