"""The tensors of another project's file, all of them used."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ajepa.checkpoints.sizes import LARGEST
from ajepa.nn.encoder import EncoderConfig

from .contents import OfficialError

Part = TypeVar("Part")

HEAD_WIDTH = 64  # features of an attention head in every published encoder
MOST_BLOCKS = 1000  # a larger number is damage and must not start a loop
# What Python and torch raise about tensors of other sizes; OfficialError is a ValueError.
SIZES_DO_NOT_FIT = (ValueError, IndexError, RuntimeError, ZeroDivisionError)
VIT_PARTS = {name: name for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}


def plain_name(name: object) -> str:
    """A tensor's name without what DDP (`module`) and torch.compile (`_orig_mod`) put around modules."""
    return ".".join(part for part in str(name).split(".") if part not in ("module", "_orig_mod"))


def _is_weight(value: object) -> bool:
    """Whether it is a dense tensor of floats that trained weights could be.

    One whose strides repeat a few numbers may claim any size.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.device.type != "cpu":
        return False
    if value.layout != torch.strided or value.numel() * value.itemsize > value.untyped_storage().nbytes():
        return False
    return not value.numel() or bool(value.abs().max() <= LARGEST)  # NaN is not


def count(path: Path, value: object) -> int:
    """Epochs or steps as a file says them; -1 where it does not, as in copies that were saved again.

    Raises OfficialError for another value.
    """
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int):
        raise OfficialError(f"{path}: its count of steps is {str(value)[:40]!r}, must be a whole number")
    return value


class TensorAccount:
    """The tensors of a file, taken one by one under their new names; those missing or left over are named.

    Attributes:
        left: tensors not taken yet, by the file's names.
        taken: tensors taken, by this project's names.
    """

    def __init__(self, path: Path, tensors: dict[str, Any]) -> None:
        self.left = {plain_name(name): tensor for name, tensor in tensors.items()}
        self.path = path
        strangers = [name for name, tensor in self.left.items() if not _is_weight(tensor)]
        if strangers:
            raise OfficialError(
                f"{path}: not tensors of finite floats: {', '.join(strangers[:8])}"
                f"{' and others' if len(strangers) > 8 else ''}"
            )
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

    def encoder(
        self, theirs: str, ours: str, norm: str, parts: dict[str, str], heads: int | None, **settings: Any
    ) -> EncoderConfig:
        """Take patch embedding, blocks and last norm of a ViT; returns its configuration.

        Args:
            theirs, ours: what the tensors' names start with.
            norm: the file's name of the last norm.
            parts: names of the blocks' parts.
            heads, settings: of the configuration; the file does not say them.
        """
        width, _, *patch = self.shape(f"{theirs}patch_embed.proj.weight", 4)
        hidden = self.shape(f"{theirs}blocks.0.mlp.fc1.weight", 2)[0]
        self.take(f"{theirs}patch_embed.proj.weight", f"{ours}patch_embed.weight", lambda w: w.flatten(1))
        self.take(f"{theirs}patch_embed.proj.bias", f"{ours}patch_embed.bias")
        depth = self.blocks(f"{theirs}blocks", f"{ours}blocks", parts)
        self.affine(f"{theirs}{norm}", f"{ours}norm")
        return EncoderConfig(
            width=width,
            depth=depth,
            heads=_attention_heads(self.path, width, heads),
            patch=(patch[0], patch[1]),
            mlp_ratio=mlp_ratio(hidden, width),
            **settings,
        )

    def blocks(self, theirs: str, ours: str, parts: dict[str, str]) -> int:
        """Take all blocks of a network by the names of their parts; returns their number."""
        names = [name.removeprefix(f"{theirs}.") for name in self.left if name.startswith(f"{theirs}.")]
        # Not more digits than a number that a loop could reach.
        digits = {name.split(".")[0] for name in names}
        numbers = {int(number) for number in digits if number.isdecimal() and len(number) < 20}
        depth = 1 + max(numbers, default=0)
        if depth > MOST_BLOCKS:
            raise OfficialError(
                f"{self.path}: {theirs} has {len(numbers)} blocks, numbered up to {depth - 1}"
            )
        for number in range(depth):
            for their_part, our_part in parts.items():
                self.affine(f"{theirs}.{number}.{their_part}", f"{ours}.{number}.{our_part}")
        return depth

    def apart(
        self, prefixes: tuple[str, ...], read: Callable[[TensorAccount], Part]
    ) -> tuple[Part | None, str]:
        """A part that embeddings do not need, read by `read`; or None, and why there is none.

        Args:
            prefixes: of the names of its tensors, all of which it has to take.
        """
        names = [name for name in self.left if name.startswith(prefixes)]
        if not names:
            return None, f"no tensors {' or '.join(f'{prefix}*' for prefix in prefixes)}"
        part = TensorAccount(self.path, {name: self.left.pop(name) for name in names})
        try:
            found = read(part)
            self.taken |= part.finish()
        except SIZES_DO_NOT_FIT as error:
            return None, str(error).removeprefix(f"{self.path}: ")
        return found, ""

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor from which a size is read.

        Raises:
            OfficialError: it is missing or has another number of dimensions.
        """
        tensor = self.left.get(name)
        if tensor is None:
            raise OfficialError(
                f"{self.path}: tensors missing: {name}; it gives a size, so no other tensors were compared"
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

    In MAE's code, which both projects use, the first half of the features encodes only the inner axis: it
    repeats with that axis's length.
    """
    inner = codes_ND[:, : codes_ND.shape[1] // 2]
    period = next((n for n in range(1, len(inner)) if torch.equal(inner[n], inner[0])), None)
    return period if period and len(inner) % period == 0 else None


def _attention_heads(path: Path, width: int, heads: int | None) -> int:
    """Heads of an encoder of `width`: as given, else width / 64. Raises OfficialError if they do not fit."""
    if heads is None and width % HEAD_WIDTH:
        raise OfficialError(
            f"{path}: the file does not say its number of heads, and its width {width} is not a multiple of "
            f"the usual {HEAD_WIDTH} features a head; give heads=..., or in the shell `ajepa export "
            "FILE --heads N`"
        )
    heads = width // HEAD_WIDTH if heads is None else heads
    if heads < 1 or width % heads:
        raise OfficialError(f"{path}: {heads} heads do not divide the width {width}; give another number")
    return heads


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which a module that rounds down gets `hidden` again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
