"""Data sets on disk, converted to the tars that X-ARES 0.1.3 reads.

    ajepa data xares esc50 --source ESC-50 --out env

writes `env/<task>/`, where X-ARES looks for it in the folder where it runs: tars of audio with a JSON file
per clip, by split, and `.audio_tar_ready`, which stops it from downloading. The splits are the data set's own
lists, and the labels are the ones that X-ARES's tasks know. Clips are stored in a fixed random order, since
X-ARES shuffles only within a window in training.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from ajepa import audio
from ajepa.data.tables import read_table
from ajepa.errors import AjepaError
from ajepa.eval.tasks import Clip, open_task
from ajepa.files import folder_in_place_of

READY = ".audio_tar_ready"
SAMPLE_RATE = 16_000  # of audio that has to be converted
AS_IT_IS = (".wav", ".flac", ".ogg", ".mp3")  # formats that X-ARES decodes here
CLIPS_A_TAR = 2_000
# Words of X-ARES's task: the words of Speech Commands v0.01.
WORDS = (
    *("bed", "bird", "cat", "dog", "down", "eight", "five", "four", "go", "happy", "house", "left", "marvin"),
    *("nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two"),
    *("up", "wow", "yes", "zero"),
)


class XaresSetError(AjepaError, ValueError):
    """A data set cannot be converted for X-ARES; the message says what is missing."""


@dataclass(frozen=True)
class _Set:
    """How a data set becomes tars.

    Attributes:
        task: X-ARES's name for it, which is also the folder's name.
        opens: our task with the same clips and splits.
        tars: prefix of the tars' names for each of our splits.
        describe: takes the data set's folder; returns a function that gives a clip's JSON, or None for a clip
            that X-ARES does not use.
    """

    task: str
    opens: str
    tars: Mapping[str, str]
    describe: Callable[[Path], Callable[[Clip], dict[str, Any] | None]]


def _esc50(source: Path) -> Callable[[Clip], dict[str, Any] | None]:
    table = source / "meta" / "esc50.csv"
    number = {}
    for row in read_table(table, ["target", "category"]).rows:
        if not row["target"].isdecimal():
            raise XaresSetError(f"{table}: target {row['target']!r} of {row['category']} is no class number")
        number[row["category"]] = int(row["target"])

    def describe(clip: Clip) -> dict[str, Any]:
        if clip.labels[0] not in number:
            raise XaresSetError(
                f"{table}: no category {clip.labels[0]!r}, the label of {clip.path.name}; add it"
            )
        return {"label": number[clip.labels[0]]}

    return describe


def _words(source: Path) -> Callable[[Clip], dict[str, Any] | None]:
    return lambda clip: {"labels": clip.labels[0]} if clip.labels[0] in WORDS else None


def _speakers(source: Path) -> Callable[[Clip], dict[str, Any] | None]:
    return lambda clip: {"speakerid": clip.labels[0]}


_FOLDS = {str(fold): f"wds-audio-fold-{fold}-" for fold in range(1, 6)}
SETS: dict[str, _Set] = {
    "esc50": _Set("esc50", "esc50", _FOLDS, _esc50),
    "esc10": _Set("esc50", "esc10", _FOLDS, _esc50),
    "speechcommandsv1": _Set(
        "speechcommandsv1",
        "speech_commands_v2",
        {split: f"wds-audio-{split}-" for split in ("train", "valid", "test")},
        _words,
    ),
    "voxceleb1": _Set(
        "voxceleb1",
        "voxceleb1",
        {split: f"voxceleb1_{split}_" for split in ("train", "valid", "test")},
        _speakers,
    ),
}


def write_tars(
    dataset: str,
    source: str | Path,
    out: str | Path,
    *,
    csv: str | Path | None = None,
    split_list: str | Path | None = None,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Write the tars of a data set; returns their folder, `out`/<X-ARES's task name>.

    Args:
        dataset: esc50, esc10 (its ten classes, for X-ARES's esc50), speechcommandsv1 (official lists; words
            that version 0.01 lacks are left out) or voxceleb1.
        source: the data set's folder.
        out: the folder that X-ARES calls `env`.
        csv: for esc50 and esc10, a table to use instead of `meta/esc50.csv`, with folds 1 to 5.
        split_list: for voxceleb1, a list to use instead of `iden_split.txt`.
        skip_missing: leave out listed clips whose files are missing.
        force: replace a folder that exists.

    Raises:
        XaresSetError: there is no such data set, the folder exists, or the splits do not fit X-ARES's task.
        ajepa.hear_module.task_folder.TaskError: the data are not in the layout of the data set.
    """
    if dataset not in SETS:
        raise XaresSetError(f"no data set is called {dataset!r}; choose {', '.join(SETS)}")
    made, source = SETS[dataset], Path(source)
    given = {"csv": csv, "split_list": split_list, "skip_missing": skip_missing or None}
    task = open_task(made.opens, source, **{key: value for key, value in given.items() if value is not None})
    if set(task.counts) != set(made.tars):
        raise XaresSetError(
            f"{source}: {task.name} has the splits {', '.join(sorted(task.counts))}, X-ARES's {made.task} "
            f"has {', '.join(made.tars)}; complete the copy, or give a table with these folds"
        )
    describe = made.describe(source)
    clips = [(clip, about) for clip in task.clips if (about := describe(clip)) is not None]
    counts = Counter(clip.split for clip, _ in clips)
    if empty := [split for split in made.tars if not counts[split]]:
        raise XaresSetError(f"{source}: no clips of X-ARES's classes in {', '.join(empty)}")
    left_out = len(task.clips) - len(clips)
    for note in (*task.notes, *([f"{left_out:,} clips of other classes left out"] if left_out else [])):
        print(f"note: {task.name}: {note}", file=sys.stderr)
    return _write(clips, made, Path(out) / made.task, force)


def _write(clips: list[tuple[Clip, dict[str, Any]]], made: _Set, folder: Path, force: bool) -> Path:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / READY).is_file():  # it may be the data set itself
            raise XaresSetError(f"{folder}: exists but is not a folder of X-ARES tars; choose another --out")
        if not force:
            raise XaresSetError(f"{folder}: exists; pass --force to replace it and X-ARES's results in it")
    with folder_in_place_of(folder) as partial, tqdm(total=len(clips), unit="clip", disable=None) as bar:
        for split, start in made.tars.items():
            members = [member for member in clips if member[0].split == split]
            members.sort(key=lambda member: member[0].path)
            random.Random(0).shuffle(members)
            for number, first in enumerate(range(0, len(members), CLIPS_A_TAR)):
                with tarfile.open(partial / f"{start}{number:07d}.tar", "w") as tar:
                    for clip, about in members[first : first + CLIPS_A_TAR]:
                        _add_clip(tar, clip, about)
                        bar.update()
        (partial / READY).touch()
    return folder


def _add_clip(tar: tarfile.TarFile, clip: Clip, about: dict[str, Any]) -> None:
    """Two members: the audio, unchanged if X-ARES can read it, and the clip's metadata."""
    # The clip's name, the same in all splits, without dots: what follows the first dot is a file type.
    name = "-".join([*clip.path.parts[-3:-1], clip.path.stem]).replace(".", "_")
    suffix = clip.path.suffix.lower()
    if suffix in AS_IT_IS:
        data = clip.path.read_bytes()
    else:
        suffix, buffer = ".flac", io.BytesIO()
        samples_S = audio.load(clip.path, sample_rate=SAMPLE_RATE).numpy()
        soundfile.write(buffer, samples_S, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        data = buffer.getvalue()
    for kind, content in ((suffix, data), (".json", json.dumps({**about, "group": clip.group}).encode())):
        member = tarfile.TarInfo(name + kind)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
