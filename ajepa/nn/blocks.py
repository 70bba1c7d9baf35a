"""The Transformer block of ViT (arXiv 2010.11929, section 3.1), as every network here uses it.

Weights are named as in timm, whose block gives the same results (a test compares them). It is defined here
because importing timm imports all of its models and torchvision: 3 s and 190 MB in every process that reads
audio.

Axes: R rows (clips, clips times masks, or windows), N tokens, D features, H heads, E features of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def check_sizes(
    part: str,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    *,
    least_depth: int = 1,
    multiple: int = 4,
) -> None:
    """Raises ValueError, naming the part, for a size below its bound, or a width that cannot be divided.

    Args:
        multiple: the width must be a multiple of it and of the heads; 4 for sine-cosine positions.
    """
    if width < 1 or heads < 1 or depth < least_depth:
        raise ValueError(
            f"{part} width {width}, depth {depth}, heads {heads}: width and heads must be at least 1, depth "
            f"at least {least_depth}"
        )
    if not 1 <= width * mlp_ratio < math.inf:
        raise ValueError(f"{part} mlp_ratio {mlp_ratio}: the MLPs' hidden width must be at least 1")
    if width % math.lcm(heads, multiple):
        raise ValueError(
            f"{part} width {width} must be a multiple of {math.lcm(heads, multiple)}, for its {heads} heads"
        )


class LayerNorm(nn.LayerNorm):
    """Layer norm with ViT's epsilon."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, fused: bool
) -> Tensor:
    """Scaled dot-product attention: softmax(scale q k^T + mask) v, on [..., N, E].

    Args:
        mask: added to the similarities; if boolean, False for keys that a query must not see. Every query
            needs at least one key. None for no mask.
        fused: by torch's fused kernel; else by plain matrix products, which are sometimes faster
            (`ajepa.training.devices.plain_attention`).
    """
    if fused:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    similarity = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        if mask.dtype == torch.bool:
            similarity = similarity.masked_fill(~mask, -torch.inf)
        else:
            similarity = similarity + mask
    return similarity.softmax(-1) @ value


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        fused: see `attend`.
    """

    fused = True

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_RND: Tensor, mask: Tensor | None = None) -> Tensor:
        """[R, N, D] to [R, N, D]; `mask` as for `attend`, broadcast to [R, H, N, N]."""
        query, key, value = self.split(self.qkv(tokens_RND)).unbind(0)
        attended = attend(query, key, value, mask, scale=query.shape[-1] ** -0.5, fused=self.fused)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def split(self, qkv_RNE: Tensor) -> Tensor:
        """Joint queries, keys and values [R, N, 3 D] to [3, R, H, N, E]."""
        return qkv_RNE.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


class Mlp(nn.Module):
    """Two linear layers with a non-linearity between them."""

    def __init__(
        self, width: int, hidden: int, out: int | None = None, act: type[nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = act()
        self.fc2 = nn.Linear(hidden, out or width)

    def forward(self, values: Tensor) -> Tensor:
        """[..., width] to [..., out]."""
        return self.fc2(self.act(self.fc1(values)))


class Block(nn.Module):
    """A pre-norm Transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self, tokens_RND: Tensor, mask: Tensor | None = None, scale_2R: Tensor | None = None
    ) -> Tensor:
        """[R, N, D] to [R, N, D]; `mask` as for `Attention`, `scale_2R` scales each row's two branches."""
        attended = self.attn(self.norm1(tokens_RND), mask)
        if scale_2R is None:
            tokens_RND = tokens_RND + attended
            return tokens_RND + self.mlp(self.norm2(tokens_RND))
        scale_attended, scale_mlp = scale_2R[:, :, None, None]
        tokens_RND = tokens_RND + scale_attended * attended
        return tokens_RND + scale_mlp * self.mlp(self.norm2(tokens_RND))


def run_block(block: nn.Module, again: bool, *arguments: Tensor | None) -> Tensor:
    """A block's output; with `again` its activations are computed again for the gradient, not stored."""
    if again and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)
