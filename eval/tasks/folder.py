"""Tasks from folders: one folder a class, or recordings with Audacity's label tracks next to them.

Both may be inside folders of the splits, such as train/, valid/ and test/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ajepa.audio import find_audio
from ajepa.data.labelled import SPLIT_NAMES, Labelled
from ajepa.data.tables import LABEL_SEPARATOR, existing_folder, listed
from ajepa.data.tracks import TRACK_SUFFIX, read_track

from .labelled import make_task
from .task import Task, TaskError

BY_FOLDER = "folder"  # in the place of an expression for groups


def open_folder(data: str | Path, *, split: str | None = None, group: str | None = None) -> Task:
    """A task from a folder with one folder of audio a class, directly in it or in folders of the splits.

    A class's folder may have folders of its own.

    Args:
        data: the folder.
        split: None takes the folders of the splits, and where there are none makes a split. "auto" makes one
            in any case; a file that such a split was written to is read.
        group: what clips share. "folder" is the folder that holds a clip, within its class's folder; anything
            else is a regular expression, whose match in a file's name is its group.

    Raises:
        TaskError: the folder is not of this form, or its clips cannot be split.
        AudioError: there is no audio.
    """
    root = _absolute(data, "a folder with one folder of audio a class")
    group_of = _grouping(group)
    clips = []
    for path, part, within in _by_split(root, split):
        name = path.relative_to(root).as_posix()
        if len(within) < 2:
            raise TaskError(f"{root}: {name} is in no class's folder; move it into one")
        subfolder = name.rpartition("/")[0] if len(within) > 2 else ""
        clips.append(Labelled(path, name, (within[0],), part, group_of(path, subfolder)))
    return make_task(root, clips, name=root.name, split=split, notes=("the user's own folders",))


def open_audacity(
    data: str | Path,
    *,
    split: str | None = None,
    group: str | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
) -> Task:
    """A task from recordings with label tracks: each label of `song.txt` is a clip of `song.wav`.

    Clips of one recording stay together where a split is made.

    Args:
        data: the folder; recordings in it and below it.
        split, group: as in `open_folder`; without `group` a recording is a group.
        multilabel: a label's text is any number of labels, separated by `label_separator`; recordings with an
            empty track are clips without labels.

    Raises:
        TaskError: a track cannot be read, no recording has one, or the clips cannot be split.
        AudioError: there is no audio.
    """
    root = _absolute(
        data, f"a folder of recordings, each with its labels in a {TRACK_SUFFIX} file next to it"
    )
    group_of = _grouping(group)
    clips, without = [], []
    for path, part, within in _by_split(root, split):
        name, track = path.relative_to(root).as_posix(), path.with_suffix(TRACK_SUFFIX)
        if not track.is_file():
            without.append(name)
            continue
        whole = Labelled(path, name, (), part, group_of(path, "/".join(within[:-1])) or name)
        spans = read_track(track)
        for start, seconds, text in spans:
            labels = tuple(one for one in map(str.strip, text.split(label_separator)) if one)
            labels = labels if multilabel else (text,)
            clips.append(whole._replace(labels=labels, start=start, seconds=seconds))
        if multilabel and not spans:
            clips.append(whole)
    if not clips:
        raise TaskError(f"{root}: no recording has labels in a {TRACK_SUFFIX} file next to it")
    notes = ["the user's own label tracks"]
    if without:
        notes.append(f"{len(without):,} recordings have no label track and are left out: {listed(without)}")
    return make_task(
        root, clips, name=root.name, split=split, multilabel=multilabel, segments=True, notes=notes
    )


def _absolute(data: str | Path, expected: str) -> Path:
    """A folder by its own name, which is the task's, links included; a split is written next to it."""
    return Path(os.path.abspath(existing_folder(data, expected)))  # noqa: PTH100  # keeps links


def _by_split(root: Path, split: str | None) -> list[tuple[Path, str, Sequence[str]]]:
    """The audio files, each with its split and its path below the split's folder.

    The folders in `root` are splits if all of them are called so, and one is for training.
    """
    files = [(path, path.relative_to(root).parts) for path in find_audio(root)]
    tops = {parts[0] for _, parts in files if len(parts) > 1}
    splits = {SPLIT_NAMES.get(top.lower(), "") for top in tops}
    if "train" not in splits or splits == {"train", ""}:  # a class may be called train
        return [(path, "", parts) for path, parts in files]
    if stray := [path.name for path, parts in files if len(parts) == 1]:
        raise TaskError(f"{root}: {listed(stray)} is in no split's folder; move it into one")
    if others := sorted(top for top in tops if top.lower() not in SPLIT_NAMES):
        raise TaskError(f"{root}: has folders of splits, and also {listed(others)}; move them elsewhere")
    alone = split is not None or splits == {"train"}
    return [(path, "" if alone else SPLIT_NAMES[parts[0].lower()], parts[1:]) for path, parts in files]


def _grouping(group: str | None) -> Callable[[Path, str], str]:
    """A function from a file and the folder that it is in to its group."""
    if group is None:
        return lambda path, folder: ""
    if group == BY_FOLDER:
        return lambda path, folder: folder
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise TaskError(
            f"group {group!r}: is neither {BY_FOLDER} nor a regular expression ({error})"
        ) from error

    def matched(path: Path, folder: str) -> str:
        if not (found := pattern.search(path.name)) or not found[0]:
            raise TaskError(f"{path}: its name does not match the group {group!r}; change the expression")
        return found[0]

    return matched
