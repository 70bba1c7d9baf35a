"""Long recordings cut into segments of one length, without those that are too quiet.

The segments are those of `ajepa embed --window`: the last one ends with the recording, so that nothing is
left out, and a shorter recording is one segment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ajepa.audio import SAMPLE_RATE, seconds_of, stream

from .clips import DataError

BIN = SAMPLE_RATE // 100  # samples whose power is one number: levels are exact to 10 ms at the borders
SILENCE_DB = -200.0


@dataclass(frozen=True)
class Cut:
    """How recordings are cut.

    Attributes:
        segment: seconds.
        hop: seconds from one segment to the next; 0: they follow each other.
        energy_above: level in dB below which a segment is left out, relative to full scale (root mean square
            of the mono mix; a sine of full scale has -3 dB); None keeps all.
    """

    segment: float
    hop: float = 0.0
    energy_above: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("segment", 0.01), ("hop", 0.0)):
            if not least <= getattr(self, name) < math.inf:
                raise DataError(f"--{name} is {getattr(self, name)}; give seconds above 0")

    @property
    def step(self) -> float:
        """Seconds from one segment to the next."""
        return self.hop or self.segment


class Segments(NamedTuple):
    """The segments of a recording, [start, end] in seconds each, and how many were too quiet."""

    spans: list[tuple[float, float]]
    quiet: int


def segments_of(file: Path, cut: Cut) -> Segments:
    """Cut a recording; it is decoded only if levels decide. Raises AudioError if it cannot be used."""
    if cut.energy_above is None:
        return Segments(_spans(seconds_of(file), cut), 0)
    power_N, samples = _power(file)
    total_N = np.concatenate([[0.0], np.cumsum(power_N)])
    spans = _spans(samples / SAMPLE_RATE, cut)
    loud = []
    for start, end in spans:
        first, last = (round(time * SAMPLE_RATE / BIN) for time in (start, end))
        last = min(max(last, first + 1), len(power_N))
        power = (total_N[last] - total_N[first]) / (last - first)
        if 10 * math.log10(max(power, 10 ** (SILENCE_DB / 10))) > cut.energy_above:
            loud.append((start, end))
    return Segments(loud, len(spans) - len(loud))


def _spans(seconds: float, cut: Cut) -> list[tuple[float, float]]:
    last = max(0.0, seconds - cut.segment)
    count = math.ceil(round(last / cut.step, 6))
    starts = [*(number * cut.step for number in range(count)), last]
    return [(round(start, 6), round(min(start + cut.segment, seconds), 6)) for start in starts]


def _power(file: Path) -> tuple[np.ndarray, int]:
    """The mean square of each bin of a file, and its samples."""
    found, held, samples = [], torch.empty(0), 0
    for block_S in stream(file):
        held, samples = torch.cat([held, block_S]), samples + len(block_S)
        whole = len(held) // BIN * BIN
        found.append(held[:whole].view(-1, BIN).square().mean(1).numpy())
        held = held[whole:]
    if len(held):
        found.append(held.square().mean()[None].numpy())
    return np.concatenate(found).astype(np.float64), samples
