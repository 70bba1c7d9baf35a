"""The Transformer block of ViT (arXiv 2010.11929, section 3.1), as every network here uses it.

Weights are called as in timm, whose block this equals (a test compares them). It is defined here
because importing timm imports all of its models and torchvision: 3 s and 190 MB in every process that reads
audio.

Axes: R rows (clips, clips times masks, or windows), N tokens, D features, H heads, E features of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-6  # ViT's


class LayerNorm(nn.LayerNorm):
    """Layer norm with ViT's epsilon."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=LAYER_NORM_EPS)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, fused: bool
) -> Tensor:
    """Scaled dot-product attention: softmax(scale q k^T + mask) v, on [..., N, E].

    Args:
        mask: what is added to the similarities, or for booleans False where a key is barred; every query
            needs one key that is not. None for nothing.
        fused: by torch's fused kernel; else by plain matrix products, which are faster in some places
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
        """Attend; `mask`, which goes with [R, H, N, N], as for `attend`."""
        query, key, value = self.split(self.qkv(tokens_RND)).unbind(0)
        attended = attend(query, key, value, mask, scale=query.shape[-1] ** -0.5, fused=self.fused)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def split(self, qkv_RNE: Tensor) -> Tensor:
        """Queries, keys and values in one [R, N, 3 D] to [3, R, H, N, E]."""
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
        """[R, N, D] to [R, N, D]; `mask` as for `Attention`, `scale_2R` for each row's two branches."""
        attended = self.attn(self.norm1(tokens_RND), mask)
        if scale_2R is None:
            tokens_RND = tokens_RND + attended
            return tokens_RND + self.mlp(self.norm2(tokens_RND))
        scale_attended, scale_mlp = scale_2R[:, :, None, None]
        tokens_RND = tokens_RND + scale_attended * attended
        return tokens_RND + scale_mlp * self.mlp(self.norm2(tokens_RND))
