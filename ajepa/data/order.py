"""The order of clips: a pure function of (data, batch size, seed, step), so that any step can be resumed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One crop to make: the clip's number, and the seed of its randomness."""

    clip: int
    seed: int


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several integers (the mixing function of SplitMix64, applied part by part)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class StepSampler(Sampler[list[Draw]]):
    """Batches of draws from step `start` on: a pure function of (clips, repeats, shards, batch size, seed,
    step).

    Each epoch is a random permutation of the clips, each as often as `repeats` says; a batch may hold the
    last draws of one epoch and the first of the next. Each rank takes its slice of every batch.

    Args:
        clips: size of the set.
        repeats: draws of each clip in an epoch [clips], at least 1; None: one of each.
        shard_sizes: clips of each shard, in order; empty for separate files, which are shuffled as a whole.
        window: shards that are shuffled together at a time, after the shards are permuted. At most this many
            are in use, twice as many while a batch spans two windows.
        ahead: called with each shard about one window before it is needed.
    """

    def __init__(
        self,
        clips: int,
        batch_size: int,
        start: int,
        stop: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        *,
        repeats: np.ndarray | None = None,
        shard_sizes: Sequence[int] = (),
        window: int = 8,
        ahead: Callable[[int], None] | None = None,
    ) -> None:
        if batch_size % ranks:
            raise ValueError(f"batch size {batch_size} cannot be divided over {ranks} processes")
        if shard_sizes and sum(shard_sizes) != clips:
            raise ValueError(f"shard_sizes add up to {sum(shard_sizes)} clips, but the set has {clips}")
        self.clips, self.batch_size, self.seed = clips, batch_size, seed
        self.start, self.stop, self.rank, self.ranks = start, stop, rank, ranks
        self.shard_sizes, self.window, self.ahead = tuple(shard_sizes), window, ahead
        self._ends = list(accumulate(self.shard_sizes))
        self._draw_ends, self.draws, self._sizes = None, clips, self.shard_sizes
        if repeats is not None and (repeats != 1).any():  # else the order is the same without them
            self._draw_ends = np.cumsum(repeats)
            self.draws = int(self._draw_ends[-1])
            ends = [int(self._draw_ends[end - 1]) for end in self._ends]
            self._sizes = tuple(np.diff(ends, prepend=0).tolist())

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch_size // self.ranks
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.rank * share
            if self.ahead and self.shard_sizes:
                one_window = self.draws * self.window // len(self.shard_sizes)
                for position in range(first + one_window, first + one_window + share):
                    self.ahead(bisect_right(self._ends, self.draw(position).clip))
            yield [self.draw(position) for position in range(first, first + share)]

    def draw(self, position: int) -> Draw:
        """The draw at a position of the endless stream."""
        epoch, place = divmod(position, self.draws)
        order = _permutation(self.draws, self._sizes, self.window, self.seed, epoch)
        clip = int(order[place])
        if self._draw_ends is not None:
            clip = int(np.searchsorted(self._draw_ends, clip, side="right"))
        return Draw(clip, mix_seed(self.seed, position))


@lru_cache(maxsize=2)
def _permutation(draws: int, shard_sizes: tuple[int, ...], window: int, seed: int, epoch: int) -> Tensor:
    """The draws of one epoch in their order: int32, 8 MB for two million."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, draws))
    kind = torch.int32 if draws < 2**31 else torch.int64
    if len(shard_sizes) <= window:
        return torch.randperm(draws, generator=generator).to(kind)
    starts = torch.tensor((0, *shard_sizes)).cumsum(0).tolist()
    parts = []
    for shards in torch.randperm(len(shard_sizes), generator=generator).split(window):
        inside = [torch.arange(starts[shard], starts[shard + 1], dtype=kind) for shard in shards.tolist()]
        pool = torch.cat(inside)
        parts.append(pool[torch.randperm(len(pool), generator=generator)])
    return torch.cat(parts)
