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
from ajepa.data.labelled import check_no_overlap, read_labelled
from ajepa.data.speech_commands import KEYWORDS, SILENCE, UNKNOWN, SpeechCommands, official_test
from ajepa.data.splitting import with_splits
from ajepa.data.tables import (
    LABEL_SEPARATOR,
    TaskError,
    existing_folder,
    listed,
    locate,
    note,
    read_table,
    without_missing,
)

from .task_folder import ALL_SCORES, TRAINVALTEST, Clip, Task, file_stem, write_task

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
    rows = read_table(table, columns).rows
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
    label_column: str | None = None,
    fold_column: str | None = None,
    split_column: str | None = None,
    seconds: float | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    segments: bool = False,
    task_name: str | None = None,
    version: str = "v1",
    sample_rate: int = 16000,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Writes the task that a table describes and returns its folder.

    Each row is a clip: its path below `audio_root` (default: the table's folder) or anywhere, its label, and
    its fold (at least three) or its split (train, valid, test). Formats, the columns' usual names, several
    labels and segments are those of `ajepa.data.labelled.read_labelled`; `split_column` "auto" makes a split.
    `seconds`: clips are cut or padded to it; None keeps their lengths, and heareval embeds them one by one.
    Raises `TaskError`.
    """
    table = Path(csv)
    if seconds is not None and not seconds > 0:
        raise TaskError(f"seconds must be above 0, not {seconds}")
    found = read_labelled(
        table,
        label=label_column,
        fold=fold_column,
        split=split_column,
        path_column=path_column,
        audio_root=audio_root,
        multilabel=multilabel,
        label_separator=label_separator,
        segments=segments,
    )
    rows = [row for _, row in without_missing([(row.path, row) for row in found.clips], table, skip_missing)]
    if not any(row.split for row in rows):
        rows, said = with_splits(
            table, rows, split_column, stratified=not multilabel, path_column=found.path_column
        )
        note(said)
    check_no_overlap(rows, table)
    split_of = (
        _fold_names({row.split for row in rows}) if found.folds else {name: name for name in TRAINVALTEST}
    )
    root = table.parent if audio_root is None else Path(audio_root)
    clips = [
        Clip(
            row.path,
            split_of[row.split],
            row.labels,
            file_stem(os.path.relpath(row.path, root)) + (f"-{row.start:.3f}" if found.segments else ""),
            row.start,
            row.seconds,
        )
        for row in rows
    ]
    task = Task(
        name=task_name or re.sub(r"\W+", "_", table.stem).strip("_") or "table",
        version=version,
        mode="full",
        split_mode="presplit_kfold" if found.folds else "trainvaltest",
        splits=tuple(split_of.values()),
        sample_duration=seconds,
        clips=clips,
        prediction_type="multilabel" if multilabel else "multiclass",
        evaluation=("mAP", "d_prime", "aucroc") if multilabel else ALL_SCORES,
    )
    return write_task(task, out, sample_rate, force)


def _fold_names(folds: set[str]) -> dict[str, str]:
    """HEAR's names of folds, which are in the order of their numbers, then of their names."""
    ordered = sorted(folds, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    return {name: f"fold{index:02d}" for index, name in enumerate(ordered)}


def _fold_number(text: str, table: Path) -> int:
    if not text.strip().isdigit():
        raise TaskError(f"{table}: fold {text!r} is not a number from 1")
    return int(text)


def _by_fold(counts: Counter[int]) -> str:
    return ", ".join(f"{fold}: {counts[fold]}" for fold in sorted(counts))
