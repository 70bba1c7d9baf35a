"""VoxCeleb1 identification (Nagrani et al., Interspeech 2017).

Layout: `wav/{speaker}/{session}/{utterance}.wav` and `iden_split.txt`, lines `1|2|3 speaker/session/file` for
train, dev and test. All speakers are in all splits.
"""

from __future__ import annotations

from pathlib import Path

from ajepa.data.tables import existing_folder, locate, without_missing

from .task import SPLITS, Clip, Task, TaskError, check_once, per_split, slashed

HOME = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html"
SPLIT_LIST = "iden_split.txt"
COUNTS, SPEAKERS = (138_361, 6_904, 8_251), 1_251
SPLIT_OF = dict(zip("123", SPLITS, strict=True))


def open_voxceleb1(
    data: str | Path, *, split_list: str | Path | None = None, skip_missing: bool = False
) -> Task:
    """Speaker identification among all speakers of the data set.

    Args:
        data: the folder of `wav/` and `iden_split.txt`.
        split_list: another list in the form of `iden_split.txt`; a relative path is searched in `data` too.
        skip_missing: leave out listed utterances whose files are missing.

    Raises:
        TaskError: the folder, the list or a file is missing, or a line has another form.
    """
    data = Path(data)
    existing_folder(data / "wav", f"VoxCeleb1's wav/speaker/session/utterance.wav ({HOME})")
    lines = data / (split_list or SPLIT_LIST)
    if split_list is not None and Path(split_list).is_file():
        lines = Path(split_list)
    if not lines.is_file():
        raise TaskError(f"{lines}: no such file; get the list of splits, {SPLIT_LIST}, from {HOME}")
    located = []
    for number, line in enumerate(lines.read_text().splitlines(), 1):
        split, _, name = line.strip().partition(" ")
        if split not in SPLIT_OF or len(Path(name).parts) != 3:
            raise TaskError(f"{lines}, line {number}: {line!r}; expected `1 speaker/session/utterance.wav`")
        located.append((locate(data / "wav", name), name, SPLIT_OF[split]))
    clips = []
    for path, name, split in without_missing(located, lines, skip_missing):
        speaker, session, _ = Path(name).parts
        clips.append(Clip(path, (speaker,), split, f"{speaker}/{session}"))
    check_once(clips, lines)
    counts = per_split(clips)
    speakers = len({clip.labels for clip in clips})
    if (counts, speakers) == (COUNTS, SPEAKERS):
        return Task("voxceleb1", tuple(clips), folds=False)
    note = (
        f"{speakers:,} speakers, {slashed(counts)} utterances; VoxCeleb1 has {SPEAKERS:,} and "
        f"{slashed(COUNTS)}"
    )
    name = f"voxceleb1_{speakers}_speakers"
    if lines.name != SPLIT_LIST:
        name += f"_{lines.stem.removeprefix('iden_split_')}"
    return Task(name, tuple(clips), folds=False, notes=(note,))
