"""How long clips are, and what follows from it: how often each is drawn in an epoch.

An epoch hears hours, not files: a clip is drawn as often as a segment fits into it, rounded to the nearest
whole number (halves up), and at least once. Each draw is a crop at a random place.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ajepa import files
from ajepa.audio import AudioError, seconds_of
from ajepa.audio.errors import LONGEST_SECONDS

from .clips import Clips
from .threads import in_order

THREADS = 8  # reading headers waits for the disk


@dataclass(frozen=True)
class TrainingSet:
    """A set of clips, and the draws of an epoch.

    Attributes:
        seconds: of each clip, NaN where that is not known; None where nobody asked.
        repeats: how often each clip is drawn in an epoch; None: once.
    """

    clips: Clips
    seconds: np.ndarray | None = None
    repeats: np.ndarray | None = None

    @property
    def draws(self) -> int:
        """Draws of an epoch."""
        return len(self.clips) if self.repeats is None else int(self.repeats.sum())


def draws_of(seconds: np.ndarray, segment: float) -> np.ndarray:
    """How often clips of these lengths are drawn in an epoch: int64, at least 1; unknown lengths are NaN."""
    times = np.floor(np.minimum(np.nan_to_num(seconds), LONGEST_SECONDS) / segment + 0.5)
    return np.maximum(times, 1).astype(np.int64)


def clip_seconds(
    clips: Clips, kept: np.ndarray | None = None, report: Callable[[int], object] = lambda clips: None
) -> np.ndarray:
    """The length of every clip in seconds: as manifests and indexes say, else as the files' headers do.

    NaN for a file that cannot be read.

    Args:
        kept: of `kept_seconds`: then no header is read.
        report: called with 1 after each header.
    """
    seconds = np.array(clips.seconds(), dtype=np.float64)
    unknown = np.flatnonzero(np.isnan(seconds))
    if not len(unknown):
        return seconds
    if kept is not None:
        return kept

    def length(number: int) -> float:
        clip = clips.clip(number)
        try:
            return max(0.0, seconds_of(clip.audio) - clip.start)
        except AudioError:
            return float("nan")

    with closing(in_order(length, unknown.tolist(), THREADS)) as lengths:
        for number, found in zip(unknown, lengths, strict=True):
            seconds[number] = found
            report(1)
    return seconds


def keep_seconds(path: Path, sha256: str, seconds: np.ndarray) -> None:
    """Keep the lengths of a set with this fingerprint: a large folder's headers take minutes to read."""
    with files.in_place_of(path, "npz") as partial:
        content: dict[str, Any] = {"sha256": np.array(sha256), "seconds": seconds}
        np.savez(partial, **content)


def kept_seconds(path: Path, sha256: str, clips: int) -> np.ndarray | None:
    """What `keep_seconds` kept; None if it is of other data, or unreadable."""
    try:
        with np.load(path, allow_pickle=False) as found:
            seconds = found["seconds"]
            if str(found["sha256"]) == sha256 and seconds.shape == (clips,) and seconds.dtype == np.float64:
                return seconds
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    return None
