"""Speech Commands (P. Warden, arXiv 1804.03209), version 0.01 with 12 classes and 0.02 with 35.

Layout: a folder for each word with `{speaker}_nohash_{take}.wav`, `validation_list.txt`, `testing_list.txt`,
and `_background_noise_/`. The test set of the 12 classes is a separate archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ajepa import audio
from ajepa.data.copies import one_of_each, speaker
from ajepa.data.tables import KEYWORDS, existing_folder, listed, locate, without_missing, without_suffix

from .task import Clip, Task, TaskError, per_split, slashed

HOME = "http://download.tensorflow.org/data"
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
VALIDATION_NOISE = "running_tap"
SILENCE_SECONDS = 1.0
# The data set's published "64,727 files" of version 0.01 include the noises.
V1_COUNTS, V1_WORDS, V1_NOISES = (51_088, 6_798, 6_835), 30, 6
V1_TEST_CLIPS, V2_TEST_CLIPS = 3_081, 4_890
V2_COUNTS, V2_WORDS = (84_843, 9_981, 11_005), 35
TEST_FOLDER = "speech_commands_test_set_v0.01"


def open_speech_commands_v2(data: str | Path, *, skip_missing: bool = False) -> Task:
    """One class for each word that has a folder, split by the official lists (35 words in version 0.02).

    Args:
        data: the data set's folder.
        skip_missing: leave out listed clips whose files are missing.

    Raises:
        TaskError: the folder or a list is missing, or there is no audio.
    """
    data = Path(data)
    clips = _listed_clips(data, f"{HOME}/speech_commands_v0.02.tar.gz", skip_missing)
    words = {clip.labels for clip in clips}
    counts = per_split(clips)
    if counts == V2_COUNTS and len(words) == V2_WORDS:
        return Task("speech_commands_v2", tuple(clips), folds=False)
    note = (
        f"{len(words)} words, {slashed(counts)} clips; version 0.02 has {V2_WORDS} and {slashed(V2_COUNTS)}"
    )
    return Task(f"speech_commands_{len(words)}_words", tuple(clips), folds=False, notes=(note,))


def open_speech_commands_v1(
    data: str | Path, *, test_data: str | Path | None = None, skip_missing: bool = False
) -> Task:
    """Ten words, `_unknown_` (all others) and `_silence_`, tested on the official archive.

    Silence for training is 1 s slices, half overlapping, of `_background_noise_`. The slices of `running_tap`
    are for validation, as in HEAR. The clips that `testing_list.txt` names are not used.

    Args:
        data: the folder of version 0.01.
        test_data: the unpacked `speech_commands_test_set_v0.01.tar.gz`: a folder for each of the 12 classes;
            if None, the folder of that name next to `data`.
        skip_missing: as in `open_speech_commands_v2`.

    Raises:
        TaskError: a folder, list or class is missing.
    """
    data, archive = Path(data), f"{HOME}/speech_commands_test_set_v0.01.tar.gz"
    if test_data is None:
        test_data = data.absolute().parent / TEST_FOLDER
        if not test_data.is_dir():
            raise TaskError(
                f"speech_commands_v1 is tested on a separate archive ({archive}): pass test_data, or put "
                f"it at {test_data}"
            )
    listed_clips = _listed_clips(data, f"{HOME}/speech_commands_v0.01.tar.gz", skip_missing)
    if absent := sorted(set(KEYWORDS) - {clip.labels[0] for clip in listed_clips}):
        raise TaskError(
            f"{data}: no clips of {listed(absent)}; the 12 classes need all of {', '.join(KEYWORDS)}: "
            "complete the copy, or use speech_commands_v2, which takes the words that are present"
        )
    clips = [
        clip if clip.labels[0] in KEYWORDS else clip._replace(labels=(UNKNOWN,))
        for clip in listed_clips
        if clip.split != "test"
    ]
    noises = one_of_each(existing_folder(data / NOISE, "the noises that _silence_ is made of").iterdir())
    clips += _silence(noises)
    test = existing_folder(test_data, f"the unpacked test archive, {archive}")
    labels = (*KEYWORDS, UNKNOWN, SILENCE)
    if absent := [label for label in labels if not (test / label).is_dir()]:
        raise TaskError(f"{test}: no folder {listed(absent)}; expected the unpacked {archive}")
    tested = [
        Clip(path, (label,), "test", speaker(path.name))
        for label in labels
        for path in one_of_each((test / label).iterdir())
    ]
    words = len({clip.path.parent for clip in listed_clips})
    counts = per_split(listed_clips)
    notes = []
    if (counts, words, len(noises)) != (V1_COUNTS, V1_WORDS, V1_NOISES):
        notes.append(
            f"{slashed(counts)} clips of {words} words, {len(noises)} noises; version 0.01 has "
            f"{slashed(V1_COUNTS)} of {V1_WORDS}, {V1_NOISES}"
        )
    if len(tested) != V1_TEST_CLIPS:
        notes.append(f"{len(tested):,} clips to test; the official archive has {V1_TEST_CLIPS:,}")
    return Task("speech_commands_v1", tuple(clips + tested), folds=False, notes=tuple(notes))


def _listed_clips(data: Path, home: str, skip_missing: bool) -> list[Clip]:
    """All clips in the word folders, with the splits that the two lists give them."""
    existing_folder(data, f"a folder for each word; it is at {home}")
    split_of: dict[str, str] = {}
    for split, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        if not (data / name).is_file():
            raise TaskError(f"{data / name}: no such file; the official lists keep speakers apart ({home})")
        split_of |= {without_suffix(line): split for line in (data / name).read_text().split()}
    without_missing(
        [(locate(data, f"{stem}.wav"),) for stem in split_of], data / "*_list.txt", skip=skip_missing
    )
    words = sorted(path for path in data.iterdir() if path.is_dir() and path.name[0] not in "._")
    clips = []
    for word in words:
        for path in one_of_each(word.iterdir()):
            split = split_of.get(f"{word.name}/{path.stem}", "train")
            clips.append(Clip(path, (word.name,), split, speaker(path.name)))
    if not clips:
        raise TaskError(f"{data}: no audio in folders named after words; it is at {home}")
    return clips


def _silence(noises: Sequence[Path]) -> list[Clip]:
    clips = []
    for path in noises:
        split = "valid" if path.stem == VALIDATION_NOISE else "train"
        seconds = audio.info(path).seconds
        for number in range(int(2 * (seconds / SILENCE_SECONDS - 1)) + 1):
            start = number * SILENCE_SECONDS / 2
            clips.append(Clip(path, (SILENCE,), split, path.stem, start, SILENCE_SECONDS))
    return clips
