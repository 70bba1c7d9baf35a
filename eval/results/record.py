"""The record of a score: one type for every protocol, one writer, one reader.

A file holds one record as a JSON object, or several as a list. `format` counts the changes of its keys: this
version writes FORMAT, and reads every earlier one (`ajepa.eval.results.first_format`). A new field needs a
default, so that older files can still be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ajepa.errors import AjepaError
from ajepa.files import write_json
from ajepa.recipes.stored import StoredError, from_plain

from .first_format import converted

FORMAT = 3


class RecordError(AjepaError, ValueError):
    """A file has no records that this version can read; the message names the file."""


@dataclass(frozen=True)
class Difference:
    """How far a score is above a baseline's.

    Attributes:
        by: what the baseline is, "model" or "protocol".
        name: the baseline's name.
        difference: score minus the baseline's score.
        interval: 95 % interval of the difference.
        p: two-sided p-value of "no difference".
        method: how both were resampled.
    """

    by: str
    name: str
    difference: float
    interval: tuple[float, float]
    p: float
    method: str


@dataclass(frozen=True)
class Corrupted:
    """The score of the same probe on corrupted test clips.

    Attributes:
        corruption: as `ajepa.eval.robustness.corruptions.parse` reads it, such as noise:10dB.
        score: of the corrupted clips.
        loss: the score of the clean clips minus this one.
        interval: 95 % interval of the score; None if no draws were kept.
        loss_interval: 95 % interval of the loss, from the same draws of clips; None in this case too.
    """

    corruption: str
    score: float
    loss: float
    interval: tuple[float, float] | None = None
    loss_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class NoiseArea:
    """The mean score over signal-to-noise ratios, by the trapezoid rule from the lowest to the highest.

    Attributes:
        low_db, high_db: the lowest and highest ratio.
        score: the area under the curve, divided by its width.
        interval: its 95 % interval; None if no draws were kept.
    """

    low_db: float
    high_db: float
    score: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class PretrainingRun:
    """One seed of a model that was pre-trained for a comparison, and its score.

    Attributes:
        seed: seed of the pre-training.
        score: score with this run's weights.
        run: name of the run's folder.
        steps, clips, seconds: the cost of its training.
        weights: fingerprint of its weights.
        by_seed, chosen: as in `Record`, for this run alone.
    """

    seed: int
    score: float
    run: str
    steps: int | None = None
    clips: int | None = None
    seconds: float | None = None
    weights: str | None = None
    by_seed: tuple[float, ...] = ()
    chosen: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Record:
    """The score of one model on one task by one protocol.

    Attributes:
        model: the model's name in tables.
        source: what it was opened from; for models with `pretraining`, the recipe.
        task: the task's name.
        protocol: the protocol's name; a comparison chooses it.
        protocol_kind: linear, knn, finetune, events, verify, hear, s3prl, xares, or a protocol of another
            package.
        metric: for example accuracy or mAP.
        score: from 0 to 1, for an EER the lower the better; the mean over seeds and test splits.
        interval: 95 % interval of the score; None where the protocol gives no answers to draw from.
        interval_method: how the interval was drawn; empty without one.
        spread: standard deviation over pre-trainings, else seeds, else test splits; None for only one.
        folds: score of each test split.
        seeds: seeds of the head or of fine-tuning; empty if nothing is random.
        by_seed: score of each seed.
        chosen: what validation chose, for each test split or seed: `split`, `seed` and the choice.
        layer: the layer whose features are scored: last, a number from 1, best, weighted, learned sum.
        clips: number of clips; clips_by_split: number in each split; classes: number of labels.
        seconds: time that the probe, training or toolkit took.
        clips_per_s: clips embedded or trained on per second.
        weights: fingerprint of the model; None if it has none, or has one for each run of `pretraining`.
        task_hash: fingerprint of what was scored.
        versions: versions of packages, and this package's git commit.
        hardware, threads: where the score was computed.
        notes: differences from the published task or protocol.
        pretraining: for a model that a comparison pre-trains, its runs, one per seed.
        baseline: the difference from the baseline, if there is one.
        corrupted: scores of corrupted test clips, if requested.
        noise_area: the area under the curve over noise, if there are two or more ratios.
        published_as: the published set that the data match completely; empty if they do not.
        answers, features: files of `ajepa.eval.results.kept`, relative to the record's folder; one for each
            run of `pretraining`.
        details: settings and findings of this protocol alone.
    """

    model: str
    source: str
    task: str
    protocol: str
    protocol_kind: str
    metric: str
    score: float
    interval: tuple[float, float] | None = None
    interval_method: str = ""
    spread: float | None = None
    folds: Mapping[str, float] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    by_seed: tuple[float, ...] = ()
    chosen: tuple[Mapping[str, Any], ...] = ()
    layer: str = "last"
    clips: int | None = None
    clips_by_split: Mapping[str, int] = field(default_factory=dict)
    classes: int | None = None
    seconds: float | None = None
    clips_per_s: float | None = None
    weights: str | None = None
    task_hash: str | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    hardware: str | None = None
    threads: int | None = None
    notes: tuple[str, ...] = ()
    pretraining: tuple[PretrainingRun, ...] = ()
    baseline: Difference | None = None
    corrupted: tuple[Corrupted, ...] = ()
    noise_area: NoiseArea | None = None
    published_as: str = ""
    answers: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The record as it is written."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """A record that this version or an earlier one wrote.

        Raises:
            RecordError: the format is newer, a key is unknown, or one is missing.
        """
        found = content.get("format", 1)
        if type(found) is not int or found not in range(1, FORMAT + 1):
            raise RecordError(f"format is {found!r}; this version reads up to {FORMAT}: update ajepa")
        try:
            given = dict(converted(content) if found == 1 else content)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RecordError(f"not a record of version 0.3 or before ({reason})") from error
        given.pop("format", None)
        try:
            return from_plain(cls, given)
        except StoredError as error:
            raise RecordError(str(error)) from error


def write_records(path: Path, records: Sequence[Record], *, single: bool = False) -> None:
    """Write a list, or with `single` one record as an object. The file appears complete or not at all."""
    content = [record.as_json() for record in records]
    write_json(path, content[0] if single and len(content) == 1 else content)


def read_records(path: str | Path) -> list[Record]:
    """The records of a file.

    Raises:
        RecordError: the file is missing, is not JSON, or has no records.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not a file of records ({error})") from error
    listed = content if isinstance(content, list) else [content]
    if not all(isinstance(one, dict) for one in listed):
        raise RecordError(f"{path}: expected a record, or a list of records")
    try:
        return [Record.from_json(one) for one in listed]
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
