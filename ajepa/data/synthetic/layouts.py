"""Synthetic data sets in the on-disk layouts of real ones.

Sources: ESC-50 (Piczak 2015), Speech Commands (Warden 2018, arXiv:1804.03209), VoxCeleb1 (Nagrani 2017).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from ajepa import files

from .rooms import record
from .signals import SAMPLE_RATE, coloured_noise, generator, log_uniform
from .sounds import SOUNDS, sound
from .voices import WORDS, Voice, babble, speak


def write_esc50(
    folder: str | Path,
    *,
    clips_per_class: int = 40,
    classes: int = 10,
    folds: int = 5,
    seconds: float = 5.0,
    seed: int = 0,
) -> None:
    """Writes `audio/{fold}-{clip}-{take}-{target}.wav` and `meta/esc50.csv`.

    As in ESC-50, one source gives one or two takes, which share a room and stay in one fold; folds are
    balanced. The first ten classes carry `esc10`. At most `len(SOUNDS)` classes.
    """
    if not 1 <= classes <= len(SOUNDS):
        raise ValueError(f"classes must be 1 to {len(SOUNDS)}, not {classes}")
    folder, rows = Path(folder), []
    for target, kind in enumerate(list(SOUNDS)[:classes]):
        for index in range(clips_per_class):
            fold, within = 1 + index % folds, index // folds
            # Every second source has two takes: within = 0 | 1, 2 | 3 | 4, 5 | ...
            source, take = (within - 1, "B") if within % 3 == 2 else (within, "A")
            clip = 100_000 + (target * folds + fold - 1) * 10_000 + source
            rng = generator(seed, "esc50", kind, fold, source, take)
            dry = sound(kind, seconds, rng)
            if rng.random() < 0.3:
                other = str(rng.choice(list(SOUNDS)))
                dry = dry + 10 ** (-rng.uniform(8, 16) / 20) * sound(other, seconds, rng)
            name = f"{fold}-{clip}-{take}-{target}.wav"
            place = generator(seed, "esc50-place", kind, fold, source)
            _write(folder / "audio" / name, record(dry, rng, place=place))
            rows.append([name, fold, target, kind, target < 10, clip, take])
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    _write_csv(folder / "meta" / "esc50.csv", [header, *sorted(rows)])


def which_set(filename: str) -> str:
    """`training`, `validation` or `testing`: the split rule in the Speech Commands README.

    The part before `_nohash_` names the speaker; the SHA-1 of that name, modulo 2^27, gives a percentage:
    10 % are for validation, 10 % for testing. A speaker therefore stays in one split when files are added.
    """
    speaker = re.sub(r"_nohash_.*$", "", Path(filename).name)
    bucket = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27
    percent = bucket * 100.0 / (2**27 - 1)
    if percent < 10:
        return "validation"
    return "testing" if percent < 20 else "training"


def _speaker_hashes(count: int, seed: int) -> list[str]:
    """`count` names, of which `which_set` puts about 15 %, at least one, into validation and into testing."""
    held_out = max(1, round(0.15 * count))
    free = {"validation": held_out, "testing": held_out, "training": count - 2 * held_out}
    names: list[str] = []
    attempt = 0
    while len(names) < count:
        name = hashlib.sha256(f"{seed}/speaker/{attempt}".encode()).hexdigest()[:8]
        attempt += 1
        if free[which_set(name)]:
            free[which_set(name)] -= 1
            names.append(name)
    return names


def write_speech_commands(
    folder: str | Path,
    *,
    words: int = 10,
    speakers: int = 30,
    takes: int = 2,
    seconds: float = 1.0,
    noise_seconds: float = 10.0,
    seed: int = 0,
) -> None:
    """Writes `<word>/<speaker>_nohash_<take>.wav`, `_background_noise_/` and the two list files.

    Every speaker says every word `takes` times: words x speakers x takes clips. Speaker names are drawn so
    that each split has speakers (at least three are needed), and the lists follow `which_set`.
    """
    if speakers < 3 or not 1 <= words <= len(WORDS):
        raise ValueError(f"need at least 3 speakers and 1 to {len(WORDS)} words, not {speakers} and {words}")
    folder = Path(folder)
    lists: dict[str, list[str]] = {"training": [], "validation": [], "testing": []}
    for speaker in _speaker_hashes(speakers, seed):
        voice = Voice.draw(generator(seed, "speech-commands-voice", speaker))
        for word in list(WORDS)[:words]:
            for take in range(takes):
                rng = generator(seed, "speech-commands", speaker, word, take)
                name = f"{word}/{speaker}_nohash_{take}.wav"
                dry = speak(voice, WORDS[word], seconds, rng)
                _write(folder / name, record(dry, rng, place=rng, strength=0.6))
                lists[which_set(name)].append(name)
    for split in ("validation", "testing"):
        files.write(folder / f"{split}_list.txt", "".join(f"{name}\n" for name in sorted(lists[split])))
    noise_samples = round(noise_seconds * SAMPLE_RATE)
    rng = generator(seed, "background-noise")
    noises = {
        "white_noise": coloured_noise(noise_samples, 0, rng),
        "pink_noise": coloured_noise(noise_samples, -3, rng),
        "running_tap": sound("rain", noise_seconds, rng),
        "exercise_bike": sound("engine", noise_seconds, rng),
    }
    for name, wave in noises.items():
        _write(folder / "_background_noise_" / f"{name}.wav", 0.3 * wave / np.abs(wave).max())


def write_voxceleb1(
    folder: str | Path,
    *,
    speakers: int = 20,
    sessions: int = 5,
    utterances: int = 4,
    seconds: float = 3.0,
    seed: int = 0,
) -> None:
    """Writes `wav/idXXXXX/<session>/NNNNN.wav`, `iden_split.txt` and `vox1_meta.csv` (tab separated).

    Ids start at id10001. A session has one room and channel. The last session of a speaker is test (3), the
    one before it dev (2), the others train (1): no session crosses the splits. At least three are needed.
    """
    if sessions < 3:
        raise ValueError(f"need at least 3 sessions (train, dev, test), not {sessions}")
    folder, split_lines, meta = Path(folder), [], ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for number in range(speakers):
        speaker = f"id{10_001 + number}"
        voice = Voice.draw(generator(seed, "voxceleb1-voice", speaker))
        meta.append(f"{speaker}\tSynthetic_{number + 1:03d}\t{'f' if voice.tract > 1.06 else 'm'}\t-\tdev")
        for session in range(sessions):
            split = {sessions - 1: 3, sessions - 2: 2}.get(session, 1)
            session_name = generator(seed, "voxceleb1-session", speaker, session).bytes(6).hex()[:11]
            for utterance in range(1, utterances + 1):
                rng = generator(seed, "voxceleb1", speaker, session, utterance)
                place = generator(seed, "voxceleb1-place", speaker, session)
                wave = record(babble(voice, seconds, rng), rng, place=place, strength=0.4)
                name = f"{speaker}/{session_name}/{utterance:05d}.wav"
                _write(folder / "wav" / name, wave)
                split_lines.append(f"{split} {name}")
    files.write(folder / "iden_split.txt", "\n".join(split_lines) + "\n")
    files.write(folder / "vox1_meta.csv", "\n".join(meta) + "\n")


def write_unlabelled(folder: str | Path, *, clips: int = 400, seconds: float = 10.0, seed: int = 0) -> None:
    """Writes `clip_NNNNNN.wav` for pre-training: one to three sounds a clip, a third of them speech.

    All kinds of sounds and words occur. Voices, rooms and instances differ from those of the labelled sets
    even for the same seed, because the generators are derived from another name.
    """
    samples = round(seconds * SAMPLE_RATE)
    for index in range(clips):
        rng = generator(seed, "unlabelled", index)
        mix = np.zeros(samples, dtype=np.float32)
        for _ in range(rng.integers(1, 4)):
            part = rng.uniform(min(1.0, seconds), seconds)
            if rng.random() < 1 / 3:
                wave = babble(Voice.draw(rng), part, rng)
            else:
                wave = sound(str(rng.choice(list(SOUNDS))), part, rng)
            start = int(rng.integers(0, samples - len(wave) + 1))
            mix[start : start + len(wave)] += log_uniform(rng, 0.2, 1.0) * wave
        _write(Path(folder) / f"clip_{index:06d}.wav", record(mix, rng, place=rng))


def write_events(
    folder: str | Path, *, recordings: int = 40, seconds: float = 20.0, kinds: int = 6, seed: int = 0
) -> None:
    """Writes `audio/NNNN.wav`, a label track of Audacity next to each, and `events.csv` of all events.

    A recording has one event in two seconds on average; events may overlap. The first recording of each split
    has none: an empty track, and a row without times. Three in five recordings are for training, one for
    validation and one for testing.

    Raises:
        ValueError: recordings of less than half a second, which is the shortest event.
    """
    if seconds < 0.5:
        raise ValueError(f"recordings of {seconds} s; an event takes at least 0.5 s")
    folder, rows = Path(folder), []
    samples = round(seconds * SAMPLE_RATE)
    for number in range(recordings):
        rng = generator(seed, "events", number)
        split = ("train", "train", "train", "valid", "test")[number % 5]
        mix, spans = np.zeros(samples, dtype=np.float32), []
        for _ in range(rng.poisson(seconds / 2) + 1 if number not in (0, 3, 4) else 0):
            kind = str(rng.choice(list(SOUNDS)[:kinds]))
            wave = sound(kind, rng.uniform(0.5, min(2.0, seconds)), rng)
            start = int(rng.integers(0, max(1, samples - len(wave))))
            mix[start : start + len(wave)] += log_uniform(rng, 0.3, 1.0) * wave
            spans.append((start / SAMPLE_RATE, (start + len(wave)) / SAMPLE_RATE, kind))
        name = f"audio/{number:04d}.wav"
        _write(folder / name, record(mix, rng, place=rng, strength=0.3))
        lines = [f"{start:.6f}\t{end:.6f}\t{kind}\n" for start, end, kind in sorted(spans)]
        files.write((folder / name).with_suffix(".txt"), "".join(lines))
        rows += [(name, f"{start:.6f}", f"{end:.6f}", kind, split) for start, end, kind in sorted(spans)]
        rows += [] if spans else [(name, "", "", "", split)]
    _write_csv(folder / "events.csv", [("path", "start", "end", "label", "split"), *rows])


def _write(path: Path, wave: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.naming(path):
        soundfile.write(os.fsencode(path), wave, SAMPLE_RATE, subtype="PCM_16")


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    files.write(path, text.getvalue())
