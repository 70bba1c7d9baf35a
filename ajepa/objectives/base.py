"""The interface of objectives: the rest of the package knows nothing else about them.

A system is two classes in one file: its configuration, a part of a recipe, and the module that the
configuration builds. `systems` lists them; other packages add theirs by an entry point.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig
from ajepa.nn.encoder import Encoder, EncoderConfig

from .metrics import Panels


class Share(NamedTuple):
    """The clips of a call: `clips` of a step's `total`, from number `first` on.

    Several processes and micro-batches share one step. Every call draws the masks of the whole batch and
    takes its own, so that a step does not depend on how it is shared.
    """

    first: int
    clips: int
    total: int

    def draw(self, numbers: int, generator: torch.Generator) -> Tensor:
        """Uniform random numbers of these clips [clips, numbers], on the generator's device.

        They are drawn for the whole batch, whatever the share.
        """
        drawn = torch.rand(self.total, numbers, generator=generator, device=generator.device)
        return drawn[self.first : self.first + self.clips]


class Loss(NamedTuple):
    """What a call returns.

    Attributes:
        value: the scalar to differentiate. The sum over all calls of a step is the step's loss.
        metrics: detached scalars of this call's clips, to log. One called `target_std` is watched: if it
            halves, a collapse is reported.
        features: detached features [B, N, D] of the encoder used in evaluation, for the gauges; only of the
            patches that the encoder saw.
    """

    value: Tensor
    metrics: dict[str, Tensor]
    features: Tensor


class ObjectiveConfig(Protocol):
    """A frozen dataclass: the `objective` part of a recipe, and what is known before anything is built.

    Attributes:
        system: the key `objective.system` of a recipe: a field whose type is one Literal.
        masking: how patches are hidden, which `ajepa masks` draws; None if none are.
        title: the system's name in model cards and messages.
        metrics: title and explanation of each metric that this objective adds to a run's log, for
            `ajepa curves`, `ajepa watch` and the report.
        advice: what to try when representations collapse.
    """

    title: ClassVar[str]
    metrics: ClassVar[Panels]
    advice: ClassVar[str]

    @property
    def system(self) -> str: ...

    @property
    def masking(self) -> MaskingConfig | None: ...

    @property
    def encoders(self) -> Mapping[str, str]:
        """The objective's encoders: the names by which users choose, and the attributes that hold them.

        Evaluation uses the first; a run exports them all.
        """
        ...

    @property
    def couples_clips(self) -> bool:
        """Whether a clip's loss depends on the other clips of its micro-batch, by statistics over them."""
        ...

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raises ValueError, naming the keys, if this objective cannot train such an encoder."""
        ...

    def build(
        self, encoder: EncoderConfig, total_steps: int, front_end: LogMelConfig | None = None
    ) -> Objective:
        """The objective with new weights, drawn from torch's global generator.

        Args:
            total_steps: steps over which schedules run; they stay at their end after that.
            front_end: the settings of the spectrograms; None for the default ones.
        """
        ...


class ClipByClip:
    """The part of a configuration whose loss treats every clip separately and takes any encoder."""

    @property
    def couples_clips(self) -> bool:
        """No statistics over the clips of a micro-batch are in the loss."""
        return False

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Every encoder can be trained."""


class Objective(nn.Module):
    """From a spectrogram to a loss.

    A step is a pure function of (weights, batch, step, generator), without global random state. This is a
    class and not a Protocol because the loop also needs what every module has: parameters, state, devices.

    Attributes:
        encoder: the encoder that is trained by gradient.
    """

    encoder: Encoder

    @abstractmethod
    def forward(
        self, spectrogram_BLC: Tensor, step: int, generator: torch.Generator, share: Share | None = None
    ) -> Loss:
        """One step's loss, or a share of it.

        Args:
            spectrogram_BLC: normalised log-mel [B, L, C], whole patches.
            step: training step, from 0.
            generator: decides every random choice for the whole batch; on the spectrogram's device.
            share: which clips of the whole batch these are; None means all.
        """

    def networks(self) -> list[nn.Module]:
        """The parts that have `blocks`, which are compiled and, under FSDP, gathered one at a time.

        A part may have the attribute `checkpoint_activations`: if set, activations are not stored.
        """
        return [module for module in self.children() if hasattr(module, "blocks")]

    def after_step(self, step: int) -> dict[str, float]:
        """Called after the optimiser's step (such as for a moving average); returns scalars to log."""
        return {}

    def gauges(self) -> dict[str, float]:
        """Scalars that take time to compute, logged every `run.health_every` steps."""
        return {}
