"""The curriculum: how likely a time-frequency mask is at a step (A-JEPA, section 3, equation 2, figure 3).

The paper's text names only the square root; figure 3 draws others without formulas. The roots, including the
linear function, are those of competence-based curricula (Platanios et al., 2019, section 3, arXiv
1903.09848), which the paper cites for f: c(s) = (s (1 - c0^p) / S + c0^p)^(1/p); p = 1 is linear, p = 2 the
paper's. The others are the usual forms: geometric growth from c0 to 1, and a jump from c0 to 1 at half of the
steps.
"""

from __future__ import annotations

from collections.abc import Callable

from .config import MaskingConfig

ProgressFunction = Callable[[float, float], float]


def _root(power: int) -> ProgressFunction:
    def share(progress: float, c0: float) -> float:
        return (progress * (1 - c0**power) + c0**power) ** (1 / power)

    return share


def _geometric(progress: float, c0: float) -> float:
    return c0 ** (1 - progress)


def _step(progress: float, c0: float) -> float:
    return c0 if progress < 0.5 else 1.0


# f(s / S, c0) in [0, 1], never falling.
PROGRESS: dict[str, ProgressFunction] = {
    "linear": _root(1),
    "sqrt": _root(2),
    "root-3": _root(3),
    "root-5": _root(5),
    "root-10": _root(10),
    "geometric": _geometric,
    "step": _step,
}


def hard_share(config: MaskingConfig, step: int, total: int) -> float:
    """Probability that a mask at this step is time-frequency (the harder kind), section 3, equation 2.

    The paper prints sqrt(s^((1 - c0^2) / S) + c0^2), which is 1 from the first step on: a slip of typesetting
    for s (1 - c0^2) / S, as in its source on competence-based curricula (Platanios et al., 2019, section 3).
    `MaskingConfig.draw` says whether each mask draws for itself, so that the share of hard masks in a batch
    is f(s), or one draw decides for all masks of a step.
    """
    if config.kind not in ("curriculum", "inverse"):
        return 1.0 if config.kind == "time-frequency" else 0.0
    share = min(1.0, PROGRESS[config.progress](min(1.0, step / max(1, total)), config.c0))
    return 1.0 - share if config.kind == "inverse" else share
