"""What an encoder returns, and where its weights came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """Embeddings of B clips on a grid of T time steps and F frequency patches.

    Attributes:
        patches: last layer, normed, [B, T, F, D]; zero past a clip's end.
        lengths: valid time steps of each clip, [B].
        layers: every block's output, un-normed, each [B, T, F, D]; empty unless asked for.
    """

    patches: Tensor
    lengths: Tensor
    layers: tuple[Tensor, ...] = ()

    @property
    def frames(self) -> Tensor:
        """Frequency patches of a time step side by side, [B, T, F * D] (as SSAST, M2D and others probe)."""
        return self.patches.flatten(2)

    @property
    def clip(self) -> Tensor:
        """Mean of the frames over each clip's valid time steps, [B, F * D]."""
        return self.frames.sum(1) / self.lengths[:, None].to(self.patches.dtype)


class Source(NamedTuple):
    """Where a model came from.

    Attributes:
        path: its file, empty for random weights.
        recipe: name of the recipe, or of the official system.
        step: optimiser steps done; for an official file what it says, which for Audio-MAE are epochs.
        weights: which encoder of the file, or the seed of random weights.
    """

    path: str
    recipe: str
    step: int
    weights: str
