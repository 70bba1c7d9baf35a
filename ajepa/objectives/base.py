"""What the training loop knows of an objective."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ajepa.nn.encoder import Encoder


class Share(NamedTuple):
    """Which of the `total` clips of a step a call sees: `clips` of them, from `first` on.

    Several processes and several micro-batches share one step. Every call draws the masks of the whole
    batch and takes its own, so that a step does not depend on how it is shared.
    """

    first: int
    clips: int
    total: int


class Loss(NamedTuple):
    """What a call returns.

    Attributes:
        value: the scalar to differentiate. Summed over the calls that share a step it is the step's loss.
        metrics: detached scalars of this call's clips to log, tensors that nothing waits for.
        features: detached features [B, N, D] of the encoder that evaluation will use, for the gauges; of
            some patches alone where it saw no others.
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

    def __call__(
        self, spectrogram_BLM: Tensor, step: int, generator: torch.Generator, share: Share | None = None
    ) -> Loss:
        """Loss of a normalised log-mel batch [B, frames, mels]; without `share` it is the whole batch."""
        ...

    def after_step(self, step: int) -> dict[str, float]:
        """What follows the optimiser's step (such as a moving average); scalars to log."""
        ...
