"""Cutting long audio into overlapping chunks for the encoder, and joining them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """A part of one clip, in time patches."""

    clip: int
    start: int
    length: int


def plan_chunks(lengths: Sequence[int], size: int) -> list[Chunk]:
    """Cut clips of the given lengths in time patches into chunks of `size` that overlap by a quarter.

    A clip's chunks depend only on its own length; the last one ends with the clip, so that none is short.
    """
    step = size - size // 4
    chunks = []
    for clip, length in enumerate(lengths):
        last = max(0, length - size)
        starts = [*range(0, last, step), last]
        chunks += [Chunk(clip, start, min(size, length)) for start in starts]
    return chunks


def fade(chunk: Chunk, size: int) -> Tensor:
    """Weights of a chunk's time steps, [T]: up, flat, down.

    The mean with these weights joins overlapping chunks without a seam.
    """
    ramp = size // 4 + 1
    place = torch.arange(chunk.length)
    return torch.minimum(place + 1, chunk.length - place).clamp_max(ramp).float()
