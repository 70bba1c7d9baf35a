"""The systems by name, and from a recipe's configuration to its objective."""

from __future__ import annotations

from ajepa.features import LogMelConfig
from ajepa.nn.encoder import EncoderConfig

from .a_jepa import AJEPA, AJEPAConfig
from .audio_jepa import AudioJEPA, AudioJEPAConfig
from .audio_mae import AudioMAE, AudioMAEConfig

ObjectiveConfig = AJEPAConfig | AudioMAEConfig | AudioJEPAConfig
# By the key `objective.system` of a recipe.
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "a-jepa": AJEPAConfig,
    "audio-mae": AudioMAEConfig,
    "audio-jepa": AudioJEPAConfig,
}


def make_objective(
    config: ObjectiveConfig, encoder: EncoderConfig, total_steps: int, front_end: LogMelConfig | None = None
) -> AJEPA | AudioMAE:
    """The system that a configuration is of, with new weights from the global generator."""
    if isinstance(config, AudioMAEConfig):
        return AudioMAE(config, encoder, total_steps)
    if isinstance(config, AudioJEPAConfig):
        return AudioJEPA(config, encoder, total_steps)
    return AJEPA(config, encoder, total_steps, front_end)
