"""Audio-JEPA: I-JEPA on spectrograms with unstructured masks (arXiv 2507.02915)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.schedules import cosine

from .a_jepa import AJEPA, ENCODERS, METRICS, AJEPAConfig
from .base import ClipByClip
from .metrics import Panels


def _masking() -> MaskingConfig:
    """One mask a clip hides 40 to 60 % of the patches; the context is all the others."""
    return MaskingConfig(kind="random", random_targets=(0.4, 0.6), context_share=0.6)


def _predictor() -> PredictorConfig:
    return PredictorConfig(kind="targets", depth=6, width=384, heads=12)


@dataclass(frozen=True)
class AudioJEPAConfig(ClipByClip):
    """Audio-JEPA's own choices (its section 3 and public configuration).

    Args:
        system: the objective's name in a recipe.
        momentum: the target encoder's EMA coefficient at the first and the last step.
    """

    title: ClassVar[str] = "Audio-JEPA"
    encoders: ClassVar[Mapping[str, str]] = ENCODERS
    metrics: ClassVar[Panels] = METRICS
    advice: ClassVar[str] = "Try a slower moving average (objective.momentum) or a lower optim.lr."

    system: Literal["audio-jepa"] = "audio-jepa"
    masking: MaskingConfig = field(default_factory=_masking)
    predictor: PredictorConfig = field(default_factory=_predictor)
    momentum: tuple[float, float] = (0.996, 1.0)

    def build(
        self, encoder: EncoderConfig, total_steps: int, front_end: LogMelConfig | None = None
    ) -> AudioJEPA:
        """The objective with new weights, drawn from torch's global generator."""
        return AudioJEPA(self, encoder, total_steps)

    def as_a_jepa(self) -> AJEPAConfig:
        """The same as a configuration of A-JEPA.

        Targets are the target encoder's output, each token standardised over its features; the loss is
        2 - 2 cos. Audio-JEPA divides by the unbiased deviation, A-JEPA by the biased one, which does not
        change the cosine.
        """
        return AJEPAConfig(
            masking=self.masking,
            predictor=self.predictor,
            momentum=self.momentum,
            target_layers=1,
            target_norm="layer",
            loss="cosine",
        )


class AudioJEPA(AJEPA):
    """A-JEPA's mechanics with Audio-JEPA's masks, predictor and loss."""

    def __init__(self, config: AudioJEPAConfig, encoder: EncoderConfig, total_steps: int) -> None:
        super().__init__(config.as_a_jepa(), encoder, total_steps)

    def momentum(self, step: int) -> float:
        """The moving average's coefficient at a step: a half cosine, as in BYOL and Audio-JEPA's code."""
        return cosine(step, self.total_steps, *self.config.momentum)
