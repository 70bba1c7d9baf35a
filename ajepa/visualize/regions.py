"""Target regions: rectangles of patches, and the context that is left around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ajepa.masking import Masks
from ajepa.masking.masks import first_places
from ajepa.nn.grid import PatchGrid

TIME_SHARE = (0.2, 0.4)  # of the grid that a region spans, as the targets of I-JEPA do in area
FREQ_SHARE = (0.4, 0.8)


class Region(NamedTuple):
    """A rectangle of patches: first time step, first frequency patch, and their numbers."""

    start: int
    low: int
    time: int
    freq: int


def draw_regions(grid: PatchGrid, count: int, generator: torch.Generator) -> list[Region]:
    """Rectangles of random size and place."""
    draws = torch.rand(count, 4, generator=generator).tolist()
    found = []
    for share_time, share_freq, at_time, at_freq in draws:
        time = _side(grid.time, TIME_SHARE, share_time)
        freq = _side(grid.freq, FREQ_SHARE, share_freq)
        start, low = int(at_time * (grid.time - time + 1)), int(at_freq * (grid.freq - freq + 1))
        found.append(Region(start, low, time, freq))
    return found


def _side(size: int, share: tuple[float, float], draw: float) -> int:
    wanted = round(size * (share[0] + draw * (share[1] - share[0])))
    return min(max(1, wanted), max(1, size - 1))


def inside(grid: PatchGrid, regions: list[Region]) -> Tensor:
    """The patches of each region, [B, N] bool."""
    cells_BTF = torch.zeros(len(regions), *grid, dtype=torch.bool)
    for cells_TF, region in zip(cells_BTF, regions, strict=True):
        rows = slice(region.start, region.start + region.time)
        cells_TF[rows, region.low : region.low + region.freq] = True
    return cells_BTF.flatten(1)


def masks_of(grid: PatchGrid, regions: list[Region], budget: int, generator: torch.Generator) -> Masks:
    """One mask a clip: the region is the target, and at most `budget` random patches outside it the context.

    Args:
        budget: as many patches as the encoder saw in training.
    """
    target_BN = inside(grid, regions)
    score_BN = torch.rand(target_BN.shape, generator=generator).masked_fill(target_BN, -1.0)
    kept = min(budget, int((~target_BN).sum(1).min()))
    chosen_BN = torch.zeros_like(target_BN).scatter_(1, score_BN.topk(kept).indices, True)
    index_BK, valid_BK = first_places(chosen_BN, kept)
    return Masks(index_BK[:, None], valid_BK[:, None], target_BN[:, None])
