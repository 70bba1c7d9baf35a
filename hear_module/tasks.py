"""HEAR task folders from data sets that people have on disk.

`from_esc50`, `from_speech_commands` and `from_table` write such folders (`task_folder`). Nothing is
downloaded.

Sources: metadata values, fold names and the 12-class protocol of Speech Commands as in `hearpreprocess`
(speech_commands.py, esc50.py of its secret tasks), github.com/hearbenchmark. Folds stay as they are: for fold
k, heareval tests on k, validates on the next fold and trains on the rest.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ajepa import audio
from ajepa.data.speech_commands import KEYWORDS, SILENCE, UNKNOWN, SpeechCommands, official_test
from ajepa.data.tables import (
    LABEL_SEPARATOR,
    TaskError,
    check_separator,
    existing_folder,
    find_path_column,
    listed,
    locate,
    note,
    read_table,
    without_missing,
)

from .task_folder import ALL_SCORES, TRAINVALTEST, Clip, Task, file_stem, write_task

SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid"}
SPLIT_NAMES |= {"dev": "valid", "test": "test", "testing": "test", "eval": "test"}
ESC10_CLASSES = {
    "dog", "rooster", "rain", "sea_waves", "crackling_fire",
    "crying_baby", "sneezing", "clock_tick", "helicopter", "chainsaw",
}  # fmt: skip


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

    `esc10` keeps only the clips of ESC-10. `csv` replaces `meta/esc50.csv`, with the same columns; a relative
    path is also searched in `source`. The folds are the data set's, which keep the clips of one source
    (`src_file`) together. A complete copy becomes `esc50-v2.0.0-full`, the official name; anything less has
    the mode `partial`, and the counts are printed. Raises `TaskError`.
    """
    source = existing_folder(source, "an ESC-50 folder with audio/ and meta/esc50.csv")
    table = source / "meta" / "esc50.csv"
    if csv is not None:
        table = Path(csv) if Path(csv).is_file() else source / csv
    columns = ["filename", "fold", "category", "esc10"] if esc10 else ["filename", "fold", "category"]
    rows = read_table(table, columns)
    if esc10:
        rows = [row for row in rows if row["esc10"].strip().lower() == "true"]
    folds = [_fold_number(row["fold"], table) for row in rows]
    last_fold = 5 if csv is None else max(folds, default=0)  # another table may have any number
    expected_folds = set(range(1, last_fold + 1))
    if set(folds) - expected_folds:
        raise TaskError(f"{table}: folds must be 1 to 5, found {sorted(set(folds))}")

    audio = source / "audio"
    located = [(locate(audio, row["filename"]), fold, row) for fold, row in zip(folds, rows, strict=True)]
    located = without_missing(located, table, skip_missing)
    counts = Counter(fold for _, fold, _ in located)
    if empty := sorted(expected_folds - set(counts)):
        raise TaskError(f"{table}: no clip in fold {listed(empty)} (clips by fold: {_by_fold(counts)})")

    data_set = "esc10" if esc10 or table.stem == "esc10" else "esc50"
    name = task_name or (data_set if csv is None else table.stem)
    total = 400 if data_set == "esc10" else 2000
    categories = {row["category"] for _, _, row in located}
    complete = categories >= ESC10_CLASSES and [counts[fold] for fold in sorted(counts)] == [total // 5] * 5
    if not complete:
        note(
            f"{len(located)} of the {total:,} clips of {data_set.upper()}; by fold: {_by_fold(counts)}. "
            "Scores are not comparable with published ones."
        )
    clips = [
        Clip(path, f"fold{fold - 1:02d}", (row["category"],), file_stem(row["filename"]))
        for path, fold, row in located
    ]
    splits = tuple(f"fold{fold - 1:02d}" for fold in sorted(counts))
    mode = "full" if complete else "partial"
    task = Task(name, "v2.0.0", mode, "presplit_kfold", splits, 5.0, clips)
    return write_task(task, out, sample_rate, force)


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
    """Writes a task of a Speech Commands copy (WAV, FLAC, Ogg or MP3), clips of 1 s; returns its folder.

    Without `test_source`: one class for each word (or each of `words`), split by `validation_list.txt` and
    `testing_list.txt`. With `test_source`, the folder of the official test archive (a folder for each of ten
    words, `_unknown_` and `_silence_`): the 12-class task of HEAR. Other words are `_unknown_`; `_silence_`
    is slices of `_background_noise_`, 1 s long and half overlapping, with those of `running_tap` for
    validation. HEAR's default mode, `5h`, draws a subset of this mode, `full`. Raises `TaskError`.
    """
    if words is not None and test_source is not None:
        raise TaskError("pass words or test_source, not both: the 12-class task fixes its words")
    copy = SpeechCommands(source)
    recordings = copy.clips(words, skip_missing=skip_missing)
    classes = len({one.word for one in recordings})
    complete = words is None and (len(recordings), classes) in {(105_829, 35), (64_721, 30)}
    if not complete:
        note(
            f"{len(recordings):,} clips of {classes} words; the whole of v0.02 is 105,829 clips of 35 words."
        )
    clips = []
    for one in recordings:
        stem = file_stem(f"{one.word}/{one.path.name}")
        if test_source is None:
            clips.append(Clip(one.path, one.split, (one.word,), stem))
        elif one.split != "test":
            label = one.word if one.word in KEYWORDS else UNKNOWN
            clips.append(Clip(one.path, one.split, (label,), stem))
    if test_source is not None:
        for one, start in copy.silence(to_the_end=False):
            samples = round(start * audio.info(one.path).sample_rate)
            stem = file_stem(f"{SILENCE}/{one.path.stem}-{samples}.wav")
            clips.append(Clip(one.path, one.split, (SILENCE,), stem, start))
        clips += [
            Clip(one.path, "test", (one.word,), file_stem(f"test/{one.word}/{one.path.name}"))
            for one in official_test(test_source)
        ]
    name = task_name or ("speech_commands" if test_source is not None else f"speech_commands_{classes}_words")
    mode = "full" if complete else "partial"
    task = Task(name, "v0.0.2", mode, "trainvaltest", TRAINVALTEST, 1.0, clips, evaluation=("top1_acc",))
    return write_task(task, out, sample_rate, force)


def from_table(
    csv: str | Path,
    out: str | Path,
    *,
    audio_root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str = "label",
    fold_column: str | None = None,
    split_column: str | None = None,
    seconds: float | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    task_name: str | None = None,
    version: str = "v1",
    sample_rate: int = 16000,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Writes the task that a table describes (CSV, or TSV by its suffix) and returns its folder.

    Each row is a clip: its path below `audio_root` (default: the table's folder), its label, and its fold
    (at least three) or its split (train, valid, test). Unless named, the column of the paths is `filename` or
    `path`, that of the folds or splits `fold` or `split`. `multilabel`: labels separated by
    `label_separator`, or a row for each. `seconds`: clips are cut or padded to it; None keeps their lengths,
    and heareval embeds them one by one. Raises `TaskError`.
    """
    table = Path(csv)
    root = Path(audio_root) if audio_root is not None else table.parent
    if seconds is not None and not seconds > 0:
        raise TaskError(f"seconds must be above 0, not {seconds}")
    check_separator(table, label_separator, multilabel)
    rows = read_table(table, [label_column])
    path_column = find_path_column(table, rows[0], path_column)
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
            f"{table}: column {column!r} has {listed(unknown)}; use train, valid and test, or folds"
        )

    located = without_missing([(locate(root, row[path_column]), row) for row in rows], table, skip_missing)
    clips: dict[Path, Clip] = {}
    for path, row in located:
        text, split = row[label_column].strip(), split_of[row[column].strip()]
        parts = [part.strip() for part in text.split(label_separator)]
        labels = [part for part in parts if part] if multilabel else [text]
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
        clips[path] = Clip(path, split, tuple(dict.fromkeys(labels)), file_stem(relative))
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
    return write_task(task, out, sample_rate, force)


def _fold_number(text: str, table: Path) -> int:
    if not text.strip().isdigit():
        raise TaskError(f"{table}: fold {text!r} is not a number from 1")
    return int(text)


def _split_column(
    table: Path, row: dict[str, str], fold_column: str | None, split_column: str | None
) -> tuple[bool, str]:
    """(whether it holds folds, its name) of the column that assigns clips to splits."""
    if fold_column is not None and split_column is not None:
        raise TaskError("pass fold_column or split_column, not both")
    candidates = [(True, fold_column or "fold"), (False, split_column or "split")]
    if fold_column is not None or split_column is not None:
        candidates = [candidate for candidate in candidates if candidate[1] in (fold_column, split_column)]
    found = [candidate for candidate in candidates if candidate[1] in row]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(repr(column) for _, column in candidates)
    problem = "has both columns; name the one to use" if found else f"its columns are {listed(list(row))}"
    raise TaskError(f"{table}: expected a column {wanted}; {problem}")


def _by_fold(counts: Counter[int]) -> str:
    return ", ".join(f"{fold}: {counts[fold]}" for fold in sorted(counts))
