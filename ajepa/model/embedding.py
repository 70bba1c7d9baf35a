"""The result of an encoder, and the origin of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Pooling = Literal["mean", "mean+std"]


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
    """

    patches: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...] = ()
    pooling: Pooling = "mean"

    @property
    def frames(self) -> Tensor:
        """Frequency patches of a time step concatenated, [B, T, F * D] (as SSAST and M2D probe them)."""
        return self.patches.flatten(2)

    @property
    def clip(self) -> Tensor:
        """One vector a clip, over its valid time steps.

        With the pooling "mean" the mean of the frames, [B, F * D]; with "mean+std" followed by their standard
        deviation, [B, 2 * F * D]: sounds with the same mean may differ in how much a feature varies.
        """
        if self.pooling == "mean":
            return self.frames.sum(1) / self.lengths[:, None].to(self.patches.dtype)
        return time_statistics(self.patches, self.lengths).flatten(1)


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
