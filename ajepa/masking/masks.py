"""The result of a sampler: masks as tensors of static shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """M masks for each of B clips on one grid.

    Attributes:
        context_BMK: token indices of the context, ascending, then padding (index 0).
        valid_BMK: False for padding, where a context has fewer than K tokens; never to be attended to.
        target_BMN: True for tokens to predict; never overlaps the valid context.
    """

    context_BMK: Tensor
    valid_BMK: Tensor
    target_BMN: Tensor

    def rows(self, first: int, count: int) -> Masks:
        """The masks of `count` clips from clip `first` on, as views: one process's share of a batch."""
        part = slice(first, first + count)
        return Masks(self.context_BMK[part], self.valid_BMK[part], self.target_BMN[part])

    def target_indices(self, budget: int) -> tuple[Tensor, Tensor]:
        """Targets as token indices [B, M, Q], ascending, then padding (index 0), and their validity.

        Args:
            budget: Q. `target_budget(config, grid)` leaves out no target; a mask with more than Q targets
                loses the last ones in grid order.
        """
        return first_places(self.target_BMN, budget)


def first_places(chosen: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Indices of the True cells [..., N] as [..., budget], ascending, then 0; and which are real.

    Static shapes and no sort: the running count of a cell is the place for its index.
    """
    counts = chosen.cumsum(-1)
    found = counts[..., -1:].clone()
    # Place 0 collects cells that are not chosen, the last place those beyond the budget. In place, because
    # new memory of this size costs more than the arithmetic.
    place = counts.mul_(chosen).clamp_(max=budget + 1)
    index = place.new_zeros((*place.shape[:-1], budget + 2))
    tokens = torch.arange(place.shape[-1], device=place.device)
    index.scatter_(-1, place, tokens.expand_as(place))
    valid = torch.arange(budget, device=place.device) < found
    return index[..., 1:-1], valid
