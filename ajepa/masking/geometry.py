"""Sizes: of rectangles in patches, of the context in tokens, and the most targets a mask can have.

Copied literally, the I-JEPA sampler degenerates on a grid of 64 x 8 patches: a "0.85 to 1.0" context shrinks
to 22 x 7 patches, and the last row and column are never drawn. Here extents are drawn per axis,
`h = sqrt(scale * aspect) * T` and `w = sqrt(scale / aspect) * F`, so that a scale is a share of this grid
whatever its shape, and all bounds are inclusive. "literal" keeps the original's extents in patches,
`h = sqrt(scale * N * aspect)` and `w = sqrt(scale * N / aspect)`, with corrected bounds.
"""

from __future__ import annotations

import math

from ajepa.nn.grid import PatchGrid

from .config import Geometry, MaskingConfig, RegionConfig


def context_tokens(config: MaskingConfig, grid: PatchGrid) -> int:
    """The context's token budget K on this grid, at least 1."""
    return max(1, round(config.context_share * grid.tokens))


def target_budget(config: MaskingConfig, grid: PatchGrid) -> int:
    """The most targets that a mask of this configuration can have on this grid, at every step.

    Exact for "random" and "time+frequency"; for rectangles it is the area of the largest without overlap.
    """
    if config.kind == "random":
        return random_counts(config, grid)[1]
    if config.kind == "time+frequency":
        time, freq = kept_lines(config, grid)
        return grid.tokens - time * freq
    areas = []
    if config.kind != "time-frequency":
        areas.append(config.block.targets * _largest_area(config.block, config.geometry, grid, False))
    if config.kind != "block":
        region = config.time_frequency
        areas.append(region.targets * _largest_area(region, config.geometry, grid, True))
    return min(grid.tokens - 1, max(areas))


def random_counts(config: MaskingConfig, grid: PatchGrid) -> tuple[int, int]:
    """Fewest and most targets of a "random" mask; context and targets have at least one token each."""
    low, high = (min(grid.tokens - 1, max(1, round(s * grid.tokens))) for s in config.random_targets)
    return low, high


def kept_lines(config: MaskingConfig, grid: PatchGrid) -> tuple[int, int]:
    """Time steps and bands that "time+frequency" leaves visible, rounded down as in Audio-MAE.

    At least one of each, but not all: if both shares round to 0 on a tiny grid, one line is hidden.
    """
    # The small number undoes float error: 10 * (1 - 0.9) is 0.9999999999999998.
    time = max(1, math.floor(grid.time * (1 - config.hidden_time) + 1e-9))
    freq = max(1, math.floor(grid.freq * (1 - config.hidden_freq) + 1e-9))
    if time * freq < grid.tokens:
        return time, freq
    return (time - 1, freq) if time > 1 else (time, freq - 1)


def largest_extents(grid: PatchGrid, clear_bands: bool) -> tuple[int, int]:
    """The largest target, in patches, that leaves patches for the context.

    A target that clears its bands must leave a time step and a band; any other target, a line of either axis.
    An axis of one cell is never cleared.
    """
    time = max(1, grid.time - 1)
    return time, max(1, grid.freq - 1) if clear_bands or grid.time == 1 else grid.freq


def unit_sides(geometry: Geometry, grid: PatchGrid) -> tuple[float, float]:
    """Height and width in patches, not rounded, of a rectangle of scale 1 and aspect 1."""
    if geometry == "literal":
        return math.sqrt(grid.tokens), math.sqrt(grid.tokens)
    return grid.time, grid.freq


def _largest_area(region: RegionConfig, geometry: Geometry, grid: PatchGrid, clear_bands: bool) -> int:
    """Patches of the largest rectangle: at the largest scale, over all heights that its aspects give."""
    most_time, most_freq = largest_extents(grid, clear_bands)
    height, width = (math.sqrt(region.scale[1]) * side for side in unit_sides(geometry, grid))
    least_skew, most_skew = (math.sqrt(aspect) for aspect in region.aspect)
    # The sampler computes in float32: what is just below a half may round up there.
    slack = 0.5 + 1e-3
    area = 1
    for rounded in range(math.floor(height * least_skew + 0.5), math.floor(height * most_skew + slack) + 1):
        # The smallest aspect that still rounds to this height gives the largest width.
        skew = max(least_skew, (rounded - slack) / height)
        beside = max(1, math.floor(width / skew + slack))
        area = max(area, min(max(1, rounded), most_time) * min(beside, most_freq))
    return area
