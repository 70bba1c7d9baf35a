"""AudioSet (J. F. Gemmeke et al., ICASSP 2017), 527 classes, any number to a clip: AS-20K and AS-2M.

Layout: the official `balanced_train_segments.csv`, `unbalanced_train_segments.csv` and `eval_segments.csv` in
the folder itself or in `metadata/`, `csv/` or `data/`; audio of 10 s in one folder per list or all in one,
at any depth. A file is named after its video: `ID.wav`, `YID.wav`, `ID_30.000.flac`, `YID_30_40.mp3`.

Many clips are no longer online. The task uses the clips that are present, and its notes report their number
and a hash of their IDs. Scores on different IDs are not comparable; an ID list fixes a subset.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ajepa.audio import AUDIO_SUFFIXES
from ajepa.data.tables import existing_folder, listed, read_table
from ajepa.eval.digest import digest

from .task import Clip, Task, TaskError

HOME = "https://research.google.com/audioset/download.html"
CLASSES = 527
LABELS = "class_labels_indices.csv"
TABLE_FOLDERS = ("", "metadata", "csv", "data")
AUDIO_FOLDERS = ("", "audio", "audios", "data")
ID_LENGTH = 11  # of a YouTube video's ID
HELD_OUT = 20  # one training clip in 20
COMPARABLE_SHARE = 0.75  # with less, a score is not one on AudioSet, and the task gets another name


class Part(NamedTuple):
    """One of the official lists: its table, its number of rows, and the usual names of its audio folder."""

    table: str
    rows: int
    folders: tuple[str, ...]


BALANCED = Part(
    "balanced_train_segments.csv", 22_160, ("balanced_train_segments", "balanced_train", "bal_train")
)
UNBALANCED = Part(
    "unbalanced_train_segments.csv",
    2_041_789,
    ("unbalanced_train_segments", "unbalanced_train", "unbal_train"),
)
EVAL = Part("eval_segments.csv", 20_371, ("eval_segments", "eval"))

IdLists = str | Path | Sequence[str | Path]


def open_audioset_20k(
    data: str | Path, *, id_list: IdLists | None = None, skip_missing: bool = False
) -> Task:
    """AS-20K: trained on the balanced list, tested on the evaluation list.

    AudioSet has no validation split. One training clip in 20, by a hash of its ID, is held out for choices
    such as a probe's regularisation; the model that is scored is then trained on all training clips.

    Args:
        data: the folder of the tables and the audio.
        id_list: a file (or several) of the clips to use, one ID per line or in the JSON form of AST and
            Audio-MAE. A split with no clip in the list is used whole.
        skip_missing: leave out clips of `id_list` whose files are missing.

    Raises:
        TaskError: a folder or table is missing, a row has another form, a split has no audio, or a listed
            clip is not in AudioSet or has no audio.
    """
    return _open(Path(data), "audioset_20k", (BALANCED,), id_list, skip_missing)


def open_audioset_2m(data: str | Path, *, id_list: IdLists | None = None, skip_missing: bool = False) -> Task:
    """AS-2M: trained on the balanced and the unbalanced list; otherwise like `open_audioset_20k`."""
    return _open(Path(data), "audioset_2m", (BALANCED, UNBALANCED), id_list, skip_missing)


def ids_hash(ids: Iterable[str]) -> str:
    """Hash of a set of IDs in any order: 16 digits of the SHA-256 of the sorted IDs, one per line."""
    return digest(f"{name}\n" for name in sorted(ids))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Opening makes millions of objects that stay alive. The garbage collector would scan them all again and
    again, and take as long as everything else."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_no_collections()
def _open(
    data: Path, name: str, train: tuple[Part, ...], id_list: IdLists | None, skip_missing: bool
) -> Task:
    existing_folder(data, f"AudioSet's tables ({HOME}) and a folder of audio for each")
    known = _labels(data)
    notes: list[str] = []
    rows: dict[str, dict[str, tuple[str, ...]]] = {"train": {}, "test": {}}  # labels by ID
    wanted: dict[Path, set[str]] = {}
    for split, part in [*(("train", part) for part in train), ("test", EVAL)]:
        found = _read(data, part, known)
        if len(found) != part.rows:
            notes.append(f"{part.table} has {len(found):,} rows, the official one {part.rows:,}")
        rows[split] |= found
        for folder in _audio_folders(data, part):
            wanted.setdefault(folder, set()).update(found)
    if both := sorted(rows["train"].keys() & rows["test"].keys()):
        raise TaskError(
            f"{data}: {listed(both)} in both a training table and {EVAL.table}; get them from {HOME}"
        )
    files = _files(wanted)
    if id_list is not None:
        lists = [id_list] if isinstance(id_list, str | Path) else list(id_list)
        notes += _restrict(rows, files, lists, skip_missing)

    clips = []
    for split, labels_of in rows.items():
        there = [ytid for ytid in labels_of if ytid in files]
        if not there:
            usual = (train[0] if split == "train" else EVAL).folders[0]
            raise TaskError(
                f"{data}: no audio for the {len(labels_of):,} {split} clips; add files such as "
                f"{usual}/Y{next(iter(labels_of))}.wav"
            )
        notes.append(
            f"{split}: {len(there):,} of {len(labels_of):,} listed clips are present, "
            f"{len(labels_of) - len(there):,} are missing; hash of their IDs {ids_hash(there)}"
        )
        for ytid in there:
            held_out = split == "train" and zlib.crc32(ytid.encode()) % HELD_OUT == 0
            clips.append(Clip(files[ytid], labels_of[ytid], "valid" if held_out else split, ytid))
    counts = Counter(clip.split for clip in clips)
    if not counts["valid"]:
        raise TaskError(
            f"{data}: none of the {counts['train']:,} training clips is among the 1 in {HELD_OUT} (by a hash "
            "of the ID) that is held out for choices; use more clips"
        )
    notes.append(
        f"{counts['valid']:,} training clips, by a hash of their IDs, are held out for choices; the model "
        "that is scored is trained on them too"
    )
    classes = {label for labels in {clip.labels for clip in clips} for label in labels}
    if len(classes) != CLASSES:
        notes.append(f"{len(classes)} of {CLASSES} classes occur")
    official = {"train": sum(part.rows for part in train), "test": EVAL.rows}
    used = {"train": counts["train"] + counts["valid"], "test": counts["test"]}
    if any(used[split] < COMPARABLE_SHARE * official[split] for split in used):
        name = f"{name}_{len(clips)}_clips"
    return Task(name, tuple(clips), folds=False, multilabel=True, refit=True, notes=tuple(notes))


def _found(data: Path, table: str) -> Path | None:
    places = (data / folder / table for folder in TABLE_FOLDERS)
    return next((place for place in places if place.is_file()), None)


def _labels(data: Path) -> frozenset[str] | None:
    """The classes' names such as /m/09x0r, if the table of classes is present."""
    path = _found(data, LABELS)
    if path is None:
        return None
    names = frozenset(row["mid"] for row in read_table(path, ["mid"]).rows)
    if len(names) != CLASSES:
        raise TaskError(f"{path}: {len(names)} classes in column mid, not {CLASSES}; get it from {HOME}")
    return names


def _read(data: Path, part: Part, known: frozenset[str] | None) -> dict[str, tuple[str, ...]]:
    """Labels by ID, in the order of the table: rows `ID, start, end, "label,label"` after comments."""
    table = _found(data, part.table)
    if table is None:
        places = listed(TABLE_FOLDERS[1:])
        raise TaskError(f"{data / part.table}: no such file, nor in {places}; get it from {HOME}")
    labels_of: dict[str, tuple[str, ...]] = {}
    tuples: dict[str, tuple[str, ...]] = {}  # the same labels occur many times: share one tuple
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        for row in reader:
            if not row or row[0].startswith("#"):
                continue
            if len(row) != 4 or len(row[0]) != ID_LENGTH or not row[3]:
                raise TaskError(
                    f"{table}, line {reader.line_num}: {', '.join(row)!r}; "
                    'expected `ID, 0.000, 10.000, "/m/a,/m/b"`'
                )
            if (labels := tuples.get(row[3])) is None:
                labels = tuples[row[3]] = tuple(dict.fromkeys(row[3].split(",")))
                if known is not None and (strange := [label for label in labels if label not in known]):
                    raise TaskError(f"{table}, line {reader.line_num}: {listed(strange)} is not in {LABELS}")
            labels_of[row[0]] = labels
    if not labels_of:
        raise TaskError(f"{table}: no rows; get it from {HOME}")
    return labels_of


def _audio_folders(data: Path, part: Part) -> list[Path]:
    """The folders of a list's audio, or the whole data set's folder if none has such a name."""
    places = (data / above / name for above in AUDIO_FOLDERS for name in part.folders)
    return [place for place in places if place.is_dir()] or [data]


def _files(wanted: Mapping[Path, Collection[str]]) -> dict[str, Path]:
    """Files of the wanted clips in each folder and below, by ID; the first one if a clip has several.

    Each folder is listed once, instead of a query per file: two million files take seconds.
    """
    suffixes = {suffix.removeprefix(".") for suffix in AUDIO_SUFFIXES}
    found: dict[str, Path] = {}
    for root, ids in wanted.items():
        seen: set[str] = set()
        for parent, folders, names in os.walk(root, followlinks=True):
            real = os.path.realpath(parent)
            if real in seen:  # linked twice, or in a loop
                folders.clear()
                continue
            seen.add(real)
            folder = Path(parent)
            for name in names:
                stem, _, suffix = name.rpartition(".")
                if suffix.lower() in suffixes and (ytid := _id_of(stem, ids)):
                    path = folder / name
                    found[ytid] = min(found[ytid], path) if ytid in found else path
    return found


def _id_of(stem: str, ids: Collection[str]) -> str | None:
    """The ID that a file is named after: at the start or after a Y, alone or before an underscore.

    IDs may contain Y and underscores themselves, so they are matched against the listed IDs.
    """
    for start in (0, 1) if stem.startswith("Y") else (0,):
        ytid = stem[start : start + ID_LENGTH]
        if ytid in ids and stem[start + ID_LENGTH :][:1] in ("", "_"):
            return ytid
    return None


def _restrict(
    rows: dict[str, dict[str, tuple[str, ...]]],
    files: Mapping[str, Path],
    lists: Sequence[str | Path],
    skip_missing: bool,
) -> list[str]:
    """Keep only the listed clips in `rows`, in each split with listed clips; returns notes."""
    official = {ytid for labels_of in rows.values() for ytid in labels_of}
    chosen: set[str] = set()
    for path in map(Path, lists):
        ids = {stem: _id_of(stem, official) for stem in _listed_names(path)}
        if strange := [stem for stem, ytid in ids.items() if not ytid]:
            raise TaskError(
                f"{path}: {len(strange):,} of {len(ids):,} names are not in this task: {listed(strange)}"
            )
        chosen.update(ytid for ytid in ids.values() if ytid)
    if (missing := sorted(chosen - files.keys())) and not skip_missing:
        raise TaskError(
            f"{len(missing):,} of {len(chosen):,} clips of {listed(lists)} have no audio: {listed(missing)}; "
            "complete the copy, or pass skip_missing to continue without them"
        )
    notes = []
    for split, labels_of in rows.items():
        kept = {ytid: labels for ytid, labels in labels_of.items() if ytid in chosen}
        rows[split] = kept or labels_of
        of = f"the {len(kept):,} clips of the ID list; hash of its IDs {ids_hash(kept)}"
        notes.append(f"{split}: {of if kept else 'the ID list names no clip of it; all are used'}")
    return notes


def _listed_names(path: Path) -> list[str]:
    """File names without suffix: one per line, or the `wav` of each entry of AST's JSON lists."""
    if not path.is_file():
        raise TaskError(f"{path}: no such file; expected a list of IDs")
    if path.suffix.lower() == ".json":
        try:
            names = [str(entry["wav"]) for entry in json.loads(path.read_text(encoding="utf-8-sig"))["data"]]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise TaskError(
                f'{path}: expected {{"data": [{{"wav": "folder/ID.wav"}}, ...]}} ({error!r})'
            ) from error
    else:
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
        names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise TaskError(f"{path}: lists no clips")
    bases = [name.rpartition("/")[2] for name in names]
    return [
        base.rpartition(".")[0] if base.lower().endswith(tuple(AUDIO_SUFFIXES)) else base for base in bases
    ]
