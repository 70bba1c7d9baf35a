"""Augmentation of the training clips in fine-tuning. All random draws come from a generator passed in.

Axes: B clips, S samples, C classes, L frames, M mel bands.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mixup(
    waveform_BS: Tensor,
    lengths_B: Tensor,
    target_BC: Tensor,
    share: float,
    beta: float,
    generator: torch.Generator,
    others: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix some clips with others, and their targets in the same proportions (arXiv 1710.09412).

    Args:
        waveform_BS: clips, zeros after their ends.
        lengths_B: samples in each clip, on the CPU.
        target_BC: share of each class.
        share: fraction of the clips to mix.
        beta: both parameters of the Beta distribution that a clip's own weight is drawn from.
        others: waveforms, lengths and targets of the clips to mix with; None: those of this batch, shuffled.

    Returns:
        Clips, lengths and targets. A mixed clip is as long as the longer of its two; the others keep their
        length. No clip is trained with more padding than it is tested with.
    """
    clips = len(waveform_BS)
    # torch's Beta distribution takes no generator, so two Gamma variables stand in for it.
    gamma_2B = torch._standard_gamma(torch.full((2, clips), beta), generator=generator)
    own_B = gamma_2B[0] / gamma_2B.sum(0)
    mixed_B = torch.rand(clips, generator=generator) < share
    own_B1 = torch.where(mixed_B, own_B, 1.0)[:, None].to(waveform_BS.device)
    if others is None:
        place = torch.randperm(clips, generator=generator)
        others = waveform_BS[place.to(waveform_BS.device)], lengths_B[place], target_BC[place]
    other_BS, other_lengths_B, other_BC = others
    lengths_B = torch.where(mixed_B, torch.maximum(lengths_B, other_lengths_B), lengths_B)
    missing = waveform_BS.shape[1] - other_BS.shape[1]
    waveform_BS = functional.pad(waveform_BS, (0, max(0, -missing)))
    other_BS = functional.pad(other_BS, (0, max(0, missing)))
    waveform_BS = own_B1 * waveform_BS + (1 - own_B1) * other_BS
    return waveform_BS, lengths_B, own_B1 * target_BC + (1 - own_B1) * other_BC


def spec_augment(
    spectrogram_BLM: Tensor, freq_mask: int, time_mask: int, fill: float, generator: torch.Generator
) -> Tensor:
    """Overwrite one band and one time stretch of each clip (arXiv 1904.08779), each up to the given width."""
    clips, frames, mels = spectrogram_BLM.shape
    for size, widest, dim in ((mels, freq_mask, 2), (frames, time_mask, 1)):
        if widest:
            hidden_BX = _stretches(clips, size, min(widest, size), generator).to(spectrogram_BLM.device)
            shape = (clips, 1, size) if dim == 2 else (clips, size, 1)
            spectrogram_BLM = spectrogram_BLM.masked_fill(hidden_BX.view(shape), fill)
    return spectrogram_BLM


def _stretches(clips: int, size: int, widest: int, generator: torch.Generator) -> Tensor:
    """One stretch per row, 0 to `widest` places long, at a random position: bool [B, size]."""
    width_B1 = torch.randint(widest + 1, (clips, 1), generator=generator)
    start_B1 = (torch.rand(clips, 1, generator=generator) * (size - width_B1 + 1)).long()
    place = torch.arange(size)
    return (place >= start_B1) & (place < start_B1 + width_B1)


def add_noise(spectrogram_BLM: Tensor, generator: torch.Generator) -> Tensor:
    """Add uniform noise of up to a tenth of a random amplitude and shift by up to 10 frames (as in AST)."""
    amplitude = torch.rand(len(spectrogram_BLM), 1, 1, generator=generator) / 10
    noise = torch.rand(spectrogram_BLM.shape, generator=generator) * amplitude
    shift = int(torch.randint(-10, 11, (1,), generator=generator))
    return (spectrogram_BLM + noise.to(spectrogram_BLM.device)).roll(shift, dims=1)
