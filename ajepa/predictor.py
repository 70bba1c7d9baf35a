"""Predictors: from the encoded context to the features at every place of the grid (A-JEPA section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from ajepa.encoder import attention_mask, init_linear, transformer_blocks
from ajepa.grid import PatchGrid, sincos_positions


@dataclass(frozen=True)
class PredictorConfig:
    """The paper's predictor by default: 16 blocks of width 512 with shifted local windows.

    Args:
        kind: "local" attends within windows, shifted in every second block; "global" over the whole grid.
        window: patches of a local window along time and frequency.
        shift: how far every second block's windows are shifted along both, by half a window as in Swin
            (Audio-MAE's code shifts along time alone, (2, 0); the A-JEPA paper does not say).
    """

    kind: Literal["local", "global"] = "local"
    depth: int = 16
    width: int = 512
    heads: int = 16
    mlp_ratio: float = 4.0
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (2, 2)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"predictor width {self.width} is not a multiple of its {self.heads} heads")
        if any(not 0 <= shift < window for shift, window in zip(self.shift, self.window, strict=True)):
            raise ValueError(f"predictor shift {self.shift} must lie within its window {self.window}")


class Windows:
    """A partition of a grid into windows, as indices; windows cut by the grid's edge are padded.

    Starting the windows at -shift gives the very sets of tokens that Swin's cyclic roll and mask give
    (Liu et al., 2021, section 3.2), without moving or masking whole grids.

    Attributes:
        index_WA: token of each of the A cells of each of the W windows; 0 where a cell is outside.
        valid_WA: False for cells outside the grid.
        slot_N: where each token stands among the W * A cells.
    """

    def __init__(self, grid: PatchGrid, window: tuple[int, int], shift: tuple[int, int]) -> None:
        time_WtA = _axis_windows(grid.time, window[0], shift[0])
        freq_WfA = _axis_windows(grid.freq, window[1], shift[1])
        cells = time_WtA[:, None, :, None] * grid.freq + freq_WfA[None, :, None, :]
        outside = (time_WtA < 0)[:, None, :, None] | (freq_WfA < 0)[None, :, None, :]
        self.valid_WA = ~outside.flatten(2).flatten(0, 1)
        self.index_WA = cells.masked_fill(outside, 0).flatten(2).flatten(0, 1)
        self.slot_N = torch.empty(grid.tokens, dtype=torch.long)
        slots = torch.arange(self.index_WA.numel()).view_as(self.index_WA)
        self.slot_N[self.index_WA[self.valid_WA]] = slots[self.valid_WA]


def _axis_windows(size: int, window: int, shift: int) -> Tensor:
    """Cells of each window along one axis, -1 outside: [windows, cells of a window]."""
    window = min(window, size)
    shift = shift if window < size else 0  # one window spans the axis: shifting it would only cut it
    starts = torch.arange(-shift, size, window)
    cells = starts[:, None] + torch.arange(window)
    return torch.where((cells >= 0) & (cells < size), cells, -1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # indices made while serving may be used in training later
def grid_windows(grid: PatchGrid, window: tuple[int, int], shift: tuple[int, int]) -> Windows:
    """The windows of a grid, computed once for each."""
    return Windows(grid, window, shift)


class Predictor(nn.Module):
    """Puts context tokens back in time-frequency order among mask tokens and predicts features everywhere."""

    def __init__(self, config: PredictorConfig, encoder_width: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(encoder_width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.blocks = transformer_blocks(config.width, config.depth, config.heads, config.mlp_ratio)
        self.norm = LayerNorm(config.width)
        self.head = nn.Linear(config.width, encoder_width)
        self.embed.apply(init_linear)
        self.head.apply(init_linear)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context_RKD: Tensor, index_RK: Tensor, valid_RK: Tensor, grid: PatchGrid) -> Tensor:
        """Predict features at every token of the grid.

        Args:
            context_RKD: encoded context tokens, R = clips times masks.
            index_RK: the token of the grid each of them is.
            valid_RK: False for padding, which is left out.
            grid: the whole grid.

        Returns:
            Predictions [R, N, D] in the encoder's width, context places included.
        """
        rows, _, _ = context_RKD.shape
        width = self.config.width
        context = self.embed(context_RKD)
        # Padding is written to one place past the grid and cut off: no token of the grid is overwritten.
        place_RK = torch.where(valid_RK, index_RK, grid.tokens)
        tokens = self.mask_token.to(context.dtype).expand(rows, grid.tokens + 1, width)
        tokens = tokens.scatter(1, place_RK[..., None].expand(-1, -1, width), context)[:, : grid.tokens]
        tokens_RND = tokens + sincos_positions(grid, width).to(tokens.device)
        for depth, block in enumerate(self.blocks):
            if self.config.kind == "global":
                tokens_RND = block(tokens_RND)
            else:
                tokens_RND = self._local(block, tokens_RND, grid, shifted=depth % 2 == 1)
        return self.head(self.norm(tokens_RND))

    def _local(self, block: nn.Module, tokens_RND: Tensor, grid: PatchGrid, shifted: bool) -> Tensor:
        windows = grid_windows(grid, self.config.window, self.config.shift if shifted else (0, 0))
        rows, _, width = tokens_RND.shape
        device = tokens_RND.device
        count, cells = windows.index_WA.shape
        index = windows.index_WA.to(device).flatten()
        local = tokens_RND[:, index].view(rows * count, cells, width)
        mask = None
        if not windows.valid_WA.all():
            mask = attention_mask(windows.valid_WA.to(device).repeat(rows, 1))
        return block(local, attn_mask=mask).view(rows, count * cells, width)[:, windows.slot_N.to(device)]
