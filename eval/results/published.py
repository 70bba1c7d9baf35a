"""Published scores, to list next to ours where the task is the same and the protocol is of the same kind.

These use a frozen encoder and a linear layer, the protocol of EVAR (github.com/nttcslab/eval-audio-repr, its
README): features standardised on the training split, early stopping on validation. Ours is a convex fit with
its penalty chosen on validation. Only complete data sets are comparable.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A published score, 0 to 1."""

    model: str
    score: float
    source: str


EVAR = "EVAR's README"
TASKS = ("esc50", "speech_commands_v2", "voxceleb1")
SCORES = {
    "M2D": (0.913, 0.960, 0.734),
    "ATST-Frame": (0.909, 0.949, 0.774),
    "Dasheng 1.2B": (0.888, 0.976, 0.778),
    "BEATs iter3": (0.869, 0.894, 0.414),
    "EAT-B": (0.856, 0.815, 0.396),
    "wav2vec 2.0 (context)": (0.576, 0.966, 0.409),
}


def published(task: str, protocol: str) -> list[Published]:
    """Published scores for a task, by the name of its complete data set, and a protocol."""
    if protocol != "linear" or task not in TASKS:
        return []
    place = TASKS.index(task)
    return [Published(model, scores[place], EVAR) for model, scores in SCORES.items()]
