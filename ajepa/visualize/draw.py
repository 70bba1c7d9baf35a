"""Samples next to the clip and the context, with boxes around the regions: the counterpart of figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ajepa.audio.mp3 import write_mp3
from ajepa.features import LogMel
from ajepa.features.inverse import waveform_of
from ajepa.files import write_json
from ajepa.pictures.files import save

from .decoder import Decoder
from .judge import Verdict, picture_cells
from .predicted import Predicted
from .regions import Region, draw_regions, inside, masks_of

FIGURE, FACTS = "figure.png", "visualize.json"


class Drawn(NamedTuple):
    """Samples for a clip.

    Attributes:
        truth_XY: the clip at the picture's resolution.
        regions: one a position.
        seen_PXY: where the patches are that the encoder saw, [positions, frames, bands] bool.
        mean_PXY: the means of all pictures that fit the predictions, [positions, frames, bands].
        sample_PSXY: [positions, seeds, frames, bands].
        covered: frames and mel bands of the spectrogram that the picture covers.
    """

    truth_XY: Tensor
    regions: list[Region]
    seen_PXY: Tensor
    mean_PXY: Tensor
    sample_PSXY: Tensor
    covered: tuple[int, int]


@torch.no_grad()
def draw_samples(
    predicted: Predicted,
    decoder: Decoder,
    waveform_S: Tensor,
    *,
    positions: int = 3,
    seeds: int = 4,
    seed: int = 0,
) -> Drawn:
    """Samples for regions at several places of a crop, with several seeds each.

    Args:
        waveform_S: one crop of `recipe.crop_samples`.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = predicted.grid
    regions = draw_regions(grid, positions, generator)
    spectrogram_PLC = predicted.spectrogram(waveform_S[None]).repeat(positions, 1, 1)
    masks = masks_of(grid, regions, predicted.budget, generator)
    condition_PD = predicted.objective.pooled_prediction(spectrogram_PLC, masks)
    context_PN = torch.zeros_like(inside(grid, regions))
    context_PN.scatter_(1, masks.context_BMK[:, 0], masks.valid_BMK[:, 0])
    samples = [decoder.sample(condition_PD, torch.Generator().manual_seed(one)) for one in range(seeds)]
    truth_XY, mean_PXY = decoder.pooled(spectrogram_PLC)[0], decoder.expected(condition_PD)
    seen_PXY = picture_cells(predicted, decoder, context_PN)
    return Drawn(truth_XY, regions, seen_PXY, mean_PXY, torch.stack(samples, 1), decoder.config.covered)


def write_drawing(
    predicted: Predicted,
    drawn: Drawn,
    out: Path,
    *,
    clip: str,
    verdict: Verdict | None,
    about: dict[str, Any],
) -> None:
    """Write the figure, the sounds and the facts into a folder, which `ajepa report` takes."""
    out.mkdir(parents=True, exist_ok=True)
    save(_figure(predicted, drawn), out / FIGURE)
    sounds = {"the clip at the picture's resolution": drawn.truth_XY}
    for number, samples in enumerate(drawn.sample_PSXY, 1):
        sounds[f"position {number}, first seed"] = samples[0]
    names = {}
    for number, (title, picture_XY) in enumerate(sounds.items()):
        names[title] = f"sound-{number}.mp3"
        front_end = predicted.front_end
        waveform_S = waveform_of(front_end, _full_size(front_end, picture_XY, drawn.covered)[None])[0]
        write_mp3(out / names[title], waveform_S.numpy(), front_end.config.sample_rate)
    facts = {
        "clip": clip,
        "regions": [region._asdict() for region in drawn.regions],
        "grid": predicted.grid._asdict(),
        "verdict": None if verdict is None else verdict._asdict(),
        "figure": FIGURE,
        "sounds": names,
        **about,
    }
    write_json(out / FACTS, facts)


def _full_size(front_end: LogMel, picture_XY: Tensor, covered: tuple[int, int]) -> Tensor:
    """A picture as a spectrogram [L, C], interpolated; the bands that it leaves out are silent."""
    spectrogram_LC = functional.interpolate(picture_XY[None, None], covered, mode="bilinear")[0, 0]
    missing = front_end.config.mels - covered[1]
    return functional.pad(spectrogram_LC, (0, missing), value=front_end.silence)


def _figure(predicted: Predicted, drawn: Drawn) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    positions, seeds = drawn.sample_PSXY.shape[:2]
    low, high = np.quantile(drawn.truth_XY.numpy(), [0.01, 0.995])
    figure = Figure(figsize=(1.9 * (seeds + 3), 1.7 * positions + 0.3), dpi=130, layout="constrained")
    axes = figure.subplots(positions, seeds + 3, squeeze=False)
    titles = ["the clip", "its context", "mean", *(f"sample {number + 1}" for number in range(seeds))]
    frames, bands = (
        covered / size for covered, size in zip(drawn.covered, predicted.recipe.encoder.patch, strict=True)
    )
    for row, region in enumerate(drawn.regions):
        pictures: Sequence[np.ndarray] = [
            drawn.truth_XY.numpy(),
            np.where(drawn.seen_PXY[row].numpy(), drawn.truth_XY.numpy(), np.nan),
            drawn.mean_PXY[row].numpy(),
            *drawn.sample_PSXY[row].numpy(),
        ]
        for column, (panel, picture_XY) in enumerate(zip(axes[row], pictures, strict=True)):
            panel.imshow(
                picture_XY.T,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=low,
                vmax=high,
                extent=(0, frames, 0, bands),
                interpolation="nearest",
            )
            panel.set(xticks=[], yticks=[], facecolor="#c8c8c8")
            place, size = (region.start, region.low), (region.time, region.freq)
            panel.add_patch(Rectangle(place, *size, fill=False, edgecolor="#2fbf55", linewidth=1.8))
            if row == 0:
                panel.set_title(titles[column], fontsize=8)
    return figure
