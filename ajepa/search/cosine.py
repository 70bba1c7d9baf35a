"""Similarities among embeddings, exact and in blocks: the nearest to some queries, or to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 8192  # of a block, whose vectors stay in the processor's cache
QUERIES = 1024  # that are compared with all rows at once
DIRECTIONS = 128  # of a whitened space
RIDGE = 0.01  # of the largest variance, added to all
SAMPLE = 65_536  # rows that decide the directions
FEWEST = 16  # rows of which a whitened space can be made
SMALL = 1e-6


class Space(NamedTuple):
    """Where cosines are taken.

    Attributes:
        directions_DE: what an embedding is multiplied by; None for the plain space, which changes nothing.
        offset_E: what is then added: it moves the collection's mean to 0.
    """

    directions_DE: Tensor | None
    offset_E: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, values_ND: Tensor) -> Space:
        """The whitened space of a collection, or the plain one if it has fewer than `FEWEST` rows.

        In an encoder's output a few directions have most of the variance, and they decide plain cosines.
        Here each of the first `DIRECTIONS` principal directions counts equally, up to a ridge: cosines of
        unrelated clips are near 0, and the nearest clip is of the same class more often (docs/similar.md).
        """
        width = values_ND.shape[1]
        if len(values_ND) < FEWEST:
            return PLAIN
        stride = -(-len(values_ND) // SAMPLE)
        sample_ND = values_ND[::stride].float()
        mean_D = sample_ND.mean(0)
        centred_ND = sample_ND - mean_D
        covariance_DD = (centred_ND.T @ centred_ND / len(centred_ND)).double()
        variance_D, directions_DD = torch.linalg.eigh(covariance_DD)  # ascending
        keep = min(DIRECTIONS, width)
        largest = float(variance_D[-1].clamp_min(SMALL**2))
        scale_E = (variance_D[-keep:].clamp_min(0) + RIDGE * largest).rsqrt()
        directions_DE = directions_DD[:, -keep:] * scale_E
        return cls(directions_DE.float(), -(mean_D.double() @ directions_DE).float())

    def unit(self, values_ND: Tensor) -> Tensor:
        """Vectors of length 1 in this space, whose products are cosines; one at the mean becomes 0."""
        moved_NE = values_ND.float()
        if self.directions_DE is not None:
            moved_NE = torch.addmm(self.offset_E, moved_NE, self.directions_DE)
        return moved_NE / moved_NE.norm(dim=1, keepdim=True).clamp_min(SMALL)


PLAIN = Space(None, torch.zeros(1))


class Found(NamedTuple):
    """The nearest rows of a collection to each query, the nearest first: [Q, K]."""

    scores_QK: Tensor
    rows_QK: Tensor


@torch.no_grad()
def nearest(values_ND: Tensor, query_QD: Tensor, top: int, space: Space) -> Found:
    """The `top` rows of highest cosine to each query, compared with all: nothing is approximate.

    Args:
        values_ND: the collection, float32 or float16; it is read once and never copied whole.
        query_QD: embeddings of the same encoder.
        top: fewer are found in a smaller collection.
    """
    unit_QE = space.unit(query_QD)
    scores = torch.empty(len(query_QD), 0)
    rows = torch.empty(len(query_QD), 0, dtype=torch.int64)
    for first, block_BD in _blocks(values_ND, ROWS):
        scores_QB = unit_QE @ space.unit(block_BD).T
        best = scores_QB.topk(min(top, len(block_BD)), dim=1)
        scores = torch.cat([scores, best.values], 1)
        rows = torch.cat([rows, best.indices + first], 1)
        scores, kept = scores.topk(min(top, scores.shape[1]), dim=1)  # sorted
        rows = rows.gather(1, kept)
    return Found(scores, rows)


@torch.no_grad()
def neighbours(values_ND: Tensor, top: int, space: Space) -> Found:
    """The nearest other rows of each row, [N, K].

    Time grows with the square of N: 100,000 rows take 1.3e12 multiplications.
    """
    unit_NE = space.unit(values_ND)
    found = []
    for first, block_QE in _blocks(unit_NE, QUERIES):
        scores, rows = nearest(unit_NE, block_QE, top + 1, PLAIN)
        itself = rows == torch.arange(first, first + len(block_QE))[:, None]
        # Itself last and cut off. Of many equal rows it may not be among them: then the last one goes.
        order = itself.int().argsort(dim=1, stable=True)[:, :-1]
        found.append(Found(scores.gather(1, order), rows.gather(1, order)))
    return Found(torch.cat([one.scores_QK for one in found]), torch.cat([one.rows_QK for one in found]))


def _blocks(values_ND: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """The number of each block's first row, and its rows."""
    for first in range(0, len(values_ND), rows):
        yield first, values_ND[first : first + rows]
