"""What weights expect of their input beside the front end: a clip's level, and what follows its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .config import LogMelConfig


@dataclass(frozen=True)
class InputConfig:
    """The conventions of a clip's level and of its end.

    Args:
        level: "as-is", or "peak": each clip less its mean, divided by its largest magnitude (Audio-JEPA).
        fill: what frames past a clip's end hold: "silence", or "zero", a log energy of 0 before the
            normalisation, which is what the data loaders of Audio-MAE and Audio-JEPA write.
        steps: a clip shorter than a chunk is filled up to a multiple of so many time patches, and attends
            to what was filled in. 8 are the 128 frames of which all of Audio-MAE's lengths are multiples.
    """

    level: Literal["as-is", "peak"] = "as-is"
    fill: Literal["silence", "zero"] = "silence"
    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"encoder.inputs.steps is {self.steps}, must be at least 1")

    def fill_value(self, features: LogMelConfig, silence: float) -> float:
        """The normalised value of a frame past a clip's end; `silence` is that of digital silence."""
        return silence if self.fill == "silence" else -features.mean / (2 * features.std)


def levelled(waveform_BS: Tensor, config: InputConfig, lengths_B: Tensor | None = None) -> Tensor:
    """Waveforms [B, S] at the level that the weights know; what follows a clip's length stays 0.

    Digital silence stays silence. (Audio-JEPA's code adds its epsilon after the division, and makes NaN.)
    """
    if config.level == "as-is":
        return waveform_BS
    samples = waveform_BS.shape[1]
    if lengths_B is None:
        lengths_B = torch.full((len(waveform_BS),), samples, device=waveform_BS.device)
    inside_BS = torch.arange(samples, device=waveform_BS.device) < lengths_B[:, None]
    waveform_BS = waveform_BS.float()
    mean_B1 = (waveform_BS * inside_BS).sum(1, keepdim=True) / lengths_B[:, None]
    centred_BS = (waveform_BS - mean_B1) * inside_BS
    # The floor is far below the spacing of 16-bit samples, so that only silence meets it.
    return centred_BS / centred_BS.abs().amax(1, keepdim=True).clamp_min(1e-7)
