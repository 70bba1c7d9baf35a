"""Speech Commands (P. Warden, arXiv 1804.03209), version 0.01 with 12 classes and 0.02 with 35.

The layout is that of `ajepa.data.speech_commands`.
"""

from __future__ import annotations

from pathlib import Path

from ajepa.data.speech_commands import (
    KEYWORDS,
    SILENCE_SECONDS,
    TEST_ARCHIVE,
    UNKNOWN,
    Recording,
    SpeechCommands,
    official_test,
)
from ajepa.data.tables import listed

from .task import Clip, Task, TaskError, per_split, slashed

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
    clips = [_clip(one) for one in SpeechCommands(data).clips(skip_missing=skip_missing)]
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
    if test_data is None:
        test_data = Path(data).absolute().parent / TEST_FOLDER
        if not test_data.is_dir():
            raise TaskError(
                f"speech_commands_v1 is tested on a separate archive ({TEST_ARCHIVE}): pass test_data, or "
                f"put it at {test_data}"
            )
    copy = SpeechCommands(data)
    recordings = copy.clips(skip_missing=skip_missing)
    if absent := sorted(set(KEYWORDS) - {one.word for one in recordings}):
        raise TaskError(
            f"{data}: no clips of {listed(absent)}; the 12 classes need all of {', '.join(KEYWORDS)}: "
            "complete the copy, or use speech_commands_v2, which takes the words that are present"
        )
    clips = [
        _clip(one if one.word in KEYWORDS else one._replace(word=UNKNOWN))
        for one in recordings
        if one.split != "test"
    ]
    clips += [
        _clip(one)._replace(start=start, seconds=SILENCE_SECONDS)
        for one, start in copy.silence(to_the_end=True)
    ]
    tested = [_clip(one) for one in official_test(test_data)]
    words, noises = len({one.word for one in recordings}), len(copy.noises)
    counts = per_split([_clip(one) for one in recordings])
    notes = []
    if (counts, words, noises) != (V1_COUNTS, V1_WORDS, V1_NOISES):
        notes.append(
            f"{slashed(counts)} clips of {words} words, {noises} noises; version 0.01 has "
            f"{slashed(V1_COUNTS)} of {V1_WORDS}, {V1_NOISES}"
        )
    if len(tested) != V1_TEST_CLIPS:
        notes.append(f"{len(tested):,} clips to test; the official archive has {V1_TEST_CLIPS:,}")
    return Task("speech_commands_v1", tuple(clips + tested), folds=False, notes=tuple(notes))


def _clip(one: Recording) -> Clip:
    return Clip(one.path, (one.word,), one.split, one.speaker)
