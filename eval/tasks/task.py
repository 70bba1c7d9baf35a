"""A task: clips with labels and splits, and the rounds of training and testing that follow from them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ajepa.audio.source import AudioBytes, AudioSource
from ajepa.data.tables import TaskError, listed
from ajepa.eval.digest import digest

__all__ = ["SPLITS", "Clip", "Round", "Task", "TaskError"]

SPLITS = ("train", "valid", "test")


class Clip(NamedTuple):
    """A labelled clip.

    Attributes:
        path: its file.
        labels: one label, or any number in a multilabel task.
        split: train, valid or test; with folds, the fold's name.
        group: what it shares with other clips (recording, speaker). Clips of a group are resampled together
            when an interval is drawn. Empty: the clip is independent.
        start: where it begins in the file, in seconds.
        seconds: its length; None is the rest of the file.
        inside: its audio, if the file holds that of many clips.
    """

    path: Path
    labels: tuple[str, ...]
    split: str
    group: str = ""
    start: float = 0.0
    seconds: float | None = None
    inside: AudioBytes | None = None

    @property
    def name(self) -> str:
        """The absolute path of its file; for audio within a file, the name that it has there."""
        return str(self.path.resolve()) if self.inside is None else self.inside.name

    @property
    def source(self) -> AudioSource:
        """What is decoded. Audio within a file is a new object each time, because it keeps what it read."""
        return self.path if self.inside is None else dataclasses.replace(self.inside)


def check_once(clips: Iterable[Clip], table: Path) -> None:
    """Raises TaskError if two clips use the same file: one might be trained on and the other tested."""
    counts = Counter(clip.path for clip in clips)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise TaskError(f"{table}: {listed(twice)} is listed twice; join the rows or remove one")


def per_split(clips: Iterable[Clip]) -> tuple[int, ...]:
    """Number of clips in each of SPLITS."""
    counts = Counter(clip.split for clip in clips)
    return tuple(counts[split] for split in SPLITS)


def slashed(counts: Iterable[int]) -> str:
    """Numbers as in "1,000 / 200 / 300"."""
    return " / ".join(f"{count:,}" for count in counts)


class Round(NamedTuple):
    """One test split, the splits to train on for it, and those that choose its hyper-parameters.

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
        name: its name in records.
        clips: in a fixed order.
        folds: cross-validation over the clips' splits; otherwise train, valid and test.
        multilabel: scored by mAP; otherwise by accuracy.
        refit: the set has no validation split of its own. `valid`, a part of its training clips, makes the
            choices, and the scored model is then trained on both.
        notes: where the data differ, or may differ, from the published set; empty means comparable scores.

    Raises TaskError for splits without clips (in a multilabel task, without labels), fewer than three folds
    or fewer than two classes.
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
            raise TaskError(f"{self.name}: {len(counts)} folds; training, validation and test need 3 or more")
        if not self.folds and (empty := [split for split in SPLITS if not counts[split]]):
            raise TaskError(f"{self.name}: no clips in {listed(empty)}; add clips to every split")
        if len(self.classes) < 2:
            raise TaskError(f"{self.name}: clips of {len(self.classes)} class; a task needs at least two")
        if bare := sorted(set(counts) - {clip.split for clip in self.clips if clip.labels}):
            raise TaskError(
                f"{self.name}: no clip in {listed(bare)} has a label; mAP needs labels in each split"
            )

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of clips in each split."""
        return Counter(clip.split for clip in self.clips)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted(set(chain.from_iterable({clip.labels for clip in self.clips}))))

    @cached_property
    def test_clips(self) -> tuple[int, ...]:
        """Indices of the clips that some round scores."""
        tests = {one.test for one in self.rounds()}
        return tuple(place for place, clip in enumerate(self.clips) if clip.split in tests)

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return "mAP" if self.multilabel else "accuracy"

    def rounds(self) -> list[Round]:
        """With folds, one round per fold: the other folds train its model, and validate each other to choose.

        For the choice, each of the other folds is scored in turn by a model trained on the remaining ones;
        the test fold takes no part. Without folds: trained on train, chosen on valid, scored on test; with
        `refit`, trained on train and valid for the score.
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
        """Class numbers, int64 [clips]; for a multilabel task 0 or 1, float32 [clips, classes]."""
        number = {label: index for index, label in enumerate(self.classes)}
        if not self.multilabel:
            return np.array([number[clip.labels[0]] for clip in self.clips])
        rows, columns = self.label_pairs()
        target_NC = np.zeros((len(self.clips), len(number)), dtype=np.float32)
        target_NC[rows, columns] = 1
        return target_NC

    def label_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(clip number, class number) for each label of each clip, clips ascending: int64, int64.

        Takes 16 bytes per label, where `target` takes 4 bytes per clip and class: 0.06 GB instead of 4 for
        AudioSet's two million clips.
        """
        number = {label: index for index, label in enumerate(self.classes)}
        sizes = np.fromiter((len(clip.labels) for clip in self.clips), np.int64, len(self.clips))
        columns = np.fromiter(
            (number[label] for clip in self.clips for label in clip.labels), np.int64, int(sizes.sum())
        )
        return np.repeat(np.arange(len(self.clips)), sizes), columns

    def fingerprint(self, dates: bool = False) -> str:
        """Hash of what is scored, the same on every machine: each clip's file name, size, stretch, labels and
        split. With `dates` it includes the modification times, so that replacing a file changes it."""

        def line(clip: Clip) -> str:
            name, state = "/".join(clip.path.parts[-3:]), clip.path.stat()
            size = state.st_size
            if clip.inside is not None:
                name, size = clip.inside.name, clip.inside.size
            entry = (name, size, clip.labels, clip.split, clip.start, clip.seconds)
            return f"{entry}{state.st_mtime_ns if dates else ''}\n"

        return digest(chain([f"{self.folds} {self.multilabel}\n"], map(line, self.clips)))
