"""The result of an encoder, and the origin of its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Pooling = Literal["mean", "mean+std"]
LAST = "last"


def parse_layers(text: str, depth: int | None, key: str = "layers") -> tuple[int, ...]:
    """Numbers of blocks from 1, from "2+4+6"; none for "last", the normed output of the last block.

    Args:
        depth: the encoder's number of blocks; None if it is not known yet.
        key: the option's name, for the message.

    Raises:
        ValueError: no such layers, or one twice.
    """
    if text == LAST:
        return ()
    parts = text.split("+") if isinstance(text, str) else [""]
    numbers = [int(part) if re.fullmatch("[0-9]{1,4}", part) else 0 for part in parts]
    if min(numbers) < 1 or max(numbers) > (depth or max(numbers)) or len(set(numbers)) < len(numbers):
        most = "" if depth is None else f" to {depth}"
        raise ValueError(f"{key} is {text!r}; choose {LAST}, or blocks from 1{most}, several as 1+2")
    return tuple(numbers)


def layers_text(layers: Sequence[int]) -> str:
    """The inverse of `parse_layers`."""
    return "+".join(map(str, layers)) or LAST


def join(states: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """The outputs of these blocks side by side, [..., C * D]; without any, the normed output.

    Args:
        states: the outputs of all blocks, then the normed output of the last, each [..., D].
    """
    return torch.cat([states[number - 1] for number in layers], -1) if layers else states[-1]


def time_statistics(values_BTFD: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean and standard deviation over each clip's valid time steps: [B, 2, F, D].

    Args:
        values_BTFD: zero after a clip's end.
        lengths_B: valid time steps.
    """
    length_B11 = lengths_B[:, None, None].to(values_BTFD.dtype)
    mean_BFD = values_BTFD.sum(1) / length_B11
    inside_BT11 = (torch.arange(values_BTFD.shape[1], device=lengths_B.device) < lengths_B[:, None])[
        ..., None, None
    ]
    deviation_BTFD = (values_BTFD - mean_BFD[:, None]) * inside_BT11
    # As a norm: its gradient is 0 without variation, such as in a clip of one time step.
    std_BFD = torch.linalg.vector_norm(deviation_BTFD, dim=1) / length_B11.sqrt()
    return torch.stack([mean_BFD, std_BFD], 1)


@dataclass(frozen=True)
class Embedding:
    """Embeddings of B clips on a grid of T time steps and F frequency patches.

    Attributes:
        patches: last layer, normed, [B, T, F, D]; zero after a clip's end.
        lengths: valid time steps of each clip, [B].
        layers: every block's output, un-normed, each [B, T, F, D]; empty unless requested.
        pooling: over time, of `clip`.
        chosen: the blocks' outputs that `frames` and `clip` join, as `layers`; empty for `patches` alone.
    """

    patches: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...] = ()
    pooling: Pooling = "mean"
    chosen: tuple[Tensor, ...] = ()

    @property
    def joined(self) -> Tensor:
        """What `frames` and `clip` are made of: the C chosen layers of a patch, [B, T, F, C * D]."""
        return torch.cat(self.chosen, -1) if self.chosen else self.patches

    @property
    def frames(self) -> Tensor:
        """Frequency patches of a time step joined, [B, T, F * C * D] (as SSAST and M2D probe them)."""
        return self.joined.flatten(2)

    @property
    def clip(self) -> Tensor:
        """One vector a clip, over its valid time steps.

        With the pooling "mean" the mean of the frames, [B, F * C * D]; with "mean+std" followed by their
        standard deviation: sounds with the same mean may differ in how much a feature varies.
        """
        if self.pooling == "mean":
            return self.frames.sum(1) / self.lengths[:, None].to(self.patches.dtype)
        return time_statistics(self.joined, self.lengths).flatten(1)


class Source(NamedTuple):
    """The origin of a model.

    Attributes:
        path: its file, empty for random weights.
        recipe: name of the recipe, or of the official system.
        step: optimiser steps done; for an official file as it says, for Audio-MAE in epochs.
        weights: which encoder of the file, or the seed of random weights.
    """

    path: str
    recipe: str
    step: int
    weights: str
