"""Crops stretched in time and over the mel scale: other tempos and other voices from the same audio.

Both encoders get the same stretched clip. Over the mel scale this is nearly another length of the vocal tract
(Jaitly and Hinton, 2013); in time it is another tempo at the same pitch. BYOL-A (arXiv 2103.06695) resizes
crops of the spectrogram in the same way. A-JEPA's own recipes leave this off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .base import Share

DRAWS = 5  # random numbers of a clip


@dataclass(frozen=True)
class StretchingConfig:
    """Stretching of the clips, the same for both encoders. Draws from a range are uniform.

    Args:
        share: share of the clips that are stretched; 0 leaves this off.
        time: largest relative change of the tempo, in both directions. A faster clip ends before the crop
            does: its mirror image fills the rest.
        mel: largest relative change of the width of the mel scale, in both directions. A narrower one leaves
            bands free, which repeat its lowest or highest.
    """

    share: float = 0.0
    time: float = 0.2
    mel: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"objective.stretching.share is {self.share}, must be in 0..1")
        for name in ("time", "mel"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ValueError(f"objective.stretching.{name} is {getattr(self, name)}, must be in 0..0.5")


def stretched(
    config: StretchingConfig, spectrogram_BLC: Tensor, generator: torch.Generator, share: Share
) -> Tensor:
    """A batch whose clips are stretched, each by its own draws.

    Args:
        spectrogram_BLC: normalised log-mel [B, L, C] of a share's clips.
        generator: source of all draws, on the spectrogram's device.
        share: which clips of the batch these are.

    Returns:
        [B, L, C], each value between two neighbours in time and in mel of its clip.
    """
    if config.share == 0:
        return spectrogram_BLC
    frames, mels = spectrogram_BLC.shape[1:]
    chosen_B, *draws = share.draw(DRAWS, generator).unbind(1)
    frame_BL = _places(frames, config.time, *draws[:2])
    band_BC = _places(mels, config.mel, *draws[2:])
    mirrored_BL = frame_BL - 2 * (frame_BL - 1).clamp_min(0) - 2 * (frame_BL + 1).clamp_max(0)
    places_BLC2 = torch.stack(torch.broadcast_tensors(band_BC[:, None], mirrored_BL[:, :, None]), 3)
    view_BLC = functional.grid_sample(
        spectrogram_BLC[:, None].float(), places_BLC2, padding_mode="border", align_corners=True
    )[:, 0]
    return torch.where(
        (chosen_B < config.share)[:, None, None], view_BLC.to(spectrogram_BLC.dtype), spectrogram_BLC
    )


def _places(size: int, most: float, factor_B: Tensor, start_B: Tensor) -> Tensor:
    """Where each of `size` places is taken from, -1 the first and 1 the last: [B, size].

    All of them together are a part of the whole, or more than the whole.
    """
    factor_B1 = 1 + most * (2 * factor_B[:, None] - 1)
    start_B1 = (1 - factor_B1) * (2 * start_B[:, None] - 1)
    return start_B1 + factor_B1 * torch.linspace(-1, 1, size, device=factor_B.device)
