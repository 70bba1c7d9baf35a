"""The grid of spectrogram patches: its fixed positions, and tokens put into their places."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class PatchGrid(NamedTuple):
    """Numbers of patches along time and frequency; tokens are time-major: token = t * freq + f."""

    time: int
    freq: int

    @property
    def tokens(self) -> int:
        """N = T * F."""
        return self.time * self.freq


def _sincos_1d(positions: int, width: int) -> Tensor:
    # float64: at position 36,000 (an hour of 10 ms frames) float32 phases are already off by 1e-3.
    frequencies = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    phases = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    return torch.cat([phases.sin(), phases.cos()], dim=1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table made while serving may be used in training later
def sincos_positions(grid: PatchGrid, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed 2-D sine-cosine positions, [N, width] float32: half of the features for each axis.

    Made once for each grid and device: do not write to it. The same (t, f) has the same position in every
    grid, so that clips of any length share one code (A-JEPA section 3, "fixed sinusoidal positional
    encoding"; the form is that of MAE, appendix A).

    Raises:
        ValueError: `width` is not a multiple of 4 (two axes, a sine and a cosine each).
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4, which 2-D sine-cosine positions need")
    time_TH = _sincos_1d(grid.time, width // 2)
    freq_FH = _sincos_1d(grid.freq, width // 2)
    table_TFD = torch.cat(
        [
            time_TH[:, None, :].expand(-1, grid.freq, -1),
            freq_FH[None, :, :].expand(grid.time, -1, -1),
        ],
        dim=-1,
    )
    return table_TFD.reshape(grid.tokens, width).float().to(device)


def fill_grid(
    tokens_RKD: Tensor, index_RK: Tensor, valid_RK: Tensor, mask_token: Tensor, grid: PatchGrid
) -> Tensor:
    """Tokens at their places in the grid, the mask token at all others: [R, N, D].

    Args:
        index_RK: the place of each token.
        valid_RK: False for padding, which is left out.
        mask_token: [D].
    """
    rows, _, width = tokens_RKD.shape
    # Padding is written to one place past the grid and cut off: no token of the grid is overwritten.
    place_RK = torch.where(valid_RK, index_RK, grid.tokens)
    filled = mask_token.to(tokens_RKD.dtype).expand(rows, grid.tokens + 1, width)
    return filled.scatter(1, place_RK[..., None].expand(-1, -1, width), tokens_RKD)[:, : grid.tokens]
