"""Draw the masks of a whole batch with one generator, without a loop over clips or a wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ajepa.nn.grid import PatchGrid

from .config import MaskingConfig, MaskingError
from .curriculum import hard_share
from .geometry import context_tokens, kept_lines, largest_extents, random_counts, unit_sides
from .masks import Masks, first_places

REDRAWS = 16  # of masks whose context is too small, see `MaskingConfig.min_ratio`


def sample_masks(
    config: MaskingConfig, grid: PatchGrid, batch: int, step: int, total: int, generator: torch.Generator
) -> Masks:
    """Draw `config.masks_per_clip` masks for each of `batch` clips, on the generator's device.

    Every mask of every clip is drawn separately; the generator decides everything. Neither context nor
    targets are ever empty: a target that would leave no context is dropped with those after it, but never the
    first. All shapes follow from the arguments, so that nothing waits for a GPU.

    Raises:
        MaskingError: the grid has fewer than two tokens.
    """
    if grid.tokens < 2:
        raise MaskingError(f"{grid} has {grid.tokens} patch: a mask needs one for context and one to predict")
    rows = batch * config.masks_per_clip
    if config.kind == "random":
        target_RN, free_RN = _random_tokens(config, grid, rows, generator)
    elif config.kind == "time+frequency":
        target_RN, free_RN = _steps_and_bands(config, grid, rows, generator)
    else:
        target_RN, free_RN = _rectangles(config, grid, rows, hard_share(config, step, total), generator)
    fewest = random_counts(config, grid)[0] if config.kind == "random" else 0
    index_RK, valid_RK = _subsample(free_RN, context_tokens(config, grid), fewest, generator)
    shape = (batch, config.masks_per_clip)
    return Masks(index_RK.unflatten(0, shape), valid_RK.unflatten(0, shape), target_RN.unflatten(0, shape))


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _scores(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random int32 above 0, whose order is a random permutation; integers, because they rank faster."""
    score = torch.empty(shape, dtype=torch.int32, device=generator.device)
    return score.random_(generator=generator).bitwise_or_(1)


def _rectangles(
    config: MaskingConfig, grid: PatchGrid, rows: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Block masks, and with probability `share` time-frequency ones: targets and context cells, [R, N].

    With `min_ratio` and "redraw" every row takes the first draw whose context is large enough, or else the
    one whose context keeps most of its rectangle.
    """
    draws = 1 if config.draw == "step" else rows
    hard_R = (_uniform((draws,), generator) < share).expand(rows)
    target_RN, free_RN, kept_R = _draw_rectangles(config, grid, hard_R, generator)
    if config.min_ratio and config.too_small == "redraw":
        for _ in range(REDRAWS):
            again_RN, again_free_RN, again_kept_R = _draw_rectangles(config, grid, hard_R, generator)
            better_R = (kept_R <= config.min_ratio) & (again_kept_R > kept_R)
            target_RN = torch.where(better_R[:, None], again_RN, target_RN)
            free_RN = torch.where(better_R[:, None], again_free_RN, free_RN)
            kept_R = torch.where(better_R, again_kept_R, kept_R)
    return target_RN, free_RN


def _draw_rectangles(
    config: MaskingConfig, grid: PatchGrid, hard_R: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets [R, N], context cells [R, N], and the share of its rectangle that each context keeps [R].

    The context of a time-frequency mask also loses every time step and frequency band that a target touches
    (the paper's listing 1), except along an axis of one cell, where nothing would be left.

    Both kinds are drawn as one set of Q rectangles a row: the targets, then the context window. Each has a
    bit, the first target the highest and the window the lowest. The bits of a cell are the rectangles that
    contain it, and a cell that the first q targets leave out is a number below 2^(Q - q).
    """
    device = generator.device
    # Without non_blocking the copy would wait for all pending work of a GPU.
    settings_2QP = _settings(config, grid).to(device, non_blocking=True)
    settings_RQP = settings_2QP[hard_R.long()]
    scale, scale_range, aspect, aspect_range, most_time, most_freq, bit = settings_RQP.unbind(2)
    draw_4RQ = _uniform((4, *settings_RQP.shape[:2]), generator)
    height, width = unit_sides(config.geometry, grid)
    side_RQ = (scale + draw_4RQ[0] * scale_range).sqrt()
    skew_RQ = (aspect + draw_4RQ[1] * aspect_range).sqrt()
    time_RT1 = _cover(side_RQ * skew_RQ * height, most_time, bit, grid.time, draw_4RQ[2])[:, :, None]
    freq_R1F = _cover(side_RQ / skew_RQ * width, most_freq, bit, grid.freq, draw_4RQ[3])[:, None, :]
    inside_RTF = time_RT1 & freq_R1F
    if grid.time == 1:
        touched_RTF = freq_R1F
    elif grid.freq == 1:
        touched_RTF = time_RT1
    else:
        touched_RTF = time_RT1 | freq_R1F
    lost_RTF = torch.where(hard_R[:, None, None], touched_RTF, inside_RTF)

    # The cell that the most targets leave out says how many of them leave a context.
    longest_R1 = lost_RTF.flatten(1).amin(1, keepdim=True)
    power_Q = 2 ** torch.arange(1, settings_2QP.shape[1], device=device)
    limit_R11 = 2 ** (1 + (power_Q <= longest_R1).sum(1, dtype=torch.int32))[:, None, None]
    target_RTF = inside_RTF >= limit_R11
    window_RTF = (inside_RTF & 1).bool()
    if config.min_ratio and config.too_small == "relax":
        free_RTF = _relaxed(config.min_ratio, lost_RTF, target_RTF, window_RTF, limit_R11, len(power_Q))
    else:
        free_RTF = lost_RTF < limit_R11
    # The window may miss the few cells that time-frequency targets leave: then all of these are context.
    seen_RTF = window_RTF & free_RTF
    missed_R11 = seen_RTF.view(torch.uint8).amax((1, 2), keepdim=True) == 0
    free_RTF.logical_and_(missed_R11).logical_or_(seen_RTF)
    kept_R = seen_RTF.sum((1, 2)) / window_RTF.sum((1, 2)).clamp_min(1)
    return target_RTF.flatten(1), free_RTF.flatten(1), kept_R


def _relaxed(
    min_ratio: float,
    lost_RTF: Tensor,
    target_RTF: Tensor,
    window_RTF: Tensor,
    limit_R11: Tensor,
    targets: int,
) -> Tensor:
    """Context cells [R, T, F] when as many targets as possible, in order, clear their steps and bands.

    The context must keep more than `min_ratio` of the window; if one target is too many, none clears.
    """
    least_R11 = min_ratio * window_RTF.sum((1, 2), keepdim=True)
    hidden_RTF = ~target_RTF
    free_RTF = hidden_RTF.clone()
    for clearing in range(1, targets + 1):
        # The first `clearing` targets leave out the numbers below this; dropped targets do nothing.
        limit = torch.full_like(limit_R11, 2 ** (targets + 1 - clearing)).maximum(limit_R11)
        some_RTF = (lost_RTF < limit) & hidden_RTF
        enough_R11 = (some_RTF & window_RTF).sum((1, 2), keepdim=True) > least_R11
        free_RTF = torch.where(enough_R11, some_RTF, free_RTF)
    return free_RTF


def _settings(config: MaskingConfig, grid: PatchGrid) -> Tensor:
    """Settings for the draw of each rectangle of each kind, [2, Q, P].

    P: lowest scale and its range, lowest aspect and its range, largest height and width in patches, and the
    rectangle's bit, 0 if this kind has fewer targets than the other.
    """
    regions = (config.block, config.time_frequency)
    most = max(region.targets for region in regions)
    window = [*_low_and_range(config.context_scale), 1.0, 0.0, *grid, 1]
    kinds = []
    for region, clear_bands in zip(regions, (False, True), strict=True):
        shape = [
            *_low_and_range(region.scale),
            *_low_and_range(region.aspect),
            *largest_extents(grid, clear_bands),
        ]
        bits = [2 ** (most - q) if q < region.targets else 0 for q in range(most)]
        kinds.append([[*shape, bit] for bit in bits] + [window])
    return torch.tensor(kinds, dtype=torch.float32)


def _low_and_range(pair: tuple[float, float]) -> tuple[float, float]:
    return pair[0], pair[1] - pair[0]


def _cover(extent_RQ: Tensor, most_RQ: Tensor, bit_RQ: Tensor, size: int, draw_RQ: Tensor) -> Tensor:
    """Bits of the rectangles over each cell of an axis, [R, size]: starts uniform, bounds inclusive."""
    extent_RQ = extent_RQ.round().clamp_(min=1).minimum(most_RQ)
    free_RQ = size - extent_RQ
    start_RQ1 = (draw_RQ * (free_RQ + 1)).floor_().minimum(free_RQ)[..., None]
    cell = torch.arange(size, device=extent_RQ.device)
    inside = (cell >= start_RQ1).logical_and_(cell < start_RQ1 + extent_RQ[..., None])
    return (inside * bit_RQ.int()[..., None]).sum(1, dtype=torch.int32)


def _random_tokens(
    config: MaskingConfig, grid: PatchGrid, rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Unstructured masks: single patches, their number drawn for each mask."""
    least, most = random_counts(config, grid)
    score_RQ, index_RQ = _scores((rows, grid.tokens), generator).topk(most, sorted=False)
    target_RN = torch.zeros((rows, grid.tokens), dtype=torch.bool, device=generator.device)
    target_RN.scatter_(1, index_RQ, True)
    if spare := most - least:
        # Each row gives back its lowest scores. Sorting only these takes a third of sorting all.
        place_RX = score_RQ.topk(spare, largest=False, sorted=True).indices
        back_R1 = (_uniform((rows, 1), generator) * (spare + 1)).long().clamp(max=spare)
        kept_RX = torch.arange(spare, device=generator.device) >= back_R1
        target_RN.scatter_(1, index_RQ.gather(1, place_RX), kept_RX)
    return target_RN, ~target_RN


def _steps_and_bands(
    config: MaskingConfig, grid: PatchGrid, rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Audio-MAE's masks in both axes (arXiv 2207.06405, section 3; `random_masking_2d` in its code).

    Random time steps and random bands are hidden; the rest is visible.
    """

    def kept(size: int, count: int) -> Tensor:
        line_RX = torch.zeros((rows, size), dtype=torch.bool, device=generator.device)
        return line_RX.scatter_(1, _scores((rows, size), generator).topk(count, sorted=False).indices, True)

    time, freq = kept_lines(config, grid)
    free_RN = (kept(grid.time, time)[:, :, None] & kept(grid.freq, freq)[:, None, :]).flatten(1)
    return ~free_RN, free_RN


def _subsample(
    free_RN: Tensor, budget: int, fewest_targets: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose up to `budget` free tokens of each row without bias: ascending indices [R, K] and validity.

    I-JEPA cuts every context to the batch's shortest by dropping the tail of the flat order, which keeps
    the first frequency row in 75 % of the cases and the last in none; a random subset has no such bias.
    """
    if budget >= free_RN.shape[1] - fewest_targets:  # all free ones fit
        return first_places(free_RN, budget)
    # Other tokens score 0: the best scores are a random subset of the free tokens, if there are enough.
    score_RK, index_RK = _scores(tuple(free_RN.shape), generator).mul_(free_RN).topk(budget, sorted=False)
    return first_places(torch.zeros_like(free_RN).scatter_(1, index_RK, score_RK > 0), budget)
