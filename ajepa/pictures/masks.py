"""The masks of a configuration on a grid, as a picture and as fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from ajepa.masking import MaskingConfig, Masks, context_tokens, hard_share, sample_masks
from ajepa.masking.config import Kind
from ajepa.nn.grid import PatchGrid

from .files import save
from .spectrogram import SpectrogramCrop, draw_spectrogram, label_frequency, label_time

TOTAL = 1000  # steps of a notional run: masks depend only on step / total
QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}
COLOURS = {
    "context": "#2a9d4a",
    "visible, left out by the budget": "#b9e3c0",
    "target": "#e07b39",
    "hidden": "#d0d0d0",
}

# How strongly they cover a spectrogram.
OVER = {"context": 0.25, "visible, left out by the budget": 0.5, "target": 0.55, "hidden": 0.85}


@dataclass(frozen=True)
class MaskCase:
    """Masks to draw: one configuration at one place of its curriculum, 0 to 1."""

    title: str
    config: MaskingConfig
    progress: float = 0.0


def cases_of(config: MaskingConfig) -> list[MaskCase]:
    """The configuration at five places of its curriculum, or once if it has none."""
    if config.kind not in ("curriculum", "inverse"):
        return [MaskCase(config.kind, config)]
    places = (0.0, 0.1, 0.25, 0.5, 1.0)
    shares = [hard_share(config, round(place * TOTAL), TOTAL) for place in places]
    return [
        MaskCase(f"{place:.0%} of the steps, f = {share:.2f}", config, place)
        for place, share in zip(places, shares, strict=True)
    ]


def cases_by_kind(config: MaskingConfig) -> list[MaskCase]:
    """Every kind that is not a mixture, with this configuration's other settings."""
    kinds = [kind for kind in get_args(Kind) if kind not in ("curriculum", "inverse")]
    return [MaskCase(kind, replace(config, kind=kind)) for kind in kinds]


def sample_case(case: MaskCase, grid: PatchGrid, clips: int, seed: int) -> tuple[Masks, Tensor]:
    """Masks of `clips` clips, and the tokens that were visible before the budget was applied, [B, M, N]."""
    step = round(case.progress * TOTAL)

    def draw(config: MaskingConfig) -> Masks:
        # Both draws start from the same state; the budget is applied last.
        generator = torch.Generator().manual_seed(seed)
        return sample_masks(config, grid, clips, step, TOTAL, generator)

    whole = draw(replace(case.config, context_share=1.0))
    return draw(case.config), _cells(whole)


def cell_codes(case: MaskCase, grid: PatchGrid, clips: int, seed: int) -> Tensor:
    """The first mask of each clip as indices into COLOURS, [B, N]."""
    masks, visible_BMN = sample_case(case, grid, clips, seed)
    code_BN = torch.full((clips, grid.tokens), 3)
    code_BN[visible_BMN[:, 0]] = 1
    code_BN[_cells(masks)[:, 0]] = 0
    code_BN[masks.target_BMN[:, 0]] = 2
    return code_BN


def _cells(masks: Masks) -> Tensor:
    """The valid context as cells of the grid, [B, M, N] bool."""
    cells_BMN = torch.zeros_like(masks.target_BMN, dtype=torch.int32)
    return cells_BMN.scatter_add_(-1, masks.context_BMK, masks.valid_BMK.int()) > 0


def mask_fractions(
    case: MaskCase, grid: PatchGrid, clips: int = 4096, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mean and quantiles over masks of four fractions.

    Of the grid: "visible", tokens that a context could take; "context", those that it takes; "targets",
    tokens to predict. Of the budget: "budget used", the context's tokens.
    """
    masks, visible_BMN = sample_case(case, grid, clips, seed)
    taken = masks.valid_BMK.flatten(0, 1).sum(1)
    fractions = {
        "visible": visible_BMN.flatten(0, 1).sum(1) / grid.tokens,
        "context": taken / grid.tokens,
        "targets": masks.target_BMN.flatten(0, 1).sum(1) / grid.tokens,
        "budget used": taken / context_tokens(case.config, grid),
    }
    return {
        name: {"mean": values.mean().item()}
        | {label: torch.quantile(values, level).item() for label, level in QUANTILES.items()}
        for name, values in fractions.items()
    }


def fraction_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Fractions of several cases, by title, as a Markdown table in percent."""
    labels = ["mean", *QUANTILES]
    lines = [f"| masks | fraction, % | {' | '.join(labels)} |", "|---" * (2 + len(labels)) + "|"]
    for title, fractions in results.items():
        for name, values in fractions.items():
            cells = " | ".join(f"{100 * values[label]:.1f}" for label in labels)
            lines.append(f"| {title} | {name} | {cells} |")
    return "\n".join(lines)


def draw_masks(
    cases: Sequence[MaskCase],
    grid: PatchGrid,
    out: Path,
    *,
    clips: int = 4,
    seed: int = 0,
    crop: SpectrogramCrop | None = None,
) -> None:
    """Draw the masks of clips, with a column for each case; time runs to the right, frequency upwards.

    Args:
        crop: a spectrogram to draw them on; all rows have the same one, under other masks.
    """
    from matplotlib.colors import ListedColormap, to_rgba
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = [to_rgba(colour, 1.0 if crop is None else OVER[name]) for name, colour in COLOURS.items()]
    wide = grid.time > 4 * grid.freq
    width = 4.5 if wide else 3.2
    height = (0.8 if crop is None else 1.4) if wide else 3.0 * grid.freq / grid.time
    figure = Figure(figsize=(width * len(cases), 0.9 + height * clips), dpi=110, layout="constrained")
    axes = figure.subplots(clips, len(cases), squeeze=False)
    for column, case in enumerate(cases):
        picture_BN = cell_codes(case, grid, clips, seed)
        for row, panel in enumerate(axes[:, column]):
            if crop is not None:
                draw_spectrogram(panel, crop)
            panel.pcolormesh(
                torch.linspace(0, 1, grid.time + 1).numpy(),
                torch.linspace(0, 1, grid.freq + 1).numpy(),
                picture_BN[row].view(*grid).T.numpy(),
                cmap=ListedColormap(colours),
                vmin=-0.5,
                vmax=len(COLOURS) - 0.5,
                edgecolors="white",
                linewidth=0.2 if wide else 0.6,
            )
            panel.set(xticks=[], yticks=[], aspect="auto" if wide else grid.freq / grid.time)
        axes[0, column].set_title(case.title, fontsize=9)
        if crop is not None:
            label_time(axes[-1, column], crop)
    if crop is not None:
        for panel in axes[:, 0]:
            label_frequency(panel, crop.front_end)
    handles = [Patch(color=colour, label=label) for label, colour in zip(COLOURS, colours, strict=True)]
    columns = 2 if len(cases) == 1 else len(handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    save(figure, out)
