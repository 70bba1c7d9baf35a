"""What a task is: clips with labels and splits, and the rounds of training and testing that follow."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ajepa.data.tables import TaskError, listed

__all__ = ["SPLITS", "Clip", "Round", "Task", "TaskError"]

SPLITS = ("train", "valid", "test")


class Clip(NamedTuple):
    """A labelled clip.

    Attributes:
        path: its file.
        labels: one, or with a multilabel task any number.
        split: train, valid or test; with folds, the fold's name.
        group: what it shares with other clips (recording, speaker): those are resampled together when an
            interval is drawn. Empty: the clip stands alone.
        start: where it begins in the file, seconds.
        seconds: its length; None is the rest of the file.
    """

    path: Path
    labels: tuple[str, ...]
    split: str
    group: str = ""
    start: float = 0.0
    seconds: float | None = None


def check_once(clips: Iterable[Clip], table: Path) -> None:
    """Raises TaskError for a file that has several clips: it might be trained on and tested."""
    counts = Counter(clip.path for clip in clips)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise TaskError(f"{table}: {listed(twice)} is listed twice; join the rows or remove one")


class Round(NamedTuple):
    """One test split, what is trained for it, and what chooses its hyper-parameters.

    Attributes:
        test: the split that is scored.
        train: the splits that the scored model is trained on.
        inner: pairs of (splits to train on, split to validate on); `test` is in none of them.
    """

    test: str
    train: frozenset[str]
    inner: tuple[tuple[frozenset[str], str], ...]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as records call it.
        clips: in a fixed order.
        folds: cross-validation over the clips' splits; else train, valid and test.
        multilabel: scored by mAP; else by accuracy.
        refit: the set has no validation split of its own: what `valid`, a part of its training clips, has
            chosen is trained on both before it is scored.
        notes: where the data differ from the published set, or may; empty means that scores are comparable.

    Raises TaskError for splits without clips or, of a multilabel task, without labels, fewer than three folds
    and fewer than two classes.
    """

    name: str
    clips: tuple[Clip, ...] = field(repr=False)
    folds: bool
    multilabel: bool = False
    notes: tuple[str, ...] = ()
    refit: bool = False

    def __post_init__(self) -> None:
        counts = self.counts
        if self.folds and len(counts) < 3:
            raise TaskError(f"{self.name}: {len(counts)} folds; training, validation and test need 3")
        if not self.folds and (empty := [split for split in SPLITS if not counts[split]]):
            raise TaskError(f"{self.name}: no clips in {listed(empty)}; every split needs some")
        if len(self.classes) < 2:
            raise TaskError(f"{self.name}: clips of {len(self.classes)} class; a task needs at least two")
        if bare := sorted(set(counts) - {clip.split for clip in self.clips if clip.labels}):
            raise TaskError(
                f"{self.name}: no clip in {listed(bare)} has a label; mAP needs some in each split"
            )

    @cached_property
    def counts(self) -> Counter[str]:
        """Clips of each split."""
        return Counter(clip.split for clip in self.clips)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels, sorted."""
        return tuple(sorted(set(chain.from_iterable({clip.labels for clip in self.clips}))))

    @cached_property
    def test_clips(self) -> tuple[int, ...]:
        """Places of the clips that some round scores."""
        tests = {one.test for one in self.rounds()}
        return tuple(place for place, clip in enumerate(self.clips) if clip.split in tests)

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "mAP" if self.multilabel else "accuracy"

    def rounds(self) -> list[Round]:
        """With folds one round each: the other folds train it, and validate each other to choose.

        For the choice, each of the other folds is scored in turn by a model trained on the remaining ones;
        the test fold takes no part. Without folds: trained on train, chosen on valid, scored on test; with
        `refit` trained on train and valid for the score.
        """
        if not self.folds:
            train = frozenset({"train"})
            scored = train | {"valid"} if self.refit else train
            return [Round("test", scored, ((train, "valid"),))]
        folds = sorted(self.counts, key=lambda name: (len(name), name))
        rounds = []
        for test in folds:
            others = frozenset(folds) - {test}
            inner = tuple((others - {valid}, valid) for valid in folds if valid != test)
            rounds.append(Round(test, others, inner))
        return rounds

    def target(self) -> np.ndarray:
        """Class numbers, int64 [clips]; of a multilabel task 0 or 1, float32 [clips, classes]."""
        number = {label: index for index, label in enumerate(self.classes)}
        if not self.multilabel:
            return np.array([number[clip.labels[0]] for clip in self.clips])
        rows, columns = self.label_pairs()
        target_NC = np.zeros((len(self.clips), len(number)), dtype=np.float32)
        target_NC[rows, columns] = 1
        return target_NC

    def label_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(number of a clip, number of a class) for each label of each clip, clips ascending: int64, int64.

        What `target` holds in 4 bytes a clip and class is 16 a label here: of AudioSet's two million clips
        0.06 GB in place of 4.
        """
        number = {label: index for index, label in enumerate(self.classes)}
        sizes = np.fromiter((len(clip.labels) for clip in self.clips), np.int64, len(self.clips))
        columns = np.fromiter(
            (number[label] for clip in self.clips for label in clip.labels), np.int64, int(sizes.sum())
        )
        return np.repeat(np.arange(len(self.clips)), sizes), columns

    def fingerprint(self, dates: bool = False) -> str:
        """Hash of what is scored, the same on every machine: each clip's file name, size, stretch, labels
        and split; with `dates` also when its file was written, which replacing it changes."""
        digest = hashlib.sha256(f"{self.folds} {self.multilabel}\n".encode())
        for clip in self.clips:
            name = "/".join(clip.path.parts[-3:])
            state = clip.path.stat()
            entry = (name, state.st_size, clip.labels, clip.split, clip.start, clip.seconds)
            digest.update(f"{entry}{state.st_mtime_ns if dates else ''}\n".encode())
        return digest.hexdigest()[:16]
