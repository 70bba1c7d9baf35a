"""Position tables that come with weights, and how they serve clips of another length."""

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
        transposed: the entries run frequency by frequency, while tokens run time step by time step. Token n
            takes entry n all the same: this is how Audio-MAE was trained, whose code makes the table on a
            grid of (8, 64) for tokens on one of (64, 8).
    """

    time: int
    freq: int
    transposed: bool = False

    def __post_init__(self) -> None:
        if min(self.time, self.freq) < 1:
            raise ValueError(f"a position table of {self.time} x {self.freq} patches holds nothing")


class PositionTable(nn.Module):
    """Fixed position codes as they were stored, [N, D]; not trained.

    A shorter clip takes the table cut along its time axis, a longer one the table stretched along it
    (bicubic). For a transposed table the cut moves the entries that follow, as it does in Audio-MAE's
    fine-tuning code: the code of a token then depends on the clip's length.
    """

    table: Tensor

    def __init__(self, config: TableConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("table", torch.zeros(config.time * config.freq, width))

    def forward(self, grid: PatchGrid) -> Tensor:
        """Position codes [N, D] of a grid's tokens.

        Raises:
            ValueError: the grid's frequency patches are not the table's.
        """
        stored = self.config
        if grid.freq != stored.freq:
            raise ValueError(
                f"the stored positions are of {stored.freq} frequency patches, the grid has {grid.freq}"
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
    """Position codes [N, D] of a grid: those that came with the weights, else the sine-cosine code."""
    return sincos_positions(grid, width, device) if stored is None else stored(grid)
