"""Sums and lists over the processes of a run; in a single process, the values themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def ranks() -> int:
    """Number of processes of this run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Every process's result depends on every process's value.
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with its gradient."""
    if ranks() == 1:
        return value
    total: Tensor = _SumOverRanks.apply(value)
    return total


def gathered(items: list[str]) -> list[str]:
    """The items of all processes, in the order of their ranks. All processes must call it."""
    if ranks() == 1:
        return items
    every: list[Any] = [None] * ranks()
    distributed.all_gather_object(every, items)
    return [item for part in every for item in part]
