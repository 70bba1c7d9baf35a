"""Embedding in bfloat16, of which only the Transformer blocks' matrix products make use."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import nn

from ajepa.nn.blocks import Attention

Precision = Literal["float32", "bf16"]


def check_precision(precision: str) -> None:
    """Raises ValueError for anything but a `Precision`."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; give one of {', '.join(get_args(Precision))}")


def store_products_in_bf16(blocks: nn.Module) -> None:
    """Keep the weights of the blocks' linear layers in bfloat16, for use within `autocast`.

    Autocast alone would convert the 85 million weights of a ViT-B in every call, a quarter of the time for a
    clip of 1 s. Norms, patch embedding and the residual stream stay in single precision, as under autocast.
    On a CPU, attention uses plain products, which are faster in bfloat16 than the fused kernel
    (`ajepa.training.devices.plain_attention`).
    """
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            module.bfloat16()
        elif isinstance(module, Attention):
            module.fused = next(module.parameters()).device.type != "cpu"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The region in which blocks of that precision run; for float32 the caller's, if there is one."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
