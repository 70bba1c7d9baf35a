"""What weights expect of their input besides the front end: a clip's level, and what follows its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .config import LogMelConfig


@dataclass(frozen=True)
class InputConfig:
    """The conventions for a clip's level and its end.

    Args:
        level: "as-is", or "peak": each clip minus its mean, divided by its largest magnitude (Audio-JEPA).
        fill: content of frames after a clip's end: "silence", or "zero", a log energy of 0 before the
            normalisation, as in the data loaders of Audio-MAE and Audio-JEPA.
        steps: a clip shorter than a chunk is padded to a multiple of this many time patches, and attends to
            the padding. 8 are 128 frames: all lengths of Audio-MAE are multiples of it.
    """

    level: Literal["as-is", "peak"] = "as-is"
    fill: Literal["silence", "zero"] = "silence"
    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"encoder.inputs.steps is {self.steps}, must be at least 1")

    def fill_value(self, features: LogMelConfig, silence: float) -> float:
        """The normalised value of a frame after a clip's end; `silence` is that of digital silence."""
        return silence if self.fill == "silence" else -features.mean / (2 * features.std)


def levelled(waveform_BS: Tensor, config: InputConfig, lengths_B: Tensor | None = None) -> Tensor:
    """Waveforms [B, S] at the level that the weights expect; samples after a clip's length stay 0.

    Digital silence stays silence. (Audio-JEPA's code adds its epsilon after the division, which gives NaN.)
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
    # The floor is far below the spacing of 16-bit samples: it affects only silence.
    return centred_BS / centred_BS.abs().amax(1, keepdim=True).clamp_min(1e-7)
