"""What the training loop knows of an objective."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ajepa.encoder import Encoder


class Loss(NamedTuple):
    """What a step returns.

    Attributes:
        value: the scalar to differentiate.
        metrics: detached scalars to log, tensors that nothing waits for.
        features: detached features [B, N, D] of the encoder that evaluation will use, for the gauges.
    """

    value: Tensor
    metrics: dict[str, Tensor]
    features: Tensor


class Objective(Protocol):
    """One of the systems: a module from a spectrogram to a loss.

    A step is a pure function of (weights, batch, step, generator): no global random state.
    """

    encoder: Encoder
    evaluated: str  # name of the encoder that evaluation uses

    def __call__(self, spectrogram_BLM: Tensor, step: int, generator: torch.Generator) -> Loss:
        """Loss of a normalised log-mel batch [B, frames, mels]."""
        ...

    def after_step(self, step: int) -> dict[str, float]:
        """What follows the optimiser's step (such as a moving average); scalars to log."""
        ...
