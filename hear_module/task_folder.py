"""A HEAR task folder, as `heareval` reads it:

    <out>/<task_name>-<version>-<mode>/
        task_metadata.json              what kind of task, which splits, which scores
        labelvocabulary.csv             idx,label
        <split>.json                    {"clip.wav": ["label"]}
        <sample_rate>/<split>/clip.wav  mono 16-bit PCM, all of `sample_duration` seconds

Sources: the folder as `heareval` 2021.1.3 reads it (embeddings/task_embeddings.py, predictions/
task_predictions.py, score.py); padding and cutting at the end, and unique file stems, as in `hearpreprocess`
(pipeline.py, util/audio.py), github.com/hearbenchmark.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from ajepa import audio
from ajepa.data.tables import TaskError, listed, note
from ajepa.files import folder_in_place_of

TRAINVALTEST = ("train", "valid", "test")
ALL_SCORES = ("top1_acc", "mAP", "d_prime", "aucroc")
# heareval reads the vocabulary with pandas.read_csv, which turns these into missing values.
PANDAS_NA = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
PANDAS_NA |= {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}


@dataclass(frozen=True)
class Clip:
    """One clip of a task: `seconds` of `path` from `start` on (None: to the end), and its stem there."""

    path: Path
    split: str
    labels: tuple[str, ...]
    stem: str
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class Task:
    """A task before its audio is written. `sample_duration` None keeps each clip's own length."""

    name: str
    version: str
    mode: str
    split_mode: str  # presplit_kfold or trainvaltest
    splits: tuple[str, ...]
    sample_duration: float | None
    clips: list[Clip] = field(repr=False)
    prediction_type: str = "multiclass"
    evaluation: tuple[str, ...] = ALL_SCORES

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.version}-{self.mode}"


def write_task(task: Task, out: str | Path, sample_rate: int, force: bool) -> Path:
    """Checks `task` and writes its folder, which appears whole or not at all; returns the folder."""
    if not re.fullmatch(r"[\w.-]+", task.folder_name) or task.folder_name.startswith("."):
        raise TaskError(f"task name {task.folder_name!r}: use letters, digits, '_', '-' and '.'")
    if sample_rate < 1:
        raise TaskError(f"sample rate {sample_rate}: give a number of Hz, such as 16000")
    target = Path(out) / task.folder_name
    _check_target(target, force)
    clips = _unique_stems(task.clips)
    vocabulary = sorted({label for clip in clips for label in clip.labels})
    _check_labels(vocabulary)
    evaluation = _check_splits(task, clips, vocabulary)

    with folder_in_place_of(target) as partial:
        for split in task.splits:
            (partial / str(sample_rate) / split).mkdir(parents=True)
        for clip in tqdm(clips, desc=task.folder_name, unit="clip", disable=None):
            wav = partial / str(sample_rate) / clip.split / f"{clip.stem}.wav"
            _write_clip(clip, wav, task.sample_duration, sample_rate)
        for split in task.splits:
            labels = {f"{clip.stem}.wav": list(clip.labels) for clip in clips if clip.split == split}
            _write_json(partial / f"{split}.json", labels)
        with (partial / "labelvocabulary.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("idx", "label"), *enumerate(vocabulary)])
        metadata: dict[str, Any] = {
            "task_name": task.name,
            "version": task.version,
            "mode": task.mode,
            "embedding_type": "scene",
            "prediction_type": task.prediction_type,
            "split_mode": task.split_mode,
            "splits": task.splits,
            "sample_duration": task.sample_duration,
            "evaluation": evaluation,
            "clips": Counter(clip.split for clip in clips),
        }
        if task.split_mode != "trainvaltest":
            metadata["nfolds"] = len(task.splits)
        _write_json(partial / "task_metadata.json", metadata)
    return target


def _check_target(target: Path, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / "task_metadata.json").is_file():
        raise TaskError(f"{target}: exists and is not a task folder; move it away or choose another --out")
    if not force:
        raise TaskError(f"{target}: exists; pass force to replace it")


def _check_labels(vocabulary: Sequence[str]) -> None:
    """Refuse labels that heareval would read back changed, since it reads the vocabulary with pandas."""
    if not vocabulary:
        raise TaskError("no clip has a label; check the label column")
    lost = [label for label in vocabulary if label in PANDAS_NA or label != label.strip() or "\n" in label]
    if all(_is_number(label) for label in vocabulary):
        lost += [label for label in vocabulary if not re.fullmatch(r"-?[1-9]\d{0,17}|0", label)]
    elif {label.lower() for label in vocabulary} <= {"true", "false"}:
        lost += [label for label in vocabulary if label not in ("True", "False")]
    if lost:
        raise TaskError(f"labels {listed(lost)} would be changed by heareval's CSV reader; rename them")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_splits(task: Task, clips: list[Clip], vocabulary: list[str]) -> tuple[str, ...]:
    """The scores that are defined, after checking that every split has clips."""
    by_split: dict[str, set[str]] = {split: set() for split in task.splits}
    for clip in clips:
        by_split[clip.split].update(clip.labels)
    counts = Counter(clip.split for clip in clips)
    if empty := [split for split in task.splits if not counts[split]]:
        raise TaskError(f"{task.name}: no clips in {listed(empty)}; every split needs at least one")
    if len(task.splits) < 3:
        raise TaskError(f"{task.name}: {len(task.splits)} folds; heareval needs 3 (train, valid, test)")
    gaps = {split: sorted(set(vocabulary) - labels) for split, labels in by_split.items()}
    if not any(gaps.values()):
        return task.evaluation
    for split, labels in gaps.items():
        if labels:
            note(f"{split} has no clip of {listed(labels)}.")
    # The other scores average over classes and are undefined for a class without positives.
    return task.evaluation[:1]


def _unique_stems(clips: list[Clip]) -> list[Clip]:
    """The clips with stems that differ even if case is ignored; repeated stems get a number."""
    taken: set[str] = set()
    unique = []
    for clip in clips:
        stem, number = clip.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{clip.stem}-{number}"
        taken.add(stem.lower())
        unique.append(replace(clip, stem=stem))
    return unique


def file_stem(name: str) -> str:
    """A file stem from a relative path: its folders joined by '_', safe for shells and file systems.

    Only the last 150 characters: heareval appends `.wav.target-labels.json`, and names are limited to 255.
    """
    parts = Path(name).with_suffix("").parts
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))[-150:].lstrip(".") or "clip"


def _write_clip(clip: Clip, wav: Path, seconds: float | None, sample_rate: int) -> None:
    length = min((given for given in (seconds, clip.seconds) if given is not None), default=None)
    wave = audio.load(clip.path, start=clip.start, seconds=length, sample_rate=sample_rate).numpy()
    if seconds is not None:
        samples = round(seconds * sample_rate)
        wave = np.pad(wave[:samples], (0, max(0, samples - len(wave))))
    # Decoders divide by 2^15: 16-bit audio at this rate stays unchanged.
    pcm = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(os.fsencode(wav), pcm, sample_rate, subtype="PCM_16")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
