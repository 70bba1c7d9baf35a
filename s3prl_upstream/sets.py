"""Data sets on disk, converted for s3prl's tasks.

`speech_commands` and `voxceleb1` write a folder with a `config.yaml` for `-c`: SUPERB's settings with the
paths filled in. Audio that is 16 kHz mono WAV is linked, other audio converted. Nothing is downloaded.

Sources: s3prl/downstream/{speech_commands,voxceleb1}; P. Warden, arXiv 1804.03209, for the official test set.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile
import yaml
from tqdm import tqdm

from ajepa.audio import load
from ajepa.data.copies import COPY_SUFFIXES
from ajepa.data.speech_commands import NOISE, SpeechCommands, official_test
from ajepa.data.synthetic.layouts import which_set
from ajepa.data.tables import TaskError, existing_folder, without_missing
from ajepa.files import folder_in_place_of

SAMPLE_RATE = 16_000
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
BATCH = 32  # of keyword spotting: s3prl drops a last, smaller batch
SPEAKERS = range(10_001, 11_252)  # classes of s3prl's speaker identification: 1,251
CONFIG = "config.yaml"

DataSetError = TaskError  # a data set that cannot be converted is one kind of error for all toolkits


def speech_commands(
    source: str | Path,
    out: str | Path,
    *,
    keywords: Sequence[str] = KEYWORDS,
    test_source: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write `train/<word>/*.wav`, `train/_background_noise_/`, `test/<class>/*.wav` and `config.yaml`.

    s3prl splits `train` by the hash in the file names and reads `test` as it is: a folder for each keyword
    found, `_unknown_` and `_silence_`. This is the official test archive if `test_source` names it. Otherwise
    it is made from `source` like the official one: the clips whose hash puts them into the test set; as many
    clips of other words as a keyword has on average; and as many seconds of silence from
    `_background_noise_`. Both draws depend only on the file names.

    Args:
        keywords: up to ten words of `source`, which get the names of the ten that s3prl knows.

    Returns the folder. Raises DataSetError.
    """
    source, out = Path(source).resolve(), Path(out)
    copy = SpeechCommands(source)
    clips, noises = _named_clips(copy, keywords), copy.noises
    split = {path: which_set(path.name) for paths in clips.values() for path in paths}
    _check_speech_commands(source, Counter(split.values()), noises)
    tested: dict[str, list[Path]] = {}
    if test_source:
        for one in official_test(Path(test_source).resolve()):
            tested.setdefault(one.word, []).append(one.path)
    _check_out(out, force)
    with folder_in_place_of(out) as partial:
        for name, paths in [*clips.items(), (NOISE, noises)]:
            _place_all(paths, partial / "train" / name)
        for name, paths in tested.items():
            _place_all(paths, partial / "test" / name)
        if not test_source:
            _write_test(clips, split, noises, partial / "test")
        _write_config("speech_commands", partial, out)
    return out


def _named_clips(copy: SpeechCommands, keywords: Sequence[str]) -> dict[str, list[Path]]:
    """Audio of each word, by the name of its new folder."""
    if not 1 <= len(set(keywords)) == len(keywords) <= len(KEYWORDS):
        raise DataSetError(f"keywords {', '.join(keywords)}: give 1 to {len(KEYWORDS)} different words")
    clips = {word: paths for word in copy.words if (paths := copy.of_word(word))}
    if not set(clips) & set(keywords):
        raise DataSetError(
            f"{copy.folder}: no audio for any of the keywords {', '.join(keywords)}; choose up to ten of "
            f"{', '.join(clips)} with --keywords"
        )
    named = dict(zip(keywords, KEYWORDS, strict=False))
    # A keyword of s3prl that was not chosen counts as another word and needs another name.
    others = {word: f"other_{word}" if word in KEYWORDS else word for word in clips}
    return {named.get(word, others[word]): paths for word, paths in clips.items()}


def _check_speech_commands(source: Path, counts: Counter[str], noises: Sequence[Path]) -> None:
    for wanted, least in (("training", BATCH), ("validation", 1)):
        if counts[wanted] < least:
            raise DataSetError(
                f"{source}: {counts[wanted]} clips for {wanted} by the hash of their names, s3prl needs at "
                f"least {least}; names must be SPEAKER_nohash_N.wav"
            )
    for path in noises:
        if soundfile.info(os.fsencode(path)).duration <= 1:
            raise DataSetError(f"{path}: 1 s or less, but s3prl draws 1 s from each noise; remove the file")


def _write_test(
    clips: dict[str, list[Path]], split: dict[Path, str], noises: Sequence[Path], folder: Path
) -> None:
    held_out = {word: [path for path in paths if split[path] == "testing"] for word, paths in clips.items()}
    keywords = {word: paths for word, paths in held_out.items() if word in KEYWORDS and paths}
    if not keywords:
        raise DataSetError("no keyword has test clips by the hash of their names; pass the test archive")
    average = max(1, round(sum(map(len, keywords.values())) / len(keywords)))
    draw = random.Random(0)
    for word, paths in keywords.items():
        _place_all(paths, folder / word)
    others = sorted(path for word, paths in held_out.items() if word not in KEYWORDS for path in paths)
    for path in draw.sample(others, min(average, len(others))):
        _place(path, folder / "_unknown_" / f"{path.parent.name}_{path.stem}.wav")
    waves = [load(path, sample_rate=SAMPLE_RATE).numpy() for path in noises]
    for number in range(average):
        wave, path = waves[number % len(waves)], noises[number % len(noises)]
        start = draw.randrange(len(wave) - SAMPLE_RATE + 1)
        _write_wav(folder / "_silence_" / f"{path.stem}_{start}.wav", wave[start : start + SAMPLE_RATE])
    print(
        f"note: this test set is not the official one of published scores: {len(keywords)} of the "
        f"{len(KEYWORDS)} keywords with {average} clips each on average, {min(average, len(others))} clips "
        f"of other words, {average} of silence",
        file=sys.stderr,
    )


def voxceleb1(
    source: str | Path,
    out: str | Path,
    *,
    meta: str | Path | None = None,
    skip_missing: bool = False,
    force: bool = False,
) -> Path:
    """Write `audio/wav/<speaker>/<session>/*.wav`, `iden_split.txt` and `config.yaml`.

    s3prl looks for `<any folder>/wav/` below its path.

    Args:
        source: a folder with `wav/<speaker>/...`, or with folders that have it (`vox1_dev_wav/wav/...`).
        meta: lines `<1|2|3> <speaker>/<session>/<file>.wav` for training, validation and test; by default
            `iden_split.txt`, or s3prl's own `veri_test_class.txt`, in `source`.
        skip_missing: leave out lines whose audio is missing.

    Returns the folder. Raises DataSetError.
    """
    source, out = existing_folder(source, "wav/<speaker>/<session>/*.wav").resolve(), Path(out)
    table = Path(meta) if meta else _first([source / "iden_split.txt", source / "veri_test_class.txt"])
    if table is None or not table.is_file():
        raise DataSetError(f"{table or source / 'iden_split.txt'}: no such file; name one with --meta")
    roots = [path for path in [source / "wav", *sorted(source.glob("*/wav"))] if path.is_dir()]
    located = [
        (_locate(roots, name) or source / "wav" / name, split, name) for split, name in _read_meta(table)
    ]
    present = without_missing(located, table, skip_missing)
    splits = Counter(split for _, split, _ in present)
    if absent := [number for number in "123" if not splits[number]]:
        raise DataSetError(f"{table}: no file of split {', '.join(absent)} (1 train, 2 validation, 3 test)")
    _check_out(out, force)
    with folder_in_place_of(out) as partial:
        for path, _, name in tqdm(present, desc="audio", unit="file", disable=None):
            _place(path, partial / "audio" / "wav" / name)
        lines = "".join(f"{split} {name}\n" for _, split, name in present)
        (partial / "iden_split.txt").write_text(lines)
        _write_config("voxceleb1", partial, out)
    return out


def _read_meta(table: Path) -> Iterator[tuple[str, str]]:
    text = table.read_text(encoding="utf-8", errors="replace")  # a wrong byte is in no line that is taken
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([123])\s+(id(\d{5})/[^/\s]+/[^/\s]+\.wav)", line.strip())
        if not match:
            raise DataSetError(f"{table}, line {number}: {line!r}; expected `1 id10001/session/00001.wav`")
        if int(match[3]) not in SPEAKERS:
            raise DataSetError(
                f"{table}, line {number}: speaker id{match[3]}, but s3prl has the classes id{SPEAKERS[0]} to "
                f"id{SPEAKERS[-1]}; rename the speakers"
            )
        yield match[1], match[2]


def _locate(roots: Sequence[Path], name: str) -> Path | None:
    candidates = (root / name for root in roots)
    return _first(path.with_suffix(suffix) for path in candidates for suffix in COPY_SUFFIXES)


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


# -- what both share --


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / CONFIG).is_file():
            raise DataSetError(f"{out}: exists and was not made here; move it away or choose another --out")
        if not force:
            raise DataSetError(f"{out}: exists; pass --force to replace it")


def _place_all(paths: Sequence[Path], folder: Path) -> None:
    for path in tqdm(paths, desc=folder.name, unit="file", disable=None):
        _place(path, folder / f"{path.stem}.wav")


def _place(path: Path, target: Path) -> None:
    """Link a 16 kHz mono WAV file; convert any other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".wav":
        found = soundfile.info(os.fsencode(path))
        if (found.samplerate, found.channels, found.format) == (SAMPLE_RATE, 1, "WAV"):
            target.symlink_to(path)
            return
    _write_wav(target, load(path, sample_rate=SAMPLE_RATE).numpy())


def _write_wav(path: Path, samples_S: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), samples_S, SAMPLE_RATE, subtype="PCM_16")


def _write_config(task: str, partial: Path, out: Path) -> None:
    """SUPERB's settings with the paths of the final folder."""
    text = (files("ajepa.s3prl_upstream") / "configs" / f"{task}.yaml").read_text()
    config = yaml.safe_load(text)
    data = config["downstream_expert"]["datarc"]
    for key, value in data.items():
        if isinstance(value, str):
            data[key] = value.replace("DATA", str(out.resolve()), 1)
    (partial / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
