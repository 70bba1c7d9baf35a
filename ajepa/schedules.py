"""Schedules as pure functions of the step: resuming needs no replay."""

from __future__ import annotations

import math


def linear(step: int, total: int, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at step `total`, constant after."""
    return start + (end - start) * min(1.0, step / max(1, total))


def cosine(step: int, total: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total`, constant after."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, total))))


def warmup_cosine(step: int, total: int, warmup: int, peak: float, end: float) -> float:
    """Linear from peak / warmup up to `peak` over `warmup` steps, then half a cosine down to `end`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, total - warmup, peak, end)


def warmup_decay(step: int, total: int, warmup: int, decay: int, peak: float, end: float) -> float:
    """Linear up to `peak` over `warmup` steps, constant, and linear down to `end` over the last `decay`.

    Where the two overlap the lower line holds.
    """
    down = linear(max(0, step - total + decay), decay, peak, end)
    return min(peak * (step + 1) / warmup, down) if step < warmup else down
