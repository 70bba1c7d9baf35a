"""Splits for clips without any: train, valid and test, the same each time, written down for others."""

from __future__ import annotations

import csv
import errno
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ajepa.files import write

from .labelled import AUTO, SPLIT_NAMES, Labelled
from .tables import TaskError, note, read_table

SEED = 0
SPLIT = (f"split by --split {AUTO}", "mark the splits in a column")
HOLD_OUT = ("hold out training clips for validation", "mark some as valid")
PARTS = 5  # of equal size: one for testing, one for validation, the others for training


def with_splits(
    source: Path, clips: Sequence[Labelled], split: str | None, *, stratified: bool, path_column: str = "path"
) -> tuple[list[Labelled], str]:
    """Clips that have no splits with splits, and a note that says which.

    Args:
        split: a file that `auto_split` wrote; None or "auto" makes a split.

    Raises:
        TaskError: there is no such file, it is of other clips, or the clips are too few to split.
    """
    if split not in (None, AUTO):
        path = Path(str(split))
        if not path.is_file():
            raise TaskError(f"{source}: --split {split}: no such file; give {AUTO}, or a file that it wrote")
        return given_split(path, clips), f"split by {path.name}"
    split_clips = auto_split(source, clips, stratified=stratified, path_column=path_column)
    return split_clips, f"split by ajepa, as {split_file(source).name} lists"


def auto_split(
    source: Path, clips: Sequence[Labelled], *, stratified: bool, path_column: str = "path"
) -> list[Labelled]:
    """The clips with splits, 60 % train, 20 % valid and 20 % test; also written to `split_file(source)`.

    Clips of one group stay together. The order of the clips does not matter.

    Args:
        source: the table or folder that the clips come from, for messages and the file's place.
        stratified: spread labels evenly; the first of each clip counts.
        path_column: name of the column of the files in the file of the split.

    Raises:
        TaskError: there are too few clips or groups to split, or the split file holds another split.
    """
    order = sorted(range(len(clips)), key=lambda place: _key(clips[place]))
    ordered = [clips[place] for place in order]
    parts = _parts(source, ordered, stratified, least=PARTS)
    splits = [""] * len(clips)
    for place, part in zip(order, parts, strict=True):
        splits[place] = ("test", "valid")[part] if part < 2 else "train"
    split = [clip._replace(split=given) for clip, given in zip(clips, splits, strict=True)]
    _keep(source, [split[place] for place in order], path_column)
    return split


def hold_out(source: Path, clips: Sequence[Labelled], *, stratified: bool) -> list[Labelled]:
    """The clips with one in five of the training clips in the split "valid", drawn as in `auto_split`."""
    places = [place for place, clip in enumerate(clips) if clip.split == "train"]
    places.sort(key=lambda place: _key(clips[place]))
    training = [clips[place] for place in places]
    parts = _parts(source, training, stratified, least=1, purpose=HOLD_OUT)
    held = {place for place, part in zip(places, parts, strict=True) if part == 0}
    return [clip._replace(split="valid") if n in held else clip for n, clip in enumerate(clips)]


def split_file(source: Path) -> Path:
    """Where the split of a table or folder is written: next to it."""
    return source.with_name(f"{source.name if source.is_dir() else source.stem}-split.csv")


def given_split(path: Path, clips: Sequence[Labelled]) -> list[Labelled]:
    """The clips with the splits of a file that `auto_split` wrote, here or elsewhere.

    Raises:
        TaskError: it is no such file, or lacks a clip.
    """
    table = read_table(path, ["split"])
    *names, last = table.columns
    if last != "split" or any(row["split"] not in SPLIT_NAMES for row in table.rows):
        raise TaskError(f"{path}: is not a split that --split {AUTO} wrote; name a column of splits")
    found = {tuple(row[name] for name in names): SPLIT_NAMES[row["split"]] for row in table.rows}
    split = []
    for clip in clips:
        key = tuple(_line(clip)[: len(names)])
        if key not in found:
            raise TaskError(f"{path}: has no row for {' '.join(key)}; it is the split of other clips")
        split.append(clip._replace(split=found[key]))
    return split


def _key(clip: Labelled) -> tuple[str, float, float]:
    return clip.name, clip.start, clip.seconds or 0.0


def _parts(
    source: Path,
    clips: Sequence[Labelled],
    stratified: bool,
    least: int,
    purpose: tuple[str, str] = SPLIT,
) -> np.ndarray:
    """The part of each clip, from 0 to PARTS - 1; a label needs `least` clips.

    Args:
        purpose: what they are for, and what does without them, for messages.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    # A clip without a group is its own group.
    groups = [clip.group or f"clip {place}" for place, clip in enumerate(clips)]
    if (count := len(set(groups))) < PARTS:
        raise TaskError(
            f"{source}: {count} groups of clips are too few to {purpose[0]}, which takes {PARTS} parts; "
            f"add clips, or {purpose[1]}"
        )
    labels = [clip.labels[0] if clip.labels else "" for clip in clips] if stratified else None
    if labels is not None and (counts := Counter(filter(None, labels))):
        rarest, size = counts.most_common()[-1]
        if size < least:
            raise TaskError(
                f"{source}: the label {rarest!r} has {size} clips; to {purpose[0]} "
                f"takes {least} of each label: leave it out, or add a column of splits"
            )
        if max(counts.values()) < PARTS:  # too few to spread
            labels = None
    # Groups are numbered at random here. scikit-learn's own shuffle is missing in some releases (GroupKFold)
    # or loses the balance of labels (StratifiedGroupKFold, 1.6); the split must not depend on the release.
    numbers = np.unique(groups, return_inverse=True)[1]
    numbers = np.random.default_rng(SEED).permutation(numbers.max() + 1)[numbers]
    if labels is None:
        folds = GroupKFold(PARTS).split(groups, groups=numbers)
    else:
        folds = StratifiedGroupKFold(PARTS).split(groups, labels, numbers)
    parts = np.empty(len(groups), dtype=int)
    with warnings.catch_warnings():  # of labels with fewer clips than parts
        warnings.simplefilter("ignore", UserWarning)
        for part, (_, held_out) in enumerate(folds):
            parts[held_out] = part
    return parts


def _line(clip: Labelled) -> list[str]:
    end = "" if clip.seconds is None else f"{clip.start + clip.seconds:.6f}"
    return [clip.name, f"{clip.start:.6f}", end]


def _keep(source: Path, clips: Sequence[Labelled], path_column: str) -> None:
    whole = all(clip.start == 0 and clip.seconds is None for clip in clips)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([path_column, *([] if whole else ["start", "end"]), "split"])
    lines.writerows([*_line(clip)[: 1 if whole else 3], clip.split] for clip in clips)
    place = split_file(source)
    if not place.exists():
        try:
            write(place, text.getvalue())
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            note(f"{place}: cannot be written ({error.strerror}); the split is the same in every run")
    elif place.read_text(encoding="utf-8", errors="replace") != text.getvalue():
        raise TaskError(
            f"{place}: holds another split than the one for these clips and options; remove it, or use it "
            f"with --split {place}"
        )
