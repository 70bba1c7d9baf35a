"""Predictors: from the encoded context to the features at every place of the grid (A-JEPA section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .blocks import LayerNorm, check_sizes, run_block
from .encoder import attention_mask, init_linear, transformer_blocks
from .grid import PatchGrid, fill_grid
from .positions import PositionTable, TableConfig, positions_of
from .windows import check_shift, grid_windows, regroup


@dataclass(frozen=True)
class PredictorConfig:
    """The paper's predictor by default: 16 blocks of width 512 with shifted local windows.

    Args:
        kind: "local" attends within windows of the whole grid, shifted in every second block; "global" over
            the whole grid; "targets", as in I-JEPA, over context and target tokens only.
        window: patches of a local window along time and frequency.
        shift: how far every second block's windows are shifted along both, by half a window as in Swin
            (Audio-MAE's code shifts only along time, (2, 0); the A-JEPA paper does not say).
        table: shape of the position table stored with the weights; None for the sine-cosine code.
    """

    kind: Literal["local", "global", "targets"] = "local"
    depth: int = 16
    width: int = 512
    heads: int = 16
    mlp_ratio: float = 4.0
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (2, 2)
    table: TableConfig | None = None

    def __post_init__(self) -> None:
        sizes = self.width, self.depth, self.heads, self.mlp_ratio
        check_sizes("predictor", *sizes, least_depth=0, multiple=4 if self.table is None else 1)
        check_shift("predictor", self.shift, self.window)


class Predictor(nn.Module):
    """From context tokens to predicted features, everywhere on the grid or only at the targets.

    Attributes:
        checkpoint_activations: compute the blocks' activations again in the backward pass, to save memory.
    """

    checkpoint_activations = False

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
        self.position_table = PositionTable(config.table, config.width) if config.table else None

    def positions(self, grid: PatchGrid, device: torch.device) -> Tensor:
        """Position code [N, width] on `device`."""
        return positions_of(grid, self.position_table, self.config.width, device)

    def forward(
        self,
        context_RKD: Tensor,
        index_RK: Tensor,
        valid_RK: Tensor,
        grid: PatchGrid,
        targets: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Predict features.

        Args:
            context_RKD: encoded context tokens, R = clips times masks.
            index_RK: their places in the grid.
            valid_RK: False for padding, which is left out.
            grid: the whole grid.
            targets: for kind "targets" the places to predict and which of them are no padding, each [R, Q].

        Returns:
            Predictions in the encoder's width: [R, N, D] at every token of the grid, context included; for
            kind "targets" [R, Q, D].

        Raises:
            ValueError: `targets` is missing for kind "targets", or given for another.
        """
        if (targets is not None) != (self.config.kind == "targets"):
            raise ValueError(f"a predictor of kind {self.config.kind!r} got targets={targets is not None}")
        context = self.embed(context_RKD)
        if targets is not None:
            tokens = self._at_targets(context, index_RK, valid_RK, grid, *targets)
        else:
            tokens = self._everywhere(context, index_RK, valid_RK, grid)
        return self.head(self.norm(tokens))

    def _everywhere(self, context: Tensor, index_RK: Tensor, valid_RK: Tensor, grid: PatchGrid) -> Tensor:
        """Context and mask tokens in the grid's order through the blocks: [R, N, width]."""
        tokens = fill_grid(context, index_RK, valid_RK, self.mask_token, grid)
        rows, _, width = tokens.shape
        tokens = tokens + self.positions(grid, tokens.device)
        if self.config.kind == "global":
            for block in self.blocks:
                tokens = run_block(block, self.checkpoint_activations, tokens)
            return tokens
        window, layout = self.config.window, None
        masks: dict[tuple[int, int], Tensor | None] = {}
        for depth, block in enumerate(self.blocks):
            shift = self.config.shift if depth % 2 else (0, 0)
            tokens = regroup(tokens, grid, window, layout, shift)
            layout = shift
            windows = grid_windows(grid, window, shift, tokens.device)
            if shift not in masks:
                mask_WAA = windows.mask_WAA
                masks[shift] = None if mask_WAA is None else mask_WAA.repeat(rows, 1, 1)[:, None]
            local = tokens.reshape(-1, windows.cells, width)
            local = run_block(block, self.checkpoint_activations, local, masks[shift])
            tokens = local.view(rows, -1, width)
        return regroup(tokens, grid, window, layout, None)

    def _at_targets(
        self,
        context: Tensor,
        index_RK: Tensor,
        valid_RK: Tensor,
        grid: PatchGrid,
        target_RQ: Tensor,
        target_valid_RQ: Tensor,
    ) -> Tensor:
        """Only context and target tokens through the blocks, as in I-JEPA: [R, Q, width]."""
        positions = self.positions(grid, context.device)
        queries = self.mask_token + positions[target_RQ]
        tokens = torch.cat([context + positions[index_RK], queries], dim=1)
        mask = attention_mask(torch.cat([valid_RK, target_valid_RQ], dim=1))
        for block in self.blocks:
            tokens = run_block(block, self.checkpoint_activations, tokens, mask)
        return tokens[:, index_RK.shape[1] :]
