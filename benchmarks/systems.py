"""Comparison of the three systems, from their recipes: the table of docs/systems.md.

    python benchmarks/systems.py            # print the table
    python benchmarks/systems.py --write    # put it into docs/systems.md
    python benchmarks/systems.py --check    # fail if docs/systems.md differs

Nothing is timed. Shares of patches are means over 2,048 drawn masks; torch counts the FLOPs on one clip
(`pretrain_step.py`); parameters are counted in the modules.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from pages import parsed, settle
from pretrain_step import one_clip_step
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ajepa.masking import sample_masks
from ajepa.nn.encoder import Encoder
from ajepa.nn.grid import PatchGrid
from ajepa.recipes import Recipe, load_recipe

RECIPES = ("ajepa-vit-b-as2m", "audio-mae-vit-b-as2m", "audio-jepa-vit-b-as2m")
EVALUATED = {"target": "the teacher", "context": "the context encoder", "encoder": "the encoder"}
PAGE = Path(__file__).parents[1] / "docs" / "systems.md"
BEGIN, END = "<!-- table: python benchmarks/systems.py --write -->", "<!-- end of the table -->"
DRAWS = 2048


def column(recipe: Recipe) -> dict[str, str]:
    """The rows of one system."""
    front, encoder = recipe.front_end, recipe.encoder
    objective: Any = recipe.objective  # of one of the three systems, whose parts the rows describe
    step = one_clip_step(recipe)
    network: Any = step.run.objective
    grid = recipe.crop_grid
    mae = objective.system == "audio-mae"
    second: nn.Module = network.decoder if mae else network.predictor
    config = objective.decoder if mae else objective.predictor
    windows = mae or config.kind == "local"
    return {
        "recipe": f"`{recipe.name}`",
        "input": f"{front.sample_rate // 1000} kHz, {grid.time * encoder.patch[0]} frames of "
        f"{1e3 * front.hop_seconds:.4g} ms, {front.mels} mel bands",
        "patches (time x frequency)": f"{grid.time} x {grid.freq} of {encoder.patch[0]} x {encoder.patch[1]}",
        "class token": "yes" if encoder.cls_token else "no",
        "masks": _masks(recipe),
        "seen by the encoder, first and last step": _shares(recipe, grid, seen=True),
        "predicted, first and last step": _shares(recipe, grid, seen=False),
        "predictor": f"{config.depth} blocks of width {config.width}, "
        + (f"windows {_pair(config.window)} shifted by {_pair(config.shift)}" if windows else "global"),
        "it runs on": "the whole grid" if windows else "context and targets",
        "predicts": _targets(recipe),
        "loss": _loss(network),
        "teacher (EMA)": "none" if mae else _ema(network),
        "parameters: encoder": _millions(network.encoder),
        "parameters: predictor": _millions(second),
        "a step's work for one clip": f"{step.flops() / 1e9:,.0f} GFLOP",
        "embedding a clip": f"{_embedding_flops(network.encoder, grid) / 1e9:,.0f} GFLOP",
        "evaluated": EVALUATED[next(iter(objective.encoders))],
    }


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"


def _masks(recipe: Recipe) -> str:
    masking = recipe.objective.masking
    assert masking is not None
    if masking.kind == "curriculum":
        return f"blocks, then whole steps and bands ({masking.progress} curriculum)"
    return {"random": "single patches", "time+frequency": "whole steps and bands"}[masking.kind]


def _targets(recipe: Recipe) -> str:
    objective: Any = recipe.objective
    if objective.system == "audio-mae":
        return "pixels, normed by patch" if objective.norm_pixels else "pixels"
    return "the teacher's output, normed by patch"


def _loss(network: Any) -> str:
    kind = getattr(network.config, "loss", "l2")  # Audio-MAE has no choice of loss
    return {"l2": "mean squared error", "smooth-l1": "smooth L1", "cosine": "2 - 2 cos"}[str(kind)]


def _ema(network: Any) -> str:
    total = network.total_steps
    ends = [network.momentum(step) for step in (0, total)]
    quarter = ends[0] + (ends[1] - ends[0]) / 4
    kind = "linear" if math.isclose(network.momentum(total / 4), quarter, rel_tol=1e-9) else "cosine"
    return f"{ends[0]:.4g} to {ends[1]:.4g}, {kind}"


def _shares(recipe: Recipe, grid: PatchGrid, *, seen: bool) -> str:
    shares = []
    assert recipe.objective.masking is not None
    for step in (0, 99):
        generator = torch.Generator().manual_seed(0)
        masks = sample_masks(recipe.objective.masking, grid, DRAWS, step, 100, generator)
        chosen = masks.valid_BMK.float().sum(2) / grid.tokens if seen else masks.target_BMN.float().mean(2)
        shares.append(f"{100 * chosen.mean():.0f} %")
    return shares[0] if shares[0] == shares[1] else " and ".join(shares)


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f} M"


def _embedding_flops(encoder: Encoder, grid: PatchGrid) -> int:
    encoder = encoder.to("meta")  # sizes are enough
    patches_BNP = torch.zeros(1, grid.tokens, encoder.patch_embed.in_features, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(patches_BNP, encoder.positions(grid, patches_BNP))
    return counter.get_total_flops()


def table() -> str:
    """The Markdown table."""
    plain = ["run.compile=off", "run.accelerator=cpu"]
    columns = [column(load_recipe(name, plain)) for name in RECIPES]
    lines = ["| | A-JEPA | Audio-MAE | Audio-JEPA |", "|---|---|---|---|"]
    lines += [f"| {row} | {' | '.join(one[row] for one in columns)} |" for row in columns[0]]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(__doc__, arguments, required=False)
    if not options.write and not options.check:
        print(table())
        return 0
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    made = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
    return settle(PAGE, text, made, "recipes", write=options.write)


if __name__ == "__main__":
    sys.exit(main())
