"""The tensors of a foreign file, each of them accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .contents import OfficialError

HEAD_WIDTH = 64  # features of an attention head in every published encoder
MOST_BLOCKS = 1000  # a number beyond any network's is damage, and not to be counted up to
VIT_PARTS = {name: name for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}


class TensorAccount:
    """The tensors of a file, taken one by one under their new names; those missing or left over are named.

    Attributes:
        left: not taken so far, by the file's names.
        taken: by this project's names.
    """

    def __init__(self, path: Path, tensors: dict[str, Any]) -> None:
        # torch.compile puts its own word into the names of what it has wrapped.
        self.left = {str(name).replace("._orig_mod.", "."): tensor for name, tensor in tensors.items()}
        self.path = path
        strangers = [name for name, tensor in self.left.items() if not isinstance(tensor, Tensor)]
        if strangers:
            raise OfficialError(f"{path}: not tensors: {', '.join(strangers)}")
        self.taken: dict[str, Tensor] = {}
        self.missing: list[str] = []

    def take(self, theirs: str, ours: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take a tensor, changed by `change` where given; a missing one is noted."""
        tensor = self.left.pop(theirs, None)
        if tensor is None:
            self.missing.append(theirs)
        else:
            self.taken[ours] = change(tensor) if change else tensor

    def affine(self, theirs: str, ours: str) -> None:
        """Take the weight and the bias of a linear layer or a norm."""
        self.take(f"{theirs}.weight", f"{ours}.weight")
        self.take(f"{theirs}.bias", f"{ours}.bias")

    def blocks(self, theirs: str, ours: str, parts: dict[str, str]) -> int:
        """Take all blocks of a network, by the names of their parts; returns how many there are."""
        names = [name.removeprefix(f"{theirs}.") for name in self.left if name.startswith(f"{theirs}.")]
        numbers = {int(number) for number in (name.split(".")[0] for name in names) if number.isdecimal()}
        depth = 1 + max(numbers, default=0)
        if depth > MOST_BLOCKS:
            raise OfficialError(
                f"{self.path}: {theirs} has {len(numbers)} blocks, numbered up to {depth - 1}"
            )
        for number in range(depth):
            for their_part, our_part in parts.items():
                self.affine(f"{theirs}.{number}.{their_part}", f"{ours}.{number}.{our_part}")
        return depth

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor from which a size is read.

        Raises:
            OfficialError: it is missing, or of another number of dimensions.
        """
        tensor = self.left.get(name)
        if tensor is None:
            raise OfficialError(
                f"{self.path}: tensors missing: {name}; a size is read from it, so no others were compared"
            )
        if tensor.ndim != dimensions:
            raise OfficialError(
                f"{self.path}: {name} has shape {tuple(tensor.shape)}, expected {dimensions} dimensions"
            )
        return tuple(tensor.shape)

    def finish(self) -> dict[str, Tensor]:
        """All tensors under their new names.

        Raises:
            OfficialError: some are missing, or some of the file's were not taken.
        """
        if self.missing or self.left:
            raise OfficialError(
                f"{self.path}: tensors missing: {', '.join(self.missing) or 'none'}; "
                f"not expected: {', '.join(sorted(self.left)) or 'none'}"
            )
        return self.taken


def fast_axis(codes_ND: Tensor) -> int | None:
    """Length of a sine-cosine table's inner axis, or None for a table that does not show it.

    MAE's code, which both projects took over, lets the first half of the features code the inner axis alone:
    it repeats with that axis's length.
    """
    inner = codes_ND[:, : codes_ND.shape[1] // 2]
    period = next((n for n in range(1, len(inner)) if torch.equal(inner[n], inner[0])), None)
    return period if period and len(inner) % period == 0 else None


def attention_heads(path: Path, width: int, heads: int | None) -> int:
    """Heads of an encoder of `width`, which no file says: as given, else width / 64.

    Raises:
        OfficialError: they do not divide the width.
    """
    if heads is None and width % HEAD_WIDTH:
        raise OfficialError(
            f"{path}: the file does not say how many heads its attention has, and {width} is not a multiple "
            f"of the usual {HEAD_WIDTH} features a head; give heads=..."
        )
    heads = heads or width // HEAD_WIDTH
    if heads < 1 or width % heads:
        raise OfficialError(f"{path}: {heads} heads do not divide the width {width}; give another number")
    return heads


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which a module that rounds down makes `hidden` again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
