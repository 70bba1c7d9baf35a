"""ESC-50 and ESC-10 (K. J. Piczak, ACM Multimedia 2015; github.com/karolpiczak/ESC-50).

Layout: `audio/{fold}-{clip}-{take}-{target}.wav` (or another format) and `meta/esc50.csv`. The folds are
the data set's own, which keep the clips of one source together. If a copy lacks classes in some folds, the
task uses its complete folds if there are at least three, or else makes sub-folds of a complete one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from ajepa.data.tables import existing_folder, listed, locate, read_table, without_missing

from .task import Clip, Task, TaskError, check_once

HOME = "https://github.com/karolpiczak/ESC-50 (archive/master.zip, about 600 MB)"
FOLDS = 5
CLIPS = {"esc50": 2000, "esc10": 400}
SUBFOLDS = 4


def open_esc50(data: str | Path, *, csv: str | Path | None = None, skip_missing: bool = False) -> Task:
    """ESC-50: 5 folds, 50 classes.

    Args:
        data: the data set's folder.
        csv: a table with the same columns to use instead of `meta/esc50.csv`; its folds are used as they are.
        skip_missing: leave out clips whose files are missing.

    Raises:
        TaskError: the folder, the table or a file is missing, or no fold can be used.
    """
    return _open(Path(data), "esc50", csv, skip_missing)


def open_esc10(data: str | Path, *, csv: str | Path | None = None, skip_missing: bool = False) -> Task:
    """ESC-10: the clips that the table of an ESC-50 folder flags `esc10`; arguments as in `open_esc50`."""
    return _open(Path(data), "esc10", csv, skip_missing)


def _open(data: Path, name: str, csv: str | Path | None, skip_missing: bool) -> Task:
    existing_folder(data, f"an ESC-50 folder with audio/ and meta/esc50.csv; get it from {HOME}")
    table = data / "meta" / "esc50.csv"
    if csv is not None:
        table = Path(csv) if Path(csv).is_file() else data / csv
    rows = read_table(table, ["filename", "fold", "category", "esc10", "src_file"]).rows
    if name == "esc10":
        rows = [row for row in rows if row["esc10"].strip().lower() == "true"]
    located = [(locate(data / "audio", row["filename"]), row) for row in rows]
    clips = [
        Clip(path, (row["category"],), row["fold"].strip(), row["src_file"])
        for path, row in without_missing(located, table, skip_missing)
    ]
    check_once(clips, table)
    if csv is not None:
        note = f"folds of {table.name}, which are not the published protocol"
        return Task(table.stem, tuple(clips), folds=True, notes=(note,))

    notes: list[str] = []
    classes = {clip.labels for clip in clips}
    of_fold = defaultdict(set)
    for clip in clips:
        of_fold[clip.split].add(clip.labels)
    complete = sorted(fold for fold, found in of_fold.items() if found == classes)
    if len(complete) < 3:
        if not complete:
            held = ", ".join(f"fold {fold}: {len(of_fold[fold])}" for fold in sorted(of_fold))
            raise TaskError(
                f"{table}: no fold has all {len(classes)} classes ({held}); complete the copy from {HOME}, "
                "or pass a table with your own folds"
            )
        fold = max(complete, key=lambda fold: sum(clip.split == fold for clip in clips))
        clips = subfolds([clip for clip in clips if clip.split == fold], SUBFOLDS)
        others = [other for other in complete if other != fold]
        which = "the only complete one"
        if others:
            which = f"complete as fold {listed(others)} is, which are too few"
        notes.append(f"{SUBFOLDS} sub-folds of fold {fold}, {which}; not the published protocol")
        name = f"{name}_fold{fold}"
    else:
        clips = [clip for clip in clips if clip.split in complete]
        if len(complete) < FOLDS:
            notes.append(f"folds {listed(complete)} alone; the others lack classes or are not there")
        if len(clips) != CLIPS[name] or set(Counter(clip.split for clip in clips).values()) != {
            CLIPS[name] // FOLDS
        }:
            notes.append(f"{len(clips):,} of {CLIPS[name]:,} clips, {len(classes)} classes")
    return Task(name, tuple(clips), folds=True, notes=tuple(notes))


def subfolds(clips: list[Clip], count: int) -> list[Clip]:
    """The clips split into `count` folds: clips of one source stay together, classes are spread evenly.

    Each source, largest first, goes to the fold with the fewest clips of its class, then the fewest clips.
    """
    sources: dict[tuple[tuple[str, ...], str], list[Clip]] = defaultdict(list)
    for clip in clips:
        sources[clip.labels, clip.group].append(clip)
    of_class: Counter[tuple[int, tuple[str, ...]]] = Counter()
    of_fold: Counter[int] = Counter()
    folded = []
    for (labels, _), members in sorted(sources.items(), key=lambda item: (-len(item[1]), item[0])):
        fold = min(range(1, count + 1), key=lambda fold: (of_class[fold, labels], of_fold[fold]))
        of_class[fold, labels] += len(members)
        of_fold[fold] += len(members)
        folded += [clip._replace(split=str(fold)) for clip in members]
    return sorted(folded)
