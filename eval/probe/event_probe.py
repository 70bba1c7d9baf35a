"""A linear layer on frames: fitted on training recordings, chosen on validation, scored on test recordings.

Shape suffixes: R recordings, L frames, V penalties, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ajepa.eval.tasks import Clip, Round, Task, TaskError
from ajepa.eval.tasks.reading import clip_seconds

from .events import (
    Event,
    EventScores,
    Settings,
    choose,
    events_above,
    frame_targets,
    probabilities,
    score_events,
    smoothed,
)
from .frames import RecordingFrames
from .probes import PROBES

PROBE = PROBES["linear"]


class Recording(NamedTuple):
    """A recording: its whole file as a clip, and its events."""

    clip: Clip
    events: tuple[Event, ...]


def recordings_of(task: Task) -> list[Recording]:
    """The recordings of a task, in the order of their first clips.

    Raises TaskError for clips that are whole files with labels, and for a recording in two splits.
    """
    if all(clip.start == 0 and clip.seconds is None for clip in task.clips):
        raise TaskError(
            f"{task.name}: its clips are whole files, not events; give a table with the columns start and "
            "end, or label tracks"
        )
    number = {label: index for index, label in enumerate(task.classes)}
    found: dict[str, Recording] = {}
    for clip in task.clips:
        whole = clip._replace(labels=(), start=0.0, seconds=None)
        recording = found.get(clip.name, Recording(whole, ()))
        if recording.clip.split != clip.split:
            raise TaskError(
                f"{task.name}: events of {clip.name} are in {recording.clip.split} and in {clip.split}; keep "
                "a recording in one split"
            )
        end = clip.start + clip_seconds(clip) if clip.labels else 0.0
        events = tuple(Event(number[label], clip.start, end) for label in clip.labels)
        found[clip.name] = recording._replace(events=(*recording.events, *events))
    return list(found.values())


class Fitted(NamedTuple):
    """What a round gave: its test recordings, their scores, and what validation chose."""

    rows: list[int]
    scores: EventScores
    chosen: dict[str, Any]


class EventProbe:
    """The rounds of a task. Folds that validate each other share the fits that choose."""

    def __init__(
        self, task: Task, recordings: Sequence[Recording], frames: RecordingFrames, collar: float
    ) -> None:
        self.task, self.frames, self.collar = task, frames, collar
        self.truths = [recording.events for recording in recordings]
        self.splits = [recording.clip.split for recording in recordings]
        first, step, classes = frames.first_seconds, frames.step_seconds, len(task.classes)
        counts = frames.counts_R.tolist()
        self.targets = [
            torch.from_numpy(frame_targets(events, count, first, step, classes))
            for events, count in zip(self.truths, counts, strict=True)
        ]
        self.parts = frames.values_LD.split(counts)
        self._tried: dict[tuple[frozenset[str], str], list[Tensor]] = {}

    def run(self, one: Round) -> Fitted:
        """Choose on validation, then score the test split."""
        inner = [(row, logits) for pair in one.inner for row, logits in self._validated(*pair)]
        losses_V = torch.stack([self._losses(row, logits_VLC) for row, logits_VLC in inner]).sum(0)
        best = int(losses_V.argmin())
        rows = [row for row, _ in inner]
        settings, validation = choose(
            [self._probabilities(row, logits_VLC[best]) for row, logits_VLC in inner],
            [self.truths[row] for row in rows],
            self.collar,
        )
        tested = self._rows([one.test])
        logits = self._fitted(one.train, tested, [PROBE.values[best]], final=True)
        found = [
            self._events(row, logits_VLC[0], settings) for row, logits_VLC in zip(tested, logits, strict=True)
        ]
        truths = [self.truths[row] for row in tested]
        chosen = {
            "split": one.test,
            PROBE.parameter: PROBE.values[best],
            "threshold": settings.threshold,
            "median_seconds": settings.median,
            "least_seconds": settings.least,
            "validation": validation,
            "at_the_end_of_the_grid": best in (0, len(PROBE.values) - 1),
        }
        return Fitted(tested, score_events(truths, found, self.task.classes, self.collar), chosen)

    def _rows(self, splits: Sequence[str] | frozenset[str]) -> list[int]:
        return [row for row, split in enumerate(self.splits) if split in splits]

    def _validated(self, train: frozenset[str], valid: str) -> list[tuple[int, Tensor]]:
        """Recordings of a split with their logits [V, L, C] by fits to others."""
        rows = self._rows([valid])
        if (train, valid) not in self._tried:
            self._tried[train, valid] = self._fitted(train, rows, PROBE.values, final=False)
        return list(zip(rows, self._tried[train, valid], strict=True))

    def _fitted(
        self, train: frozenset[str], rows: Sequence[int], values: Sequence[float], final: bool
    ) -> list[Tensor]:
        """Logits [V, L, C] of recordings, by a layer that is fitted to those of other splits."""
        trained = self._rows(train)
        logits_VLC = PROBE.scores(
            torch.cat([self.parts[row] for row in trained]),
            torch.cat([self.targets[row] for row in trained]),
            torch.cat([self.parts[row] for row in rows]),
            values,
            len(self.task.classes),
            final,
        )
        return list(logits_VLC.split([len(self.parts[row]) for row in rows], dim=1))

    def _losses(self, row: int, logits_VLC: Tensor) -> Tensor:
        """The loss of a recording's frames, summed, for each penalty [V]."""
        target_VLC = self.targets[row].expand_as(logits_VLC)
        loss_VLC = functional.binary_cross_entropy_with_logits(logits_VLC, target_VLC, reduction="none")
        return loss_VLC.double().sum((1, 2))

    def _probabilities(self, row: int, logits_LC: Tensor) -> np.ndarray:
        seconds = float(self.frames.seconds_R[row])
        return probabilities(logits_LC, seconds, self.frames.first_seconds, self.frames.step_seconds)

    def _events(self, row: int, logits_LC: Tensor, settings: Settings) -> list[Event]:
        chance_KC = smoothed(self._probabilities(row, logits_LC), settings.median)
        return events_above(chance_KC, settings.threshold, settings.least)
