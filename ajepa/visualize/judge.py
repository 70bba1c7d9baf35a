"""Whether samples show what the predictor knows, in numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .decoder import Decoder
from .predicted import Predicted
from .regions import draw_regions, inside


class Verdict(NamedTuple):
    """Root mean squared distances of pictures, in standard deviations of the normalised log-mel times two.

    Attributes:
        clips: number of clips.
        between_positions: of two samples of one clip with the same noise, for regions at two places.
        between_seeds: of two samples for the same region with different noise.
        to_truth: of a sample and its clip, within the region.
        to_truth_shuffled: the same where the condition is another clip's, at the same region.
        mean_to_truth, mean_to_truth_shuffled: these two for the mean of all pictures that fit the condition.
        nearer: share of the clips whose own sample is nearer than the shuffled one.
        interval: 95 % interval of the paired difference `to_truth_shuffled - to_truth`, over clips.
    """

    clips: int
    between_positions: float
    between_seeds: float
    to_truth: float
    to_truth_shuffled: float
    mean_to_truth: float
    mean_to_truth_shuffled: float
    nearer: float
    interval: tuple[float, float]


def judge(predicted: Predicted, decoder: Decoder, waveform_BS: Tensor, seed: int = 0) -> Verdict:
    """Sample for clips that the decoder has not been trained on.

    Args:
        waveform_BS: two crops or more.
        seed: of regions, contexts and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrogram_BLC = predicted.spectrogram(waveform_BS)
    truth_BXY = decoder.pooled(spectrogram_BLC)
    clips = len(truth_BXY)
    here, there = (draw_regions(predicted.grid, clips, generator) for _ in range(2))
    condition_BD = predicted(spectrogram_BLC, here, generator)
    elsewhere_BD = predicted(spectrogram_BLC, there, generator)
    # Another clip's condition for the same region: what is left is the region's place alone.
    shuffled_BD = predicted(spectrogram_BLC.roll(1, 0), here, generator)

    def sample(its_BD: Tensor, noise: int) -> Tensor:
        return decoder.sample(its_BD, torch.Generator().manual_seed(noise))

    sample_BXY = sample(condition_BD, 1)
    cells_BXY = picture_cells(predicted, decoder, inside(predicted.grid, here))
    own_B = _distance(sample_BXY, truth_BXY, cells_BXY)
    other_B = _distance(sample(shuffled_BD, 1), truth_BXY, cells_BXY)
    with torch.no_grad():
        own_mean_B, other_mean_B = (
            _distance(decoder.expected(its_BD), truth_BXY, cells_BXY)
            for its_BD in (condition_BD, shuffled_BD)
        )
    every_BXY = torch.ones_like(cells_BXY)
    drawn_SB = torch.randint(clips, (10_000, clips), generator=generator)
    low, high = (other_B - own_B)[drawn_SB].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Verdict(
        clips=clips,
        between_positions=float(_distance(sample_BXY, sample(elsewhere_BD, 1), every_BXY).mean()),
        between_seeds=float(_distance(sample_BXY, sample(condition_BD, 2), every_BXY).mean()),
        to_truth=float(own_B.mean()),
        to_truth_shuffled=float(other_B.mean()),
        mean_to_truth=float(own_mean_B.mean()),
        mean_to_truth_shuffled=float(other_mean_B.mean()),
        nearer=float((own_B < other_B).float().mean()),
        interval=(low, high),
    )


def picture_cells(predicted: Predicted, decoder: Decoder, patches_BN: Tensor) -> Tensor:
    """The cells of the picture that lie mostly in the given patches, [B, frames, bands] bool."""
    patch = predicted.recipe.encoder.patch
    cells_BTF = patches_BN.view(-1, *predicted.grid)
    whole_BLC = cells_BTF.repeat_interleave(patch[0], 1).repeat_interleave(patch[1], 2)
    return decoder.pooled(whole_BLC.float()) > 0.5


def _distance(one_BXY: Tensor, two_BXY: Tensor, cells_BXY: Tensor) -> Tensor:
    weight_BXY = cells_BXY.float()
    squares_B = ((one_BXY - two_BXY).square() * weight_BXY).sum((1, 2))
    return (squares_B / weight_BXY.sum((1, 2)).clamp_min(1.0)).sqrt()
