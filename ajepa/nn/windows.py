"""Local attention windows on a grid of tokens, plain and shifted (Swin: Liu et al., 2021, section 3.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .grid import PatchGrid


def check_shift(part: str, shift: tuple[int, int], window: tuple[int, int]) -> None:
    """Raises ValueError, naming the part, unless the shift is within the window along both axes."""
    if any(not 0 <= moved < size for moved, size in zip(shift, window, strict=True)):
        raise ValueError(f"{part} shift {shift} must be within its window {window}")


class Windows:
    """A partition of a grid into windows of A cells, as indices.

    Shifting rolls the grid cyclically, as in Swin: parts of windows that the edge cuts share one window, and
    a mask keeps their tokens apart. Sizes that are no multiple of the window are padded at the end.

    Attributes:
        index_WA: token of each cell of each of the W windows; 0 for cells outside the grid.
        slot_N: place of each token among the W * A cells.
        mask_WAA: True where a query (first A) may see a key: both in the grid and on the same side of its
            edge. A cell outside sees itself, so that no row is empty. None if all see all.
    """

    def __init__(
        self, grid: PatchGrid, window: tuple[int, int], shift: tuple[int, int], device: torch.device
    ) -> None:
        time_WtA, time_part_WtA = _axis_windows(grid.time, window[0], shift[0])
        freq_WfA, freq_part_WfA = _axis_windows(grid.freq, window[1], shift[1])
        cells = time_WtA[:, None, :, None] * grid.freq + freq_WfA[None, :, None, :]
        outside = (time_WtA < 0)[:, None, :, None] | (freq_WfA < 0)[None, :, None, :]
        parts = time_part_WtA[:, None, :, None] * 2 + freq_part_WfA[None, :, None, :]
        outside_WA, parts_WA = (x.flatten(2).flatten(0, 1) for x in (outside, parts))
        index_WA = cells.flatten(2).flatten(0, 1).masked_fill(outside_WA, 0)
        slots_WA = torch.arange(index_WA.numel()).view_as(index_WA)
        slot_N = torch.empty(grid.tokens, dtype=torch.long)
        slot_N[index_WA[~outside_WA]] = slots_WA[~outside_WA]
        parts_WA = torch.where(outside_WA, 4 + slots_WA, parts_WA)
        mask_WAA = parts_WA[:, :, None] == parts_WA[:, None, :]
        self.index_WA, self.slot_N = index_WA.to(device), slot_N.to(device)
        self.mask_WAA = None if mask_WAA.all() else mask_WAA.to(device)

    @property
    def cells(self) -> int:
        """Cells A of a window."""
        return self.index_WA.shape[1]


def _axis_windows(size: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Cells of each window along one axis (-1 outside) and their side of the edge: each [windows, cells]."""
    window = min(window, size)
    shift = shift if window < size else 0  # shifting a window that spans the axis would only cut it
    padded = -(-size // window) * window
    rolled = torch.arange(padded) + shift
    cells = (rolled % padded).view(-1, window)
    return torch.where(cells < size, cells, -1), (rolled >= padded).long().view(-1, window)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # made during inference, they may be used in training later
def grid_windows(
    grid: PatchGrid, window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> Windows:
    """The windows of a grid, computed once for each device."""
    return Windows(grid, window, shift, device)


class Move(NamedTuple):
    """How tokens move from one layout of a grid to another, and their gradients back.

    Attributes:
        forth: for each cell of the new layout the cell of the old one; for cells outside the first token's.
        back: for each cell of the old layout the cell of the new one.
        inside: 1.0 for cells of the old layout in the grid, else 0.0; None if all are in it.
    """

    forth: Tensor
    back: Tensor
    inside: Tensor | None


Shift = tuple[int, int]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _move(
    grid: PatchGrid, window: tuple[int, int], old: Shift | None, new: Shift | None, device: torch.device
) -> Move:
    host = torch.device("cpu")  # a question about a table's content must not wait for another device
    if new is None:
        token_of_cell = slot_of_token = torch.arange(grid.tokens)
    else:
        layout = grid_windows(grid, window, new, host)
        token_of_cell, slot_of_token = layout.index_WA.flatten(), layout.slot_N
    if old is None:
        return Move(token_of_cell.to(device), slot_of_token.to(device), None)
    layout = grid_windows(grid, window, old, host)
    back = slot_of_token[layout.index_WA.flatten()]
    inside = torch.zeros(len(back))
    inside[layout.slot_N] = 1.0
    forth = layout.slot_N[token_of_cell]
    return Move(forth.to(device), back.to(device), None if inside.all() else inside.to(device))


class _Regroup(torch.autograd.Function):
    """A gather along dimension 1 whose gradient is a gather too; torch's own adds row by row."""

    @staticmethod
    def forward(context: Any, tokens: Tensor, move: Move) -> Tensor:
        context.move = move
        return tokens.index_select(1, move.forth)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        moved = gradient.index_select(1, context.move.back)
        if context.move.inside is not None:
            moved = moved * context.move.inside[:, None].to(moved.dtype)
        return moved, None


def regroup(
    tokens: Tensor, grid: PatchGrid, window: tuple[int, int], old: Shift | None, new: Shift | None
) -> Tensor:
    """Move tokens [R, cells, D] from one shift's windows to another's; None means the grid's order."""
    if old == new:
        return tokens
    moved: Tensor = _Regroup.apply(tokens, _move(grid, window, old, new, tokens.device))
    return moved
