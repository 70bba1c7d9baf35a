"""The settings of masks, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ajepa.errors import AjepaError

Kind = Literal["curriculum", "inverse", "block", "time-frequency", "random", "time+frequency"]
Progress = Literal["sqrt", "linear", "root-3", "root-5", "root-10", "geometric", "step"]
# Constant curricula, which recipes of version 0.3.0 could name, and the kinds that they amount to.
CONSTANT: dict[str, dict[str, Kind]] = {
    "constant-0": {"curriculum": "block", "inverse": "time-frequency"},
    "constant-1": {"curriculum": "time-frequency", "inverse": "block"},
}
Geometry = Literal["per-axis", "literal"]
Draw = Literal["mask", "step"]
TooSmall = Literal["redraw", "relax"]
_CHOICES = {"kind": Kind, "progress": Progress, "geometry": Geometry, "draw": Draw, "too_small": TooSmall}

# The sampler uses one bit of an int32 for each target of a mask.
MOST_TARGETS = 30


class MaskingError(AjepaError, ValueError):
    """A masking setting is wrong, or a grid is too small; the message names the key and the value."""


@dataclass(frozen=True)
class RegionConfig:
    """Target rectangles: how many, their share of the grid's area, their aspect (time over frequency)."""

    targets: int
    scale: tuple[float, float]
    aspect: tuple[float, float]


@dataclass(frozen=True)
class MaskingConfig:
    """How context and targets are drawn; the defaults are the paper's (section 4.1).

    Args:
        kind: "curriculum" (block to time-frequency), "inverse" (the other way, table 3), "block",
            "time-frequency", "random" (unstructured single patches), or "time+frequency" (Audio-MAE's:
            random whole time steps and whole frequency bands are hidden).
        progress: name of the curriculum's progress function f(s), one of `PROGRESS`.
        c0: f(0), the share of time-frequency masks at the first step.
        draw: the kind of a curriculum's masks is drawn for each "mask", or once a "step" for all, as in the
            paper's section 3.2 ("at each training step"; algorithm 1 allows both readings).
        min_ratio: a context that keeps at most this share of its rectangle is too small: the test of the
            paper's listing 1, where it is 0.35. 0 disables it.
        too_small: what follows. "redraw" draws mask and targets again, at most REDRAWS times, and then takes
            the draw with the largest context. "relax", as in I-JEPA's code, lets one target after the other,
            from the last on, keep its time steps and bands visible until the context is large enough; the
            targets themselves stay hidden.
        geometry: "per-axis" takes a rectangle's scale as a share of this grid whatever its shape;
            "literal" keeps the I-JEPA sampler's extents in patches, with corrected bounds.
        block, time_frequency: the targets of the two kinds.
        context_scale: area of the context rectangle as a share of the grid.
        context_share: token budget of the context as a share of the grid, K = round(share * N), for static
            shapes; 0.25 is the complement of the paper's "mask ratio 0.75" (table 3).
        masks_per_clip: masks M that share one pass of the target encoder.
        random_targets: range of the share of the grid that a "random" mask takes as targets; equal ends fix
            it. Audio-JEPA hides (0.4, 0.6), Audio-MAE (0.8, 0.8).
        hidden_time, hidden_freq: shares of the time steps and of the bands that "time+frequency" hides.
            0.7 and 0.3 are the defaults of Audio-MAE's pre-training script (`--mask_t_prob`,
            `--mask_f_prob`; its model class has 0.6 and 0.5); it fine-tunes with 0.2 and 0.2.

    Raises:
        MaskingError: a value is out of range.
    """

    kind: Kind = "curriculum"
    progress: str = "sqrt"
    c0: float = 0.01
    draw: Draw = "mask"
    min_ratio: float = 0.0
    too_small: TooSmall = "redraw"
    geometry: Geometry = "per-axis"
    block: RegionConfig = field(default_factory=lambda: RegionConfig(4, (0.15, 0.2), (0.75, 1.5)))
    # The paper gives no aspect for time-frequency targets; algorithm 1 draws both kinds with one r_t.
    time_frequency: RegionConfig = field(default_factory=lambda: RegionConfig(3, (0.05, 0.075), (0.75, 1.5)))
    context_scale: tuple[float, float] = (0.85, 1.0)
    context_share: float = 0.25
    masks_per_clip: int = 1
    random_targets: tuple[float, float] = (0.6, 0.6)
    hidden_time: float = 0.7
    hidden_freq: float = 0.3

    def __post_init__(self) -> None:
        if self.progress in CONSTANT:
            object.__setattr__(self, "kind", CONSTANT[self.progress].get(self.kind, self.kind))
            object.__setattr__(self, "progress", "sqrt")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise MaskingError(f"masking.{key} is {getattr(self, key)!r}, must be one of {allowed}")
        for key in ("block", "time_frequency"):
            region: RegionConfig = getattr(self, key)
            if not 1 <= region.targets <= MOST_TARGETS:
                raise MaskingError(
                    f"masking.{key}.targets is {region.targets}, must be from 1 to {MOST_TARGETS}"
                )
            _check_range(f"{key}.scale", region.scale, 1.0)
            _check_range(f"{key}.aspect", region.aspect, float("inf"))
        _check_range("context_scale", self.context_scale, 1.0)
        _check_range("random_targets", self.random_targets, 1.0, below=True)
        for key, right, rule in (
            ("c0", 0 <= self.c0 <= 1, "from 0 to 1"),
            ("min_ratio", 0 <= self.min_ratio < 1, "at least 0 and below 1"),
            ("context_share", 0 < self.context_share <= 1, "above 0 and at most 1"),
            ("masks_per_clip", self.masks_per_clip >= 1, "at least 1"),
            ("hidden_time", 0 <= self.hidden_time < 1, "at least 0 and below 1"),
            ("hidden_freq", 0 <= self.hidden_freq < 1, "at least 0 and below 1"),
        ):
            if not right:
                raise MaskingError(f"masking.{key} is {getattr(self, key)}, must be {rule}")
        if self.hidden_time == self.hidden_freq == 0:
            raise MaskingError("masking.hidden_time and masking.hidden_freq are both 0: one must be above 0")


def _check_range(key: str, pair: tuple[float, float], most: float, *, below: bool = False) -> None:
    """Two ascending numbers above 0 and at most, or with `below` less than, `most`."""
    bound = f"{'below' if below else 'at most'} {most:g}" if most < float("inf") else "finite"
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if (
        not is_pair
        or not 0 < pair[0] <= pair[1] <= most
        or (pair[1] == most and (below or bound == "finite"))
    ):
        raise MaskingError(
            f"masking.{key} is {pair}, must be two ascending numbers, above 0 and {bound}, "
            "such as [0.4, 0.6]; equal numbers fix the value"
        )
