"""Events in recordings: targets of frames, events from probabilities, and their scores.

As the HEAR toolkit does for its tasks of events (github.com/hearbenchmark/hear-eval-kit): probabilities every
50 ms are smoothed by a median filter, what is above a threshold without a break is an event, and short events
are dropped. The scores are sed_eval's (A. Mesaros et al., Applied Sciences 2016).

Shape suffixes: R recordings, L frames, K times, C classes.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ajepa.eval.models.frames import frames_at

GRID_SECONDS = 0.05  # of the probabilities from which events are made
# Of settings that do equally well the first is taken: the toolkit's own, then what is near.
THRESHOLDS = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9)
MEDIAN_SECONDS = (0.25, 0.15, 0.45, 0.0)
LEAST_SECONDS = (0.125, 0.25, 0.0)


class Event(NamedTuple):
    """A sound in a recording: its class's number, and when it begins and ends, in seconds."""

    label: int
    onset: float
    offset: float


class Settings(NamedTuple):
    """How events are made: the threshold, the median filter's width, and the shortest event, in seconds."""

    threshold: float
    median: float
    least: float


def frame_targets(
    events: Sequence[Event], frames: int, first: float, step: float, classes: int
) -> np.ndarray:
    """The share of each frame's own stretch in which a class sounds, [L, C] float32.

    A frame's stretch is one step long, with the frame in its middle.
    """
    target_LC = np.zeros((frames, classes), dtype=np.float32)
    begins_L = first + step * (np.arange(frames) - 0.5)
    for event in events:
        covered_L = np.minimum(begins_L + step, event.offset) - np.maximum(begins_L, event.onset)
        target_LC[:, event.label] += np.clip(covered_L / step, 0, 1).astype(np.float32)
    return target_LC.clip(max=1)


def probabilities(logits_LC: Tensor, seconds: float, first: float, step: float) -> np.ndarray:
    """Probabilities [K, C] in the middle of each 50 ms of a recording, from its frames' logits."""
    times_K = GRID_SECONDS * (torch.arange(max(1, int(seconds / GRID_SECONDS + 1e-6))) + 0.5)
    return torch.sigmoid(frames_at(logits_LC[None], times_K, first, step)[0]).numpy()


def smoothed(chance_KC: np.ndarray, seconds: float) -> np.ndarray:
    """Each class's median over an odd number of times, about this long."""
    width = 2 * round(seconds / GRID_SECONDS / 2 - 0.5) + 1
    padded_KC = np.pad(chance_KC, ((width // 2, width // 2), (0, 0)), mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded_KC, width, axis=0), axis=-1)


def events_above(chance_KC: np.ndarray, threshold: float, least: float) -> list[Event]:
    """The stretches above a threshold that last at least so long, by class and onset."""
    above_KC = np.pad(chance_KC > threshold, ((1, 1), (0, 0))).astype(np.int8)
    change_KC = np.diff(above_KC, axis=0)
    events = []
    for label in range(chance_KC.shape[1]):
        starts, stops = np.flatnonzero(change_KC[:, label] > 0), np.flatnonzero(change_KC[:, label] < 0)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if (stop - start) * GRID_SECONDS >= least - 1e-9:
                events.append(Event(label, start * GRID_SECONDS, stop * GRID_SECONDS))
    return events


def choose(
    chances: Sequence[np.ndarray], truths: Sequence[Sequence[Event]], collar: float
) -> tuple[Settings, float]:
    """The settings with the best onset F-measure over recordings, and that F; of equals the first."""
    tried: dict[Settings, float] = {}
    for median in MEDIAN_SECONDS:
        smooth = [smoothed(chance_KC, median) for chance_KC in chances]
        for threshold, least in itertools.product(THRESHOLDS, LEAST_SECONDS):
            found = [events_above(chance_KC, threshold, least) for chance_KC in smooth]
            hits = sum(onset_hits(*pair, collar) for pair in zip(truths, found, strict=True))
            tried[Settings(threshold, median, least)] = f_measure(hits, _total(truths), _total(found))
    best = max(tried, key=lambda one: tried[one])
    return best, tried[best]


def onset_hits(truth: Sequence[Event], found: Sequence[Event], collar: float) -> int:
    """The most pairs of a true and a found event of one class whose onsets differ by at most `collar`.

    Onsets in order are paired from the first on, which is optimal for intervals of one length. sed_eval gives
    the same number, by a search that takes a hundred times as long.
    """
    hits = 0
    for label in {event.label for event in truth}:
        true, other = (sorted(one.onset for one in events if one.label == label) for events in (truth, found))
        place = 0
        for onset in true:
            while place < len(other) and onset - other[place] > collar:
                place += 1
            if place < len(other) and abs(onset - other[place]) <= collar:
                hits, place = hits + 1, place + 1
    return hits


def f_measure(hits: float, true: float, found: float) -> float:
    """The harmonic mean of precision and recall; 1 where there is nothing to find and nothing is found."""
    return 2 * hits / (true + found) if true + found else 1.0


def _total(events: Sequence[Sequence[Event]]) -> int:
    return sum(map(len, events))


class EventScores(NamedTuple):
    """Counts of sed_eval for each recording.

    Attributes:
        onset_R3, segment_R3: of events by their onsets and of segments of 1 s: hits, true, found; float64.
        by_class_C3: the counts by onsets of each class, over all recordings.
    """

    onset_R3: Tensor
    segment_R3: Tensor
    by_class_C3: Tensor


def score_events(
    truths: Sequence[Sequence[Event]], found: Sequence[Sequence[Event]], classes: Sequence[str], collar: float
) -> EventScores:
    """The counts from which F-measures are computed, by sed_eval.

    Raises ImportError without sed_eval.
    """
    with warnings.catch_warnings():  # of pkg_resources
        warnings.simplefilter("ignore")
        from sed_eval.sound_event import EventBasedMetrics, SegmentBasedMetrics
    onset_R3, segment_R3 = (torch.zeros(len(truths), 3, dtype=torch.float64) for _ in range(2))
    by_class_C3 = torch.zeros(len(classes), 3, dtype=torch.float64)
    names = [str(number) for number in range(len(classes))]
    for row, (truth, events) in enumerate(zip(truths, found, strict=True)):
        if not truth and not events:
            continue
        onset: Any = EventBasedMetrics(names, evaluate_onset=True, evaluate_offset=False, t_collar=collar)
        segment: Any = SegmentBasedMetrics(names, time_resolution=1.0)
        for metric, counts_R3 in ((onset, onset_R3), (segment, segment_R3)):
            metric.evaluate(_listed(truth), _listed(events))
            counts_R3[row] = torch.tensor([float(metric.overall[name]) for name in ("Ntp", "Nref", "Nsys")])
        for number, name in enumerate(names):
            own = onset.class_wise[name]
            by_class_C3[number] += torch.tensor([float(own[key]) for key in ("Ntp", "Nref", "Nsys")])
    return EventScores(onset_R3, segment_R3, by_class_C3)


def _listed(events: Sequence[Event]) -> Any:
    from dcase_util.containers import MetaDataContainer

    return MetaDataContainer(
        [
            {"event_label": str(label), "event_onset": onset, "event_offset": offset, "file": "recording.wav"}
            for label, onset, offset in events
        ]
    )
