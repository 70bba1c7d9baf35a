"""Audio-MAE's decoder: shifted-window blocks in the style of Swin V2, from visible tokens to patches.

After Audio-MAE's code (arXiv 2207.06405, section 3; its `SwinTransformerBlock` is an early form of timm's
`swin_transformer_v2_cr`) and Swin V2 (arXiv 2111.09883, section 3): scaled-cosine attention with a
temperature for each head, a bias for relative positions that a small MLP computes from their logarithms, and
each branch normed before it is added.

Axes: R clips times masks, W windows, A cells of a window, H heads, E features of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import LayerNorm, Mlp, attend, check_sizes, run_block
from .grid import PatchGrid, fill_grid
from .positions import PositionTable, TableConfig, positions_of
from .windows import check_shift, grid_windows, regroup

POSITION_HIDDEN = 384  # hidden width of the MLP for relative positions
LEAST_TEMPERATURE = 0.01
# Added where tokens of a shifted window come from two edges of the grid. At the least temperature a
# similarity can outweigh it: it is not the same as hiding them.
SHIFT_PENALTY = -100.0


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder of Audio-MAE by default: 16 blocks of width 512, windows of 4 x 4 patches.

    Args:
        window: patches of a window along time and frequency.
        shift: how far every second block's windows are shifted along both.
        table: shape of the position table stored with the weights; None for the sine-cosine code.
    """

    depth: int = 16
    width: int = 512
    heads: int = 16
    mlp_ratio: float = 4.0
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (2, 0)
    table: TableConfig | None = None

    def __post_init__(self) -> None:
        sizes = self.width, self.depth, self.heads, self.mlp_ratio
        check_sizes("decoder", *sizes, multiple=4 if self.table is None else 1)
        check_shift("decoder", self.shift, self.window)


class WindowAttention(nn.Module):
    """Scaled-cosine self-attention within windows (Swin V2, sections 3.2 and 3.3).

    Attributes:
        fused: see `ajepa.nn.blocks.attend`.
    """

    fused = True

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        # The original drops 10 % of this MLP's activations in training. This one does not: a step is a pure
        # function of its generator, but dropout draws from the global one.
        self.position_mlp = Mlp(2, POSITION_HIDDEN, heads, act=nn.ReLU)
        self.temperature = nn.Parameter(torch.ones(heads))

    def forward(self, tokens_RND: Tensor, offsets_AA2: Tensor, mask_WAA: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            tokens_RND: window after window, N = W A cells.
            offsets_AA2: log-spaced relative positions of a window's cells.
            mask_WAA: added to the similarities; None for no mask.
        """
        rows, cells, width = tokens_RND.shape
        area = len(offsets_AA2)
        qkv = self.qkv(tokens_RND).view(rows, cells // area, area, 3, self.heads, -1)
        # Windows and heads share one axis, since every window has its own mask and every head its own bias.
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        bias_HAA = self.position_mlp(offsets_AA2.to(tokens_RND.dtype)).permute(2, 0, 1)
        bias_WHAA = bias_HAA[None].expand(cells // area, -1, -1, -1)
        if mask_WAA is not None:
            bias_WHAA = bias_WHAA + mask_WAA[:, None].to(bias_WHAA.dtype)
        query = functional.normalize(query, dim=-1, eps=1e-6)
        key = functional.normalize(key, dim=-1, eps=1e-6)
        scale_H = 1.0 / self.temperature.clamp_min(LEAST_TEMPERATURE)
        query = query * scale_H.repeat(cells // area)[:, None, None]
        attended = attend(
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            bias_WHAA.flatten(0, 1)[None].to(value.dtype),
            scale=1.0,
            fused=self.fused,
        )
        attended = attended.unflatten(1, (-1, self.heads)).transpose(2, 3)
        return self.proj(attended.reshape(rows, cells, width))


class WindowBlock(nn.Module):
    """A Swin V2 block: attention within windows, then an MLP, each branch normed before it is added."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads)
        self.norm1 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.norm2 = LayerNorm(width)

    def forward(self, tokens_RND: Tensor, offsets_AA2: Tensor, mask_WAA: Tensor | None) -> Tensor:
        """As `WindowAttention.forward`."""
        tokens_RND = tokens_RND + self.norm1(self.attn(tokens_RND, offsets_AA2, mask_WAA))
        return tokens_RND + self.norm2(self.mlp(tokens_RND))


class Decoder(nn.Module):
    """From visible tokens to every patch of the grid.

    Attributes:
        checkpoint_activations: compute the blocks' activations again in the backward pass, to save memory.
    """

    checkpoint_activations = False

    def __init__(self, config: DecoderConfig, encoder_width: int, patch_pixels: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(
            WindowBlock(width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, patch_pixels)
        self.position_table = PositionTable(config.table, width) if config.table else None
        self.apply(_init_linear)

    def forward(self, visible_RKD: Tensor, index_RK: Tensor, valid_RK: Tensor, grid: PatchGrid) -> Tensor:
        """Predict every patch, visible ones included: [R, N, pixels of a patch].

        Args:
            visible_RKD: encoded visible tokens, without the class token.
            index_RK: their places in the grid.
            valid_RK: False for padding, which is left out.
        """
        tokens = fill_grid(self.embed(visible_RKD), index_RK, valid_RK, self.mask_token, grid)
        tokens = tokens + positions_of(grid, self.position_table, self.config.width, tokens.device)
        window, layout = self.config.window, None
        for depth, block in enumerate(self.blocks):
            shift = self.config.shift if depth % 2 else (0, 0)
            tokens = regroup(tokens, grid, window, layout, shift)
            layout = shift
            offsets_AA2 = relative_offsets(grid, window, tokens.device)
            mask_WAA = shift_penalties(grid, window, shift, tokens.device)
            tokens = run_block(block, self.checkpoint_activations, tokens, offsets_AA2, mask_WAA)
        tokens = regroup(tokens, grid, window, layout, None)
        return self.head(self.norm(tokens))


def _init_linear(module: nn.Module) -> None:
    """Xavier for weights, zero for biases, as in Audio-MAE's code (which follows the JAX ViT)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # made during inference, they may be used in training later
def relative_offsets(grid: PatchGrid, window: tuple[int, int], device: torch.device) -> Tensor:
    """Offsets of a window's cells from one another, [A, A, 2]: sign(x) ln(1 + |x|) (Swin V2, equation 4)."""
    sides = [torch.arange(min(size, side)) for size, side in zip(grid, window, strict=True)]
    cells_A2 = torch.cartesian_prod(*sides).view(-1, 2).float()
    offsets_AA2 = cells_A2[:, None] - cells_A2[None, :]
    return (offsets_AA2.sign() * offsets_AA2.abs().log1p()).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shift_penalties(
    grid: PatchGrid, window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Added to similarities across the grid's edge, [W, A, A]; None if no window crosses it."""
    windows = grid_windows(grid, window, shift, device)
    if windows.mask_WAA is None:
        return None
    penalty_WAA = torch.zeros(windows.mask_WAA.shape, device=device)
    penalty_WAA.masked_fill_(~windows.mask_WAA, SHIFT_PENALTY)
    # Cells that only fill up a window are hidden; each sees itself, so that no row is empty.
    inside = torch.zeros(windows.index_WA.numel(), dtype=torch.bool, device=device)
    inside[windows.slot_N] = True
    filler_W1A = ~inside.view_as(windows.index_WA)[:, None]
    return penalty_WAA.masked_fill_(filler_W1A & ~windows.mask_WAA, -torch.inf)
