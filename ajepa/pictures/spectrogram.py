"""A file's spectrogram as training sees it: the recipe's front end on one crop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ajepa.audio import cyclic, load
from ajepa.features import LogMel, LogMelConfig, levelled
from ajepa.recipes import Recipe

KILOHERTZ = (0.5, 1, 2, 4, 8, 16)
MOST_TICKS = 6
QUIET, LOUD = 0.05, 0.995  # quantiles of the values that are drawn white and black


class SpectrogramCrop(NamedTuple):
    """A crop of whole patches.

    Attributes:
        values_LC: normalised log-mel.
        start, seconds: its place in the file.
        front_end: what made it.
    """

    values_LC: Tensor
    start: float
    seconds: float
    front_end: LogMelConfig


@torch.no_grad()
def training_crop(recipe: Recipe, path: Path, start: float = 0.0) -> SpectrogramCrop:
    """The crop of a file from `start` seconds on; a file that ends sooner is repeated, as in training.

    Raises AudioError as `ajepa.audio.load`.
    """
    config = recipe.front_end
    samples, rate = recipe.crop_samples, config.sample_rate
    waveform_S = load(path, start=start, seconds=samples / rate, sample_rate=rate)
    if len(waveform_S) < samples:  # around the file's end to its beginning
        whole_S = load(path, sample_rate=rate)
        waveform_S = cyclic(whole_S, samples, round(start * rate))
    spectrogram_BLC = LogMel(config)(levelled(waveform_S[None], recipe.encoder.inputs))
    return SpectrogramCrop(spectrogram_BLC[0], start, samples / rate, config)


def draw_spectrogram(axis: Any, crop: SpectrogramCrop) -> None:
    """Draw it in grey from 0 to 1 along both axes of a matplotlib axis, without ticks."""
    values = crop.values_LC.flatten()
    low, high = (torch.quantile(values, level).item() for level in (QUIET, LOUD))
    axis.imshow(
        crop.values_LC.T.numpy(),
        origin="lower",
        extent=(0, 1, 0, 1),
        aspect="auto",
        cmap="Greys",
        vmin=low,
        vmax=max(high, low + 1e-6),
    )
    axis.set(xticks=[], yticks=[])


def label_time(axis: Any, crop: SpectrogramCrop) -> None:
    """Seconds of the file below an axis that runs from 0 to 1."""
    from matplotlib.ticker import MaxNLocator

    end = crop.start + crop.seconds
    times = [
        time for time in MaxNLocator(MOST_TICKS).tick_values(crop.start, end) if crop.start <= time <= end
    ]
    places = [(time - crop.start) / crop.seconds for time in times]
    axis.set_xticks(places, [f"{time:.6g}" for time in times], fontsize=7)
    axis.set_xlabel("seconds", fontsize=8)


def label_frequency(axis: Any, config: LogMelConfig) -> None:
    """Kilohertz left of an axis that runs from 0 to 1 over the mel bands (Kaldi's mel scale)."""

    def mel(hertz: float) -> float:
        return 1127 * math.log1p(hertz / 700)

    high_hz = config.high_hz if config.high_hz > 0 else config.sample_rate / 2 + config.high_hz
    low, high = mel(config.low_hz), mel(high_hz)
    inside = [value for value in KILOHERTZ if config.low_hz < 1000 * value <= high_hz]
    places = [(mel(1000 * value) - low) / (high - low) for value in inside]
    axis.set_yticks(places, [f"{value:g}" for value in inside], fontsize=7)
    axis.set_ylabel("kHz", fontsize=8)
