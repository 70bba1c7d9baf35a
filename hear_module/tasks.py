"""HEAR task folders from data sets that people have on disk.

`heareval` reads a folder for each task:

    <out>/<task_name>-<version>-<mode>/
        task_metadata.json              what kind of task, which splits, which scores
        labelvocabulary.csv             idx,label
        <split>.json                    {"clip.wav": ["label"]}
        <sample_rate>/<split>/clip.wav  mono 16-bit PCM, all of `sample_duration` seconds

`from_esc50`, `from_speech_commands` and `from_table` write such folders. Nothing is downloaded.

Sources: the folder as `heareval` 2021.1.3 reads it (embeddings/task_embeddings.py, predictions/
task_predictions.py, score.py); metadata values, fold names, padding at the end and cutting, unique file
stems and the 12-class protocol of Speech Commands as in `hearpreprocess` (pipeline.py, util/audio.py,
speech_commands.py, esc50.py of its secret tasks), github.com/hearbenchmark. Folds are used as they are
given: for fold k, heareval tests on k, validates on the next one and trains on the rest.
"""

from __future__ import annotations

import csv as csv_module
import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus")
SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid"}
SPLIT_NAMES |= {"dev": "valid", "test": "test", "testing": "test", "eval": "test"}
TRAINVALTEST = ("train", "valid", "test")
ALL_SCORES = ("top1_acc", "mAP", "d_prime", "aucroc")
# What pandas.read_csv, with which heareval reads the vocabulary, turns into a missing value.
PANDAS_NA = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
PANDAS_NA |= {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
ESC10_CLASSES = {
    "dog",
    "rooster",
    "rain",
    "sea_waves",
    "crackling_fire",
    "crying_baby",
    "sneezing",
    "clock_tick",
}
ESC10_CLASSES |= {"helicopter", "chainsaw"}
HEAR_WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")


class TaskError(ValueError):
    """The source cannot become a task; the message says what was expected and what to do."""


@dataclass(frozen=True)
class Clip:
    """One clip of a task: a stretch of `path` from `start` (seconds), its split, labels and output stem."""

    path: Path
    split: str
    labels: tuple[str, ...]
    stem: str
    start: float = 0.0


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


def from_esc50(
    source: str | Path,
    out: str | Path,
    *,
    esc10: bool = False,
    csv: str | Path | None = None,
    sample_rate: int = 16000,
    task_name: str | None = None,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Writes the task of an ESC-50 copy (WAV, FLAC or Ogg) and returns its folder.

    `esc10` keeps the clips flagged so. `csv` replaces `meta/esc50.csv`, with the same columns (a relative
    path is looked for in `source` too). The folds are the data set's, which keep the clips of one source
    (`src_file`) together. A complete copy becomes `esc50-v2.0.0-full`, the official name; anything less has
    the mode `partial`, and the counts are printed. Raises `TaskError`.
    """
    source = _existing_folder(source, "an ESC-50 folder with audio/ and meta/esc50.csv")
    table = source / "meta" / "esc50.csv"
    if csv is not None:
        table = source / csv if not Path(csv).is_file() else Path(csv)
    columns = ["filename", "fold", "category", "esc10"] if esc10 else ["filename", "fold", "category"]
    rows = _read_table(table, columns)
    if esc10:
        rows = [row for row in rows if row["esc10"].strip().lower() == "true"]
    folds = [_fold_number(row["fold"], table) for row in rows]
    expected_folds = set(range(1, (max(folds, default=0) if csv is not None else 5) + 1))
    if set(folds) - expected_folds:
        raise TaskError(f"{table}: folds must be 1 to 5, found {sorted(set(folds))}")

    audio = source / "audio"
    located = [(_locate(audio, row["filename"]), fold, row) for fold, row in zip(folds, rows, strict=True)]
    located = _without_missing(located, table, skip_missing)
    counts = Counter(fold for _, fold, _ in located)
    if empty := sorted(expected_folds - set(counts)):
        raise TaskError(f"{table}: no clip in fold {_listed(empty)} (clips by fold: {_by_fold(counts)})")

    stem = "esc10" if esc10 or table.stem == "esc10" else "esc50"
    name = task_name or (table.stem if csv is not None else stem)
    total = 400 if stem == "esc10" else 2000
    categories = {row["category"] for _, _, row in located}
    complete = categories >= ESC10_CLASSES and [counts[fold] for fold in sorted(counts)] == [total // 5] * 5
    if not complete:
        _note(
            f"{len(located)} of the {total:,} clips of {stem.upper()}; by fold: {_by_fold(counts)}. "
            "Scores are not comparable with published ones."
        )
    clips = [
        Clip(path, f"fold{fold - 1:02d}", (row["category"],), _stem(row["filename"]))
        for path, fold, row in located
    ]
    splits = tuple(f"fold{fold - 1:02d}" for fold in sorted(counts))
    mode = "full" if complete else "partial"
    return _write(Task(name, "v2.0.0", mode, "presplit_kfold", splits, 5.0, clips), out, sample_rate, force)


def from_speech_commands(
    source: str | Path,
    out: str | Path,
    *,
    words: Sequence[str] | None = None,
    test_source: str | Path | None = None,
    sample_rate: int = 16000,
    task_name: str | None = None,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Writes a task of a Speech Commands copy, clips of 1 s, and returns its folder.

    Without `test_source`: one class for each word (or for each of `words`), split by `validation_list.txt`
    and `testing_list.txt`. With `test_source`, the folder of the official test archive (a folder for each
    of ten words, `_unknown_` and `_silence_`): the 12-class task of HEAR. There the other words are
    `_unknown_`, and `_silence_` is 1 s slices, half overlapping, of `_background_noise_`, those of
    `running_tap` for validation. HEAR's own default mode, `5h`, draws a subset of it; this is mode `full`.
    Raises `TaskError`.
    """
    source = _existing_folder(source, "a Speech Commands folder with a folder for each word")
    lists = {"valid": source / "validation_list.txt", "test": source / "testing_list.txt"}
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        if not path.is_file():
            raise TaskError(f"{path}: not found; the official list is needed to split by speaker")
        split_of |= dict.fromkeys(path.read_text().split(), split)

    present = {path.name for path in source.iterdir() if path.is_dir() and path.name[0] not in "._"}
    if words is not None and test_source is not None:
        raise TaskError("pass words or test_source, not both: the 12-class task has words of its own")
    if absent := sorted(set(words or ()) - present):
        raise TaskError(
            f"{source}: no folder for the words {_listed(absent)}; there are {_listed(sorted(present))}"
        )
    names = _audio_names(source, sorted(words or present))
    if not names:
        raise TaskError(f"{source}: no audio in folders named after words")
    listed = [
        (_locate(source, name), name) for name in split_of if words is None or name.split("/")[0] in words
    ]
    _without_missing(listed, source / "*_list.txt", skip_missing)

    classes = len({name.split("/")[0] for name in names})
    complete = words is None and (len(names), classes) in {(105_829, 35), (64_727, 30)}
    if not complete:
        _note(f"{len(names):,} clips of {classes} words; the whole of v0.02 is 105,829 clips of 35 words.")
    clips = []
    for name in names:
        word = name.split("/")[0]
        split = split_of.get(name, "train")
        if test_source is None:
            clips.append(Clip(source / name, split, (word,), _stem(name)))
        elif split != "test":
            clips.append(
                Clip(source / name, split, (word if word in HEAR_WORDS else "_unknown_",), _stem(name))
            )
    if test_source is not None:
        clips += _silence_slices(source / "_background_noise_")
        clips += _official_test_clips(
            _existing_folder(test_source, "the official test set, one folder a class")
        )
    name = task_name or ("speech_commands" if test_source is not None else f"speech_commands_{classes}_words")
    mode = "full" if complete else "partial"
    task = Task(name, "v0.0.2", mode, "trainvaltest", TRAINVALTEST, 1.0, clips, evaluation=("top1_acc",))
    return _write(task, out, sample_rate, force)


def from_table(
    csv: str | Path,
    out: str | Path,
    *,
    audio_root: str | Path | None = None,
    path_column: str = "filename",
    label_column: str = "label",
    fold_column: str | None = None,
    split_column: str | None = None,
    seconds: float | None = None,
    multilabel: bool = False,
    label_separator: str = ";",
    task_name: str | None = None,
    version: str = "v1",
    sample_rate: int = 16000,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Writes the task that a table describes (CSV, or TSV by its suffix) and returns its folder.

    Each row is a clip: its path below `audio_root` (default: the table's folder), its label, and its fold
    (at least three) or its split (train, valid, test). The fold or split column is found by its name,
    `fold` or `split`, unless named. `multilabel`: labels separated by `label_separator`, or one row each.
    `seconds`: every clip is cut or padded to it. None keeps lengths, and heareval embeds clips one by one.
    Raises `TaskError`.
    """
    table = Path(csv)
    root = Path(audio_root) if audio_root is not None else table.parent
    if seconds is not None and not seconds > 0:
        raise TaskError(f"seconds must be above 0, not {seconds}")
    rows = _read_table(table, [path_column, label_column])
    by_fold, column = _split_column(table, rows[0], fold_column, split_column)
    values = {row[column].strip() for row in rows}
    if by_fold:
        ordered = sorted(
            values, key=lambda value: (not value.isdigit(), int(value) if value.isdigit() else 0, value)
        )
        split_of = {value: f"fold{index:02d}" for index, value in enumerate(ordered)}
    else:
        split_of = {value: SPLIT_NAMES[value.lower()] for value in values if value.lower() in SPLIT_NAMES}
    if unknown := sorted(values - set(split_of) | ({""} & values)):
        raise TaskError(
            f"{table}: column {column!r} has {_listed(unknown)}; use train, valid and test, or folds"
        )

    located = _without_missing([(_locate(root, row[path_column]), row) for row in rows], table, skip_missing)
    clips: dict[Path, Clip] = {}
    for path, row in located:
        text, split = row[label_column].strip(), split_of[row[column].strip()]
        labels = [part.strip() for part in text.split(label_separator)] if multilabel else [text]
        labels = [label for label in labels if label] if multilabel else labels
        if path in clips:
            if not multilabel:
                raise TaskError(
                    f"{table}: {row[path_column]} is listed twice; pass multilabel, or remove one row"
                )
            if clips[path].split != split:
                raise TaskError(
                    f"{table}: {row[path_column]} is in {clips[path].split} and in {split}; keep one"
                )
            labels = [*clips[path].labels, *labels]
        relative = os.path.relpath(path, root)
        clips[path] = Clip(path, split, tuple(dict.fromkeys(labels)), _stem(relative))
    splits = tuple(sorted(set(split_of.values()))) if by_fold else TRAINVALTEST
    task = Task(
        name=task_name or re.sub(r"\W+", "_", table.stem).strip("_") or "table",
        version=version,
        mode="full",
        split_mode="presplit_kfold" if by_fold else "trainvaltest",
        splits=splits,
        sample_duration=seconds,
        clips=list(clips.values()),
        prediction_type="multilabel" if multilabel else "multiclass",
        evaluation=("mAP", "d_prime", "aucroc") if multilabel else ALL_SCORES,
    )
    return _write(task, out, sample_rate, force)


# --- reading sources ---------------------------------------------------------------------------------------


def _existing_folder(path: str | Path, expected: str) -> Path:
    if not Path(path).is_dir():
        raise TaskError(f"{path}: no such folder; expected {expected}")
    return Path(path)


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV or TSV file that has at least `columns`."""
    if not path.is_file():
        raise TaskError(f"{path}: no such file; expected a table with the columns {', '.join(columns)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv_module.DictReader(
            file, delimiter="\t" if path.suffix == ".tsv" else ",", restval="", restkey="surplus"
        )
        rows = list(reader)
        found = list(reader.fieldnames or [])
    if missing := [column for column in columns if column not in found]:
        raise TaskError(f"{path}: no column {_listed(missing)}; its columns are {_listed(found)}")
    if not rows:
        raise TaskError(f"{path}: the table has no rows")
    return rows


def _fold_number(text: str, table: Path) -> int:
    if not text.strip().isdigit():
        raise TaskError(f"{table}: fold {text!r} is not a number from 1")
    return int(text)


def _split_column(
    table: Path, row: dict[str, str], fold_column: str | None, split_column: str | None
) -> tuple[bool, str]:
    """(is it a fold, name of the column) of what assigns clips to splits."""
    if fold_column is not None and split_column is not None:
        raise TaskError("pass fold_column or split_column, not both")
    candidates = [(True, fold_column or "fold"), (False, split_column or "split")]
    if fold_column is not None or split_column is not None:
        candidates = [candidate for candidate in candidates if candidate[1] in (fold_column, split_column)]
    found = [candidate for candidate in candidates if candidate[1] in row]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(repr(column) for _, column in candidates)
    problem = "has both columns; name the one to use" if found else f"its columns are {_listed(list(row))}"
    raise TaskError(f"{table}: expected a column {wanted}; {problem}")


def _locate(root: Path, name: str) -> Path:
    """`root`/`name`, or the file of the same stem in another audio format; it may be missing.

    The test is on the path as written, so that links inside the data set may lead elsewhere.
    """
    name = name.strip()
    path = Path(os.path.normpath(Path.cwd() / root / name))
    if not name or not path.is_relative_to(os.path.normpath(Path.cwd() / root)):
        raise TaskError(
            f"path {name!r} is empty or leads out of {root}; pass the folder that holds all audio"
        )
    if path.is_file():
        return path
    others = (path.with_suffix(suffix) for suffix in AUDIO_SUFFIXES if path.suffix)
    return next((other for other in others if other.is_file()), path)


def _without_missing(located: list[Any], table: Path, skip: bool) -> list[Any]:
    """The tuples of `located` whose first item is a file; the missing are an error, or a note with `skip`."""
    missing = [item[0] for item in located if not item[0].is_file()]
    if not missing:
        return located
    message = f"{table}: {len(missing):,} of {len(located):,} listed files are not there: {_listed(missing)}"
    if not skip or len(missing) == len(located):
        raise TaskError(f"{message}; complete the copy, or pass skip_missing to go on without them")
    _note(message)
    return [item for item in located if item[0].is_file()]


def _audio_names(source: Path, folders: Iterable[str]) -> list[str]:
    return [
        f"{folder}/{path.name}"
        for folder in folders
        for path in sorted((source / folder).iterdir())
        if path.suffix.lower() in AUDIO_SUFFIXES
    ]


def _silence_slices(folder: Path) -> list[Clip]:
    """Stretches of 1 s every half second, as HEAR takes them."""
    files = sorted(_existing_folder(folder, "the background noise of Speech Commands").glob("*.wav"))
    clips = []
    for path in files:
        info = soundfile.info(path)
        split = "valid" if path.stem.startswith("running_tap") else "train"
        for start in range(0, info.frames - info.samplerate, info.samplerate // 2):
            stem = _stem(f"_silence_/{path.stem}-{start}.wav")
            clips.append(Clip(path, split, ("_silence_",), stem, start / info.samplerate))
    return clips


def _official_test_clips(source: Path) -> list[Clip]:
    expected = {*HEAR_WORDS, "_unknown_", "_silence_"}
    found = {path.name for path in source.iterdir() if path.is_dir()}
    if absent := sorted(expected - found):
        raise TaskError(f"{source}: no folder {_listed(absent)}; expected the official 12-class test set")
    names = _audio_names(source, sorted(expected))
    return [Clip(source / name, "test", (name.split("/")[0],), _stem(f"test/{name}")) for name in names]


# --- writing -----------------------------------------------------------------------------------------------


def _write(task: Task, out: str | Path, sample_rate: int, force: bool) -> Path:
    """Checks `task`, writes it into a hidden sibling and renames that, so no half task is ever seen."""
    if not re.fullmatch(r"[\w.-]+", task.folder_name) or task.folder_name.startswith("."):
        raise TaskError(f"task name {task.folder_name!r}: use letters, digits, '_', '-' and '.'")
    target = Path(out) / task.folder_name
    _check_target(target, force)
    clips = _unique_stems(task.clips)
    vocabulary = sorted({label for clip in clips for label in clip.labels})
    _check_labels(vocabulary)
    evaluation = _check_splits(task, clips, vocabulary)

    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    replaced = partial.with_suffix(".replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        for split in task.splits:
            (partial / str(sample_rate) / split).mkdir(parents=True)
        for clip in tqdm(clips, desc=task.folder_name, unit="clip", disable=None):
            wav = partial / str(sample_rate) / clip.split / f"{clip.stem}.wav"
            _write_clip(clip, wav, task.sample_duration, sample_rate)
        for split in task.splits:
            labels = {f"{clip.stem}.wav": list(clip.labels) for clip in clips if clip.split == split}
            _write_json(partial / f"{split}.json", labels)
        with (partial / "labelvocabulary.csv").open("w", newline="", encoding="utf-8") as file:
            csv_module.writer(file).writerows([("idx", "label"), *enumerate(vocabulary)])
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
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if the rename came to pass
    return target


def _check_target(target: Path, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / "task_metadata.json").is_file():
        raise TaskError(f"{target}: exists and is not a task folder; move it away or choose another --out")
    if not force:
        raise TaskError(f"{target}: exists; pass force to replace it")


def _check_labels(vocabulary: Sequence[str]) -> None:
    """heareval reads the vocabulary with pandas: refuse labels that would not come back as they went."""
    if not vocabulary:
        raise TaskError("no labels")
    lost = [label for label in vocabulary if label in PANDAS_NA or label != label.strip() or "\n" in label]
    if all(_is_number(label) for label in vocabulary):
        lost += [label for label in vocabulary if not re.fullmatch(r"-?[1-9]\d{0,17}|0", label)]
    elif {label.lower() for label in vocabulary} <= {"true", "false"}:
        lost += [label for label in vocabulary if label not in ("True", "False")]
    if lost:
        raise TaskError(f"labels {_listed(lost)} would be changed by heareval's CSV reader; rename them")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_splits(task: Task, clips: list[Clip], vocabulary: list[str]) -> tuple[str, ...]:
    """The scores that make sense, after checking that every split has clips."""
    by_split: dict[str, set[str]] = {split: set() for split in task.splits}
    for clip in clips:
        by_split[clip.split].update(clip.labels)
    counts = Counter(clip.split for clip in clips)
    if empty := [split for split in task.splits if not counts[split]]:
        raise TaskError(f"{task.name}: no clips in {_listed(empty)}; every split needs some")
    if len(task.splits) < 3:
        raise TaskError(f"{task.name}: {len(task.splits)} folds; heareval needs 3 (train, valid, test)")
    gaps = {split: sorted(set(vocabulary) - labels) for split, labels in by_split.items()}
    if not any(gaps.values()):
        return task.evaluation
    for split, labels in gaps.items():
        if labels:
            _note(f"{split} has no clip of {_listed(labels)}.")
    # The other scores average over classes and are undefined for a class without positives.
    return task.evaluation[:1]


def _unique_stems(clips: list[Clip]) -> list[Clip]:
    """The clips with stems that differ even where case does not count, numbered where they did not."""
    taken: set[str] = set()
    unique = []
    for clip in clips:
        stem, number = clip.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{clip.stem}-{number}"
        taken.add(stem.lower())
        unique.append(Clip(clip.path, clip.split, clip.labels, stem, clip.start))
    return unique


def _stem(name: str) -> str:
    """A file stem from a relative path: its folders joined by '_', nothing a shell or file system minds.

    Only the last 150 characters, since heareval appends `.wav.target-labels.json` and names end at 255.
    """
    parts = Path(name).with_suffix("").parts
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))[-150:].lstrip(".") or "clip"


def _write_clip(clip: Clip, wav: Path, seconds: float | None, sample_rate: int) -> None:
    from ajepa import audio  # late: it imports torch, which checking a table does not need

    wave = audio.load(clip.path, start=clip.start, seconds=seconds, sample_rate=sample_rate).numpy()
    if seconds is not None:
        samples = round(seconds * sample_rate)
        wave = np.pad(wave[:samples], (0, max(0, samples - len(wave))))
    # Scaled by 2^15 on the way in and out, so 16-bit audio at this rate passes unchanged.
    pcm = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(wav, pcm, sample_rate, subtype="PCM_16")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _listed(items: Sequence[Any], shown: int = 5) -> str:
    """The first few, and how many more."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(str(item) or "''" for item in items[:shown]) + more


def _by_fold(counts: Counter[int]) -> str:
    return ", ".join(f"{fold}: {counts[fold]}" for fold in sorted(counts))


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
