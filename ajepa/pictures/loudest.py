"""The part of a clip that is worth looking at."""

from __future__ import annotations

from torch import Tensor


def loudest(waveform_S: Tensor, samples: int) -> Tensor:
    """The crop with the most energy, to a tenth of its length; a shorter clip is repeated, as in training."""
    if len(waveform_S) <= samples:
        return waveform_S.repeat(-(-samples // len(waveform_S)))[:samples]
    crops = waveform_S.unfold(0, samples, max(1, samples // 10))
    return crops[int(crops.square().sum(1).argmax())]
