"""The Vision Transformer on spectrogram patches that every system here shares."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ajepa.features import InputConfig

from .blocks import Block, LayerNorm, check_sizes, run_block
from .grid import PatchGrid
from .positions import PositionTable, TableConfig, positions_of

SIZES: dict[str, tuple[int, int, int]] = {
    # width, depth, heads: the ViT family; Ti and S from DeiT, B and L from ViT (A-JEPA table 2 uses S, B, L)
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
}


@dataclass(frozen=True)
class EncoderConfig:
    """Size of the encoder and its patches.

    Args:
        size: "ti", "s", "b" or "l"; `width`, `depth` and `heads` override single values.
        patch: frames and mel bands of a patch, (16, 16) in the paper; the second must divide `mels`.
        mels: mel bands of the spectrograms.
        mlp_ratio: hidden width of the MLPs over the width.
        cls_token: a class token next to the patches, as in Audio-MAE. The blocks attend to it; embeddings
            leave it out.
        table: shape of the position table stored with the weights; None for the sine-cosine code.
        inputs: what the weights expect of a clip's level and of the frames after its end.
        init: what the encoder starts training from instead of random weights: `timm:NAME[@FILE]`, or any
            source of `ajepa.load_model` of the same sizes. A ViT's positions are taken over if there is a
            `table` for them, and its class token if there is a `cls_token`.
    """

    size: Literal["ti", "s", "b", "l"] = "b"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    patch: tuple[int, int] = (16, 16)
    mels: int = 128
    mlp_ratio: float = 4.0
    cls_token: bool = False
    table: TableConfig | None = None
    inputs: InputConfig = field(default_factory=InputConfig)
    init: str = field(default="", repr=False)  # no setting of the network: fingerprints hash the text of this

    def __post_init__(self) -> None:
        check_sizes("encoder", *self.dimensions, self.mlp_ratio, multiple=4 if self.table is None else 1)
        if min(self.patch) < 1 or self.mels % self.patch[1]:
            raise ValueError(
                f"encoder patch {tuple(self.patch)} does not fit {self.mels} mel bands: "
                "both numbers must be at least 1, and the second must divide the bands"
            )
        if self.table is not None and self.table.freq != self.mels // self.patch[1]:
            raise ValueError(
                f"encoder.table.freq is {self.table.freq}, {self.mels} mel bands in patches "
                f"of {self.patch[1]} are {self.mels // self.patch[1]}: they must agree"
            )

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """(width, depth, heads) after the overrides."""
        width, depth, heads = SIZES[self.size]
        return (
            width if self.width is None else self.width,
            depth if self.depth is None else self.depth,
            heads if self.heads is None else self.heads,
        )


def transformer_blocks(width: int, depth: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    """`depth` blocks, initialised as I-JEPA does."""
    blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
    blocks.apply(init_linear)
    # As in BEiT and I-JEPA, the residual branches of block n start smaller by sqrt(2 n), so that the variance
    # of the residual stream does not grow with depth.
    for number, block in enumerate(blocks, start=1):
        for name, parameter in block.named_parameters():
            if name in {"attn.proj.weight", "mlp.fc2.weight"}:
                parameter.data.div_(math.sqrt(2 * number))
    return blocks


def init_linear(module: nn.Module) -> None:
    """Truncated normal of std 0.02 for weights, zero for biases (ViT's initialisation)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def attention_mask(valid_BN: Tensor | None) -> Tensor | None:
    """Boolean mask [B, 1, 1, N] that hides invalid keys from all queries. None stays None: it is faster."""
    return None if valid_BN is None else valid_BN[:, None, None, :]


@dataclass(frozen=True)
class RegularisedMasking:
    """A-JEPA's regularised masking (section 3.2): in every block, a random share of the patches is hidden.

    No query sees the key and value of a hidden patch, not even its own; the patch still attends to the others
    and has an output. Every block of every clip has its own draw. For training only.

    Args:
        share: share of a clip's patches, rounded down to a whole number; 0.1 in the paper.
        generator: decides all draws; on the tokens' device.
    """

    share: float
    generator: torch.Generator

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"the share of hidden patches is {self.share}, must be in [0, 1)")

    def visible(self, tokens_BND: Tensor, valid_BN: Tensor | None, patches: slice) -> Tensor:
        """Draw for one block: False for hidden tokens and padding, [B, N].

        Args:
            valid_BN: False for padding, which is never drawn; None means all are valid.
            patches: the tokens that are patches. A class token is never hidden.
        """
        if valid_BN is None:
            valid_BN = torch.ones(tokens_BND.shape[:2], dtype=torch.bool, device=tokens_BND.device)
        score_BN = torch.rand(valid_BN.shape, generator=self.generator, device=valid_BN.device)
        # A class token and padding rank after all patches, so that only patches are hidden.
        score_BN[:, : patches.start] = 2.0
        score_BN = score_BN.masked_fill(~valid_BN, 2.0)
        count_B1 = (self.share * valid_BN[:, patches].sum(1, keepdim=True)).long()
        place_BN = score_BN.argsort(1).argsort(1)
        return valid_BN & (place_BN >= count_B1)


@dataclass(frozen=True)
class DropPath:
    """Stochastic depth (arXiv 1603.09382): in training, clips skip branches of blocks at random.

    The other branches are scaled so that the mean does not change. The rate grows linearly with depth, from 0
    in the first block to `rate` in the last.
    """

    rate: float
    generator: torch.Generator

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"the rate of drop path is {self.rate}, must be in [0, 1)")

    def scales(self, clips: int, depth: int, blocks: int) -> Tensor:
        """Factors of the two branches of block number `depth`: [2, B]."""
        keep = 1 - self.rate * depth / max(1, blocks - 1)
        drawn_2B = torch.rand(2, clips, generator=self.generator, device=self.generator.device)
        return (drawn_2B < keep).float() / keep


class Encoder(nn.Module):
    """ViT on patches of a log-mel spectrogram (A-JEPA section 3): patchify, embed, add positions, attend.

    Tokens are time-major. Only some weights have a class token (Audio-MAE, not A-JEPA).

    Attributes:
        checkpoint_activations: compute the blocks' activations again in the backward pass, to save memory.
        cls_token: [D], its position code included; None if there is none.
        position_table: stored positions; None for the sine-cosine code.
    """

    checkpoint_activations = False
    cls_token: nn.Parameter | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        patch_time, patch_freq = config.patch
        self.config = config
        self.width, depth, heads = config.dimensions
        self.freq_patches = config.mels // patch_freq
        self.patch_embed = nn.Linear(patch_time * patch_freq, self.width)
        self.blocks = transformer_blocks(self.width, depth, heads, config.mlp_ratio)
        self.norm = LayerNorm(self.width)
        # Xavier, as of a linear layer on flat patches: the start of I-JEPA and MAE.
        nn.init.xavier_uniform_(self.patch_embed.weight)
        nn.init.zeros_(self.patch_embed.bias)
        # Drawn last: all other weights start the same with and without a class token.
        self.cls_token = nn.Parameter(0.02 * torch.randn(self.width)) if config.cls_token else None
        self.position_table = PositionTable(config.table, self.width) if config.table else None

    def grid(self, frames: int) -> PatchGrid:
        """Grid of a spectrogram of `frames` frames; a last, partial patch counts."""
        return PatchGrid(-(-frames // self.config.patch[0]), self.freq_patches)

    def patchify(self, spectrogram_BLC: Tensor, pad_value: float = 0.0) -> tuple[Tensor, PatchGrid]:
        """Spectrogram [B, L, C] to flat patches [B, N, P], its end padded to a whole patch.

        Raises:
            ValueError: the encoder has another number of mel bands.
        """
        _, frames, mels = spectrogram_BLC.shape
        if mels != self.config.mels:
            raise ValueError(f"spectrogram has {mels} mel bands, this encoder takes {self.config.mels}")
        grid = self.grid(frames)
        missing = grid.time * self.config.patch[0] - frames
        if missing:
            spectrogram_BLC = nn.functional.pad(spectrogram_BLC, (0, 0, 0, missing), value=pad_value)
        return self.cut(spectrogram_BLC, grid), grid

    def cut(self, spectrogram_BLC: Tensor, grid: PatchGrid) -> Tensor:
        """Spectrogram [B, L, C] of whole patches to flat patches [B, N, P]."""
        patch_time, patch_freq = self.config.patch
        patches = spectrogram_BLC.reshape(-1, grid.time, patch_time, grid.freq, patch_freq)
        return patches.transpose(2, 3).reshape(-1, grid.tokens, patch_time * patch_freq)

    def unpatchify(self, patches_BNP: Tensor, grid: PatchGrid) -> Tensor:
        """Flat patches [B, N, P] back to a spectrogram [B, L, C] of whole patches."""
        patch_time, patch_freq = self.config.patch
        patches = patches_BNP.reshape(-1, grid.time, grid.freq, patch_time, patch_freq).transpose(2, 3)
        return patches.reshape(-1, grid.time * patch_time, grid.freq * patch_freq)

    def positions(self, grid: PatchGrid, like: Tensor) -> Tensor:
        """Position code [N, D] on `like`'s device."""
        return positions_of(grid, self.position_table, self.width, like.device)

    def forward(
        self,
        patches_BNP: Tensor,
        positions: Tensor,
        valid_BN: Tensor | None = None,
        keep_layers: int = 0,
        keep_cls: bool = False,
        regularised: RegularisedMasking | None = None,
        drop_path: DropPath | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode some or all patches of a grid.

        Args:
            patches_BNP: flat patches, N a clip, in any order.
            positions: their position codes, [N, D] or [B, N, D].
            valid_BN: False for padding, which no token attends to; None means all are valid.
            keep_layers: how many of the last blocks' outputs to return, 0 for none, -1 for all.
            keep_cls: keep the class token in the outputs, before the patches: N + 1 tokens.
            regularised: hides patches from attention, drawn for each block; for fine-tuning.
            drop_path: skips branches of blocks, drawn for each clip; for fine-tuning.

        Returns:
            The last block's output, normed, [B, N, D]; and the kept block outputs, un-normed, first to last.
        """
        dtype = self.patch_embed.weight.dtype  # a half-precision copy accepts any features
        tokens_BND = self.patch_embed(patches_BNP.to(dtype)) + positions.to(dtype)
        drop = 0
        if self.cls_token is not None:
            drop = 0 if keep_cls else 1
            # len() instead of the shape would fix the number of clips in an exported graph.
            cls_B1D = self.cls_token.expand(tokens_BND.shape[0], 1, -1).to(tokens_BND.dtype)
            tokens_BND = torch.cat([cls_B1D, tokens_BND], 1)
            if valid_BN is not None:
                valid_BN = nn.functional.pad(valid_BN, (1, 0), value=True)
        mask = attention_mask(valid_BN)
        patches = slice(tokens_BND.shape[1] - patches_BNP.shape[1], None)
        first_kept = 0 if keep_layers < 0 else len(self.blocks) - keep_layers
        layers = []
        for depth, block in enumerate(self.blocks):
            if regularised is not None:
                mask = attention_mask(regularised.visible(tokens_BND, valid_BN, patches))
            scale_2B = drop_path.scales(len(tokens_BND), depth, len(self.blocks)) if drop_path else None
            tokens_BND = run_block(block, self.checkpoint_activations, tokens_BND, mask, scale_2B)
            if depth >= first_kept:
                layers.append(tokens_BND[:, drop:])
        return self.norm(tokens_BND[:, drop:]), layers


def gather_tokens(values_BNX: Tensor, index_BK: Tensor) -> Tensor:
    """Tokens of each clip at its indices: [B, N, X] and [B, K] to [B, K, X]."""
    return values_BNX.gather(1, index_BK[..., None].expand(-1, -1, values_BNX.shape[-1]))


def parameter_count(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
