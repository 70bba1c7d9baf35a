"""What can be chosen about masks, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ajepa.errors import AjepaError

Kind = Literal["curriculum", "inverse", "block", "time-frequency", "random", "time+frequency"]
Progress = Literal["sqrt", "linear", "root-3", "root-5", "root-10", "geometric", "step"]
# Curricula that never change, as recipes of version 0.3.0 could name them, and the kinds that they are.
CONSTANT: dict[str, dict[str, Kind]] = {
    "constant-0": {"curriculum": "block", "inverse": "time-frequency"},
    "constant-1": {"curriculum": "time-frequency", "inverse": "block"},
}
Geometry = Literal["per-axis", "literal"]
Draw = Literal["mask", "step"]
TooSmall = Literal["redraw", "relax"]

# The sampler gives every target of a mask its own bit of an int32.
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
    """How context and targets are chosen; the defaults are the paper's (section 4.1).

    Args:
        kind: "curriculum" (block to time-frequency), "inverse" (the other way, table 3), "block",
            "time-frequency", "random" (unstructured single patches), or "time+frequency" (Audio-MAE's:
            whole time steps and whole frequency bands are hidden, wherever they lie).
        progress: name of the curriculum's progress function f(s), one of `PROGRESS`.
        c0: f(0), the share of time-frequency masks at the first step.
        draw: the kind of a curriculum's masks is drawn for each "mask", or once a "step" for all of them, as
            the paper's section 3.2 says ("at each training step"; algorithm 1 can be read either way).
        min_ratio: a context that keeps at most this share of its rectangle is too small: the test of the
            paper's listing 1, where it is 0.35. 0 is no test.
        too_small: what follows then. "redraw" draws the mask again, targets and all, REDRAWS times at most,
            and then takes the draw with the largest context. "relax" is what I-JEPA's code does with the
            same test: the last targets no longer clear their time steps and bands, one after the other,
            until the context is large enough; the targets themselves stay hidden.
        geometry: "per-axis" takes a rectangle's scale as a share of this grid whatever its shape;
            "literal" keeps the I-JEPA sampler's own extents in patches, with its bounds mended.
        block, time_frequency: the targets of the two kinds.
        context_scale: area of the context rectangle as a share of the grid.
        context_share: token budget of the context as a share of the grid, K = round(share * N). It keeps
            shapes static; 0.25 is the complement of the paper's "mask ratio 0.75" (table 3).
        masks_per_clip: masks M that share one pass of the target encoder.
        random_targets: share of the grid that "random" masking takes as targets, drawn for each mask
            between the two; equal ends fix it. Audio-JEPA hides (0.4, 0.6), Audio-MAE (0.8, 0.8).
        hidden_time, hidden_freq: shares of the time steps and of the bands that "time+frequency" hides.
            0.7 and 0.3 are the defaults of Audio-MAE's pre-training script (`--mask_t_prob`,
            `--mask_f_prob`; its model class has 0.6 and 0.5); it fine-tunes with 0.2 and 0.2.

    Raises:
        MaskingError: a value is out of its range.
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
        named = {
            "kind": Kind,
            "progress": Progress,
            "geometry": Geometry,
            "draw": Draw,
            "too_small": TooSmall,
        }
        for key, choices in named.items():
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
        if not 0 <= self.c0 <= 1:
            raise MaskingError(f"masking.c0 is {self.c0}, must be from 0 to 1")
        if not 0 <= self.min_ratio < 1:
            raise MaskingError(f"masking.min_ratio is {self.min_ratio}, must be at least 0 and below 1")
        if not 0 < self.context_share <= 1:
            raise MaskingError(
                f"masking.context_share is {self.context_share}, must be above 0 and at most 1"
            )
        if self.masks_per_clip < 1:
            raise MaskingError(f"masking.masks_per_clip is {self.masks_per_clip}, must be at least 1")
        for key in ("hidden_time", "hidden_freq"):
            if not 0 <= getattr(self, key) < 1:
                raise MaskingError(f"masking.{key} is {getattr(self, key)}, must be at least 0 and below 1")
        if self.hidden_time == self.hidden_freq == 0:
            raise MaskingError(
                "masking.hidden_time and masking.hidden_freq are both 0: one must hide something"
            )


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
            "such as [0.4, 0.6]; equal ones fix the value"
        )
