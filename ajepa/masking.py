"""Context and target masks of A-JEPA, drawn for all clips at once (arXiv 2311.15830, section 3, algorithm 1).

A *block* mask takes out a few rectangles as targets; the context is one large rectangle minus those.
A *time-frequency* mask takes out smaller rectangles, and with them every time step and every frequency
band that they touch. The *curriculum* moves from the first to the second during pre-training.

Ported to the letter, the I-JEPA sampler degenerates on a grid of 64 x 8 patches: a "0.85 to 1.0" context
shrinks to 22 x 7 patches, and the last row and column are never drawn. Here extents are drawn per axis,
`h = sqrt(scale * aspect) * T` and `w = sqrt(scale / aspect) * F`, so that a scale is a share of this grid
whatever its shape, and all bounds are inclusive. `geometry="literal"` keeps the original's extents in
patches, with the bounds mended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ajepa.grid import PatchGrid


@dataclass(frozen=True)
class RegionConfig:
    """Target rectangles: how many, their share of the grid's area, their aspect (time over frequency)."""

    targets: int
    scale: tuple[float, float]
    aspect: tuple[float, float]


@dataclass(frozen=True)
class MaskingConfig:
    """How context and targets are chosen; the defaults are the paper's (section 4.1).

    Args:
        kind: "curriculum" (block to time-frequency), "inverse" (the other way, table 3), "block",
            "time-frequency", or "random" (unstructured single patches).
        progress: name of the curriculum's progress function f(s), see `PROGRESS`.
        c0: f(0), the share of time-frequency masks at the first step.
        masks_per_clip: masks M that share one pass of the target encoder.
        context_share: token budget of the context as a share of the grid, K = round(share * N). It keeps
            shapes static; 0.25 is the complement of the paper's "mask ratio 0.75" (table 3).
        random_targets: share of the grid that "random" masking takes as targets.
    """

    kind: Literal["curriculum", "inverse", "block", "time-frequency", "random"] = "curriculum"
    progress: Literal["sqrt", "linear"] = "sqrt"
    c0: float = 0.01
    geometry: Literal["per-axis", "literal"] = "per-axis"
    block: RegionConfig = field(default_factory=lambda: RegionConfig(4, (0.15, 0.2), (0.75, 1.5)))
    # The paper gives no aspect for time-frequency targets; algorithm 1 draws both kinds with one r_t.
    time_frequency: RegionConfig = field(default_factory=lambda: RegionConfig(3, (0.05, 0.075), (0.75, 1.5)))
    context_scale: tuple[float, float] = (0.85, 1.0)
    context_share: float = 0.25
    masks_per_clip: int = 1
    random_targets: float = 0.6


@dataclass(frozen=True)
class Masks:
    """M masks for each of B clips on one grid.

    Attributes:
        context_BMK: token indices of the context, ascending among the valid ones.
        valid_BMK: False where a context had fewer than K tokens: padding, never to be attended to.
        target_BMN: True where the predictor has to predict. Never overlaps the valid context.
    """

    context_BMK: Tensor
    valid_BMK: Tensor
    target_BMN: Tensor


def _sqrt(progress: float, c0: float) -> float:
    return math.sqrt(progress * (1 - c0**2) + c0**2)


def _linear(progress: float, c0: float) -> float:
    return progress * (1 - c0) + c0


PROGRESS: dict[str, Callable[[float, float], float]] = {"sqrt": _sqrt, "linear": _linear}


def hard_share(config: MaskingConfig, step: int, total: int) -> float:
    """Probability that a mask at this step is time-frequency (the harder kind), section 3, equation 2.

    The paper prints s^((1 - c0^2) / S), a slip of typesetting: only s (1 - c0^2) / S starts at c0 and
    ends at 1, as in its source on competence-based curricula (Platanios et al., 2019, section 3).
    The paper draws once a step (algorithm 1); here each mask draws for itself, so that the share of hard
    masks in a batch is f(s) and not 0 or 1.
    """
    fixed = {"block": 0.0, "time-frequency": 1.0}
    if config.kind in fixed:
        return fixed[config.kind]
    share = min(1.0, PROGRESS[config.progress](min(1.0, step / max(1, total)), config.c0))
    return 1.0 - share if config.kind == "inverse" else share


def context_tokens(config: MaskingConfig, grid: PatchGrid) -> int:
    """The context's token budget K on this grid, at least 1."""
    return max(1, round(config.context_share * grid.tokens))


def sample_masks(
    config: MaskingConfig, grid: PatchGrid, batch: int, step: int, total: int, generator: torch.Generator
) -> Masks:
    """Draw `config.masks_per_clip` masks for each of `batch` clips, on the generator's device.

    Every clip and mask is drawn on its own; the generator decides everything. Neither context nor
    targets are ever empty: a target that would leave no context is dropped, the first one never is.

    Raises:
        ValueError: the grid has fewer than two tokens, or `masks_per_clip` is below 1.
    """
    if grid.tokens < 2:
        raise ValueError(f"{grid} has {grid.tokens} patch: a mask needs one for context and one to predict")
    if config.masks_per_clip < 1:
        raise ValueError(f"masks_per_clip is {config.masks_per_clip}, must be at least 1")
    rows = batch * config.masks_per_clip
    if config.kind == "random":
        target_RN, allowed_RN = _random_tokens(config.random_targets, grid, rows, generator)
    else:
        block_RN, beside_RN = _rectangles(config.block, config.geometry, grid, rows, False, generator)
        bands_RN, clear_RN = _rectangles(config.time_frequency, config.geometry, grid, rows, True, generator)
        hard_R1 = _uniform((rows, 1), generator) < hard_share(config, step, total)
        target_RN = torch.where(hard_R1, bands_RN, block_RN)
        allowed_RN = torch.where(hard_R1, clear_RN, beside_RN)
        window_RN = _context_window(config, grid, rows, generator)
        # The window may miss the little that time-frequency targets leave: then all of it is context.
        inside_RN = allowed_RN & window_RN
        allowed_RN = torch.where(inside_RN.any(1, keepdim=True), inside_RN, allowed_RN)
    context_RK, valid_RK = _subsample(allowed_RN, context_tokens(config, grid), generator)
    shape = (batch, config.masks_per_clip, -1)
    return Masks(context_RK.view(shape), valid_RK.view(shape), target_RN.view(shape))


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _extents(
    geometry: str, scale: Tensor, aspect: Tensor, grid: PatchGrid, largest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Heights and widths in patches of rectangles with these scales (area shares) and aspects."""
    if geometry == "literal":
        side = (scale * grid.tokens).sqrt()
        height, width = side * aspect.sqrt(), side / aspect.sqrt()
    else:
        height, width = (scale * aspect).sqrt() * grid.time, (scale / aspect).sqrt() * grid.freq
    return (
        height.round().long().clamp(1, largest[0]),
        width.round().long().clamp(1, largest[1]),
    )


def _span(extent: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """True on `extent` consecutive cells of an axis, start uniform, bounds inclusive: [..., size]."""
    free = size - extent
    start = (_uniform(tuple(extent.shape), generator) * (free + 1)).long().minimum(free)
    cell = torch.arange(size, device=extent.device)
    return (cell >= start[..., None]) & (cell < (start + extent)[..., None])


def _rectangles(
    region: RegionConfig,
    geometry: str,
    grid: PatchGrid,
    rows: int,
    clear_bands: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Target cells [R, N] and the cells they leave to the context [R, N].

    With `clear_bands` the context also loses every time step and frequency band that a target touches
    (the paper's listing 1); an axis of one cell is exempt, there would be nothing left.
    """
    shape = (rows, region.targets)
    # The largest rectangle that leaves something over: a band of each axis, or one cell's width of either.
    if clear_bands:
        largest = (max(1, grid.time - 1), max(1, grid.freq - 1))
    else:
        largest = (grid.time - 1, grid.freq) if grid.time > 1 else (grid.time, grid.freq - 1)
    height, width = _extents(
        geometry,
        _uniform(shape, generator, *region.scale),
        _uniform(shape, generator, *region.aspect),
        grid,
        largest,
    )
    time_RQT = _span(height, grid.time, generator)
    freq_RQF = _span(width, grid.freq, generator)
    # Taken by the first q targets, for q = 1 .. targets: the free space only shrinks with q.
    target_RQTF = (time_RQT[..., None] & freq_RQF[..., None, :]).cummax(1).values
    if clear_bands:
        lost_RQT = time_RQT.cummax(1).values if grid.time > 1 else torch.zeros_like(time_RQT)
        lost_RQF = freq_RQF.cummax(1).values if grid.freq > 1 else torch.zeros_like(freq_RQF)
        free_RQTF = ~(lost_RQT[..., None] | lost_RQF[..., None, :] | target_RQTF)
    else:
        free_RQTF = ~target_RQTF
    free_RQN, target_RQN = free_RQTF.flatten(2), target_RQTF.flatten(2)
    kept_R = free_RQN.any(-1).sum(1).clamp_min(1) - 1
    pick_R1N = kept_R[:, None, None].expand(-1, 1, grid.tokens)
    return target_RQN.gather(1, pick_R1N)[:, 0], free_RQN.gather(1, pick_R1N)[:, 0]


def _context_window(config: MaskingConfig, grid: PatchGrid, rows: int, generator: torch.Generator) -> Tensor:
    """One rectangle of unit aspect for each row, [R, N]."""
    scale = _uniform((rows,), generator, *config.context_scale)
    height, width = _extents(config.geometry, scale, torch.ones_like(scale), grid, (grid.time, grid.freq))
    time_RT, freq_RF = _span(height, grid.time, generator), _span(width, grid.freq, generator)
    return (time_RT[:, :, None] & freq_RF[:, None, :]).flatten(1)


def _random_tokens(
    share: float, grid: PatchGrid, rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count = min(grid.tokens - 1, max(1, round(share * grid.tokens)))
    order_RN = _uniform((rows, grid.tokens), generator).argsort(1)
    target_RN = torch.zeros_like(order_RN, dtype=torch.bool).scatter_(1, order_RN[:, :count], True)
    return target_RN, ~target_RN


def _subsample(allowed_RN: Tensor, budget: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose up to `budget` allowed tokens of each row without bias: indices [R, K] and validity [R, K].

    I-JEPA cuts every context to the batch's shortest by dropping the tail of the flat order, which keeps
    the first frequency row in 75 % of the cases and the last in none; a random subset has no such bias.
    """
    tokens = allowed_RN.shape[1]
    score_RN = torch.where(allowed_RN, _uniform(tuple(allowed_RN.shape), generator), -1.0)
    score_RK, index_RK = score_RN.topk(budget, dim=1)
    valid_RK = score_RK >= 0
    # Ascending order, padding last: memory order is then the grid's order, whatever was drawn.
    order_RK = torch.where(valid_RK, index_RK, tokens).argsort(1)
    return index_RK.gather(1, order_RK), valid_RK.gather(1, order_RK)
