"""The layout of Speech Commands (P. Warden, arXiv 1804.03209), read once for all toolkits.

A folder for each word with `{speaker}_nohash_{take}.wav`, `validation_list.txt`, `testing_list.txt`, and
`_background_noise_/`. The test set of the 12 classes is a separate archive with a folder for each class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ajepa import audio

from .copies import one_of_each, speaker
from .tables import TaskError, existing_folder, listed, locate, without_missing, without_suffix

HOME = "http://download.tensorflow.org/data"
TEST_ARCHIVE = f"{HOME}/speech_commands_test_set_v0.01.tar.gz"
KEYWORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
TEST_CLASSES = (*KEYWORDS, UNKNOWN, SILENCE)
VALIDATION_NOISE = "running_tap"
SILENCE_SECONDS = 1.0


class Recording(NamedTuple):
    """A clip: its word or class, its split by the official lists, and its speaker ("" if not named)."""

    path: Path
    word: str
    split: str
    speaker: str


class SpeechCommands:
    """A copy of the data set: WAV, FLAC, Ogg or MP3.

    Args:
        folder: the data set's folder.

    Raises:
        TaskError: it is missing. All methods raise it too, and name what is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = existing_folder(folder, f"Speech Commands, a folder for each word; it is at {HOME}")

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words that have a folder, sorted."""
        folders = (path for path in self.folder.iterdir() if path.is_dir())
        return tuple(sorted(path.name for path in folders if path.name[0] not in "._"))

    def of_word(self, word: str) -> list[Path]:
        """The clips of a word, one file for each."""
        return one_of_each((self.folder / word).iterdir())

    def clips(self, words: Collection[str] | None = None, *, skip_missing: bool = False) -> list[Recording]:
        """All clips of these words, or of all, with the splits that the two lists give them.

        Args:
            skip_missing: leave out listed clips whose files are missing.
        """
        if absent := sorted(set(words or ()) - set(self.words)):
            raise TaskError(
                f"{self.folder}: no folder for the words {listed(absent)}; there are {listed(self.words)}"
            )
        split_of: dict[str, str] = {}
        for split, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
            if not (self.folder / name).is_file():
                raise TaskError(
                    f"{self.folder / name}: no such file; copy the official list there, it splits by speaker"
                )
            split_of |= {without_suffix(line): split for line in (self.folder / name).read_text().split()}
        found = [
            Recording(path, word, split_of.get(f"{word}/{path.stem}", "train"), speaker(path.name))
            for word in self.words
            if words is None or word in words
            for path in self.of_word(word)
        ]
        if not found:
            raise TaskError(f"{self.folder}: no audio in folders named after words; it is at {HOME}")
        wanted = [stem for stem in split_of if words is None or stem.split("/")[0] in words]
        located = [(locate(self.folder, f"{stem}.wav"),) for stem in wanted]
        without_missing(located, self.folder / "*_list.txt", skip=skip_missing)
        return found

    @cached_property
    def noises(self) -> list[Path]:
        """The background noises, of which the class `_silence_` is made."""
        folder = existing_folder(self.folder / NOISE, "the noises that _silence_ is made of")
        if not (found := one_of_each(folder.iterdir())):
            raise TaskError(f"{folder}: no audio; copy the noises of Speech Commands there")
        return found

    def silence(self, *, to_the_end: bool) -> Iterator[tuple[Recording, float]]:
        """Slices of 1 s of the noises, half overlapping, and the seconds at which each starts.

        Those of `running_tap` are for validation, as in HEAR.

        Args:
            to_the_end: take the slice that ends with the recording too; HEAR's `hearpreprocess` does not.
        """
        for path in self.noises:
            split = "valid" if path.stem.startswith(VALIDATION_NOISE) else "train"
            info = audio.info(path)
            last = info.samples - info.sample_rate + (1 if to_the_end else 0)
            for first in range(0, last, info.sample_rate // 2):
                yield Recording(path, SILENCE, split, path.stem), first / info.sample_rate


def official_test(folder: str | Path) -> list[Recording]:
    """The clips of the unpacked test archive of the 12 classes. Raises TaskError: a class is missing."""
    folder = existing_folder(folder, f"the unpacked test archive, {TEST_ARCHIVE}")
    if absent := [label for label in TEST_CLASSES if not (folder / label).is_dir()]:
        raise TaskError(f"{folder}: no folder {listed(absent)}; expected the unpacked {TEST_ARCHIVE}")
    return [
        Recording(path, label, "test", speaker(path.name))
        for label in TEST_CLASSES
        for path in one_of_each((folder / label).iterdir())
    ]
