"""Position tables that are stored with weights, and their use for clips of other lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .grid import PatchGrid, sincos_positions


@dataclass(frozen=True)
class TableConfig:
    """Shape of a stored position table of `time` times `freq` entries.

    Args:
        time: time patches.
        freq: frequency patches.
        transposed: entries run frequency by frequency, but tokens time step by time step, and token n still
            takes entry n. Audio-MAE was trained this way: its code makes the table for a grid of (8, 64), and
            its tokens are on one of (64, 8).
    """

    time: int
    freq: int
    transposed: bool = False

    def __post_init__(self) -> None:
        if min(self.time, self.freq) < 1:
            raise ValueError(f"a position table of {self.time} x {self.freq} patches is empty")


class PositionTable(nn.Module):
    """Stored position codes, [N, D]; not trained.

    For a shorter clip the table is cut along its time axis, for a longer one stretched along it (bicubic).
    Cutting a transposed table moves the entries that follow, as in Audio-MAE's fine-tuning code: a token's
    code then depends on the clip's length.
    """

    table: Tensor

    def __init__(self, config: TableConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("table", torch.zeros(config.time * config.freq, width))

    def forward(self, grid: PatchGrid) -> Tensor:
        """Position codes [N, D] of a grid's tokens.

        Raises:
            ValueError: grid and table differ in their frequency patches.
        """
        stored = self.config
        if grid.freq != stored.freq:
            raise ValueError(
                f"the stored positions have {stored.freq} frequency patches, the grid has {grid.freq}"
            )
        if grid.time == stored.time:
            return self.table
        width = self.table.shape[1]
        time_axis = 1 if stored.transposed else 0
        table_XYD = self.table.view(*_axes(stored.time, stored), width)
        if grid.time < stored.time:
            return table_XYD.narrow(time_axis, 0, grid.time).reshape(grid.tokens, width)
        stretched_1DXY = nn.functional.interpolate(
            table_XYD.permute(2, 0, 1)[None].float(),
            size=_axes(grid.time, stored),
            mode="bicubic",
            align_corners=False,
        )
        return stretched_1DXY[0].permute(1, 2, 0).reshape(grid.tokens, width).to(self.table.dtype)


def _axes(time: int, stored: TableConfig) -> tuple[int, int]:
    """Sizes of a table of `time` time patches, in the order of its entries."""
    return (stored.freq, time) if stored.transposed else (time, stored.freq)


def positions_of(grid: PatchGrid, stored: PositionTable | None, width: int, device: torch.device) -> Tensor:
    """Position codes [N, D] of a grid: those stored with the weights, else the sine-cosine code."""
    return sincos_positions(grid, width, device) if stored is None else stored(grid)
