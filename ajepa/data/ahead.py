"""Fetching shards before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from .clips import DataError


class LookAhead:
    """Fetches shards one after the other, in a thread of its own.

    Args:
        fetch: brings the shard of this number; returns at once where it is there.
        remembered: how many of the last shards asked for are not asked for again.
    """

    def __init__(self, fetch: Callable[[int], object], remembered: int) -> None:
        self._fetch = fetch
        self._recent: deque[int] = deque(maxlen=remembered)
        self._waiting: SimpleQueue[int] = SimpleQueue()
        # A daemon: the end of a run does not wait for a download.
        Thread(target=self._work, name="ajepa-look-ahead", daemon=True).start()

    def __call__(self, shard: int) -> None:
        """Say that a shard will be needed soon."""
        if shard not in self._recent:
            self._recent.append(shard)
            self._waiting.put(shard)

    def _work(self) -> None:
        while True:
            try:
                self._fetch(self._waiting.get())
            except DataError:  # who needs the shard will meet it too, and says so where it stops the run
                continue
