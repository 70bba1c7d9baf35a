"""Synthetic data sets: their layouts, that a seed decides everything, and how hard they are."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ajepa.data import synthetic


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path: Path) -> np.ndarray:
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype, info.format) == (16000, 1, "PCM_16", "WAV")
    return soundfile.read(path, dtype="float32")[0]


def check_audible(wave: np.ndarray) -> None:
    assert np.isfinite(wave).all()
    assert 0.01 < np.abs(wave).max() < 1


WRITERS = {
    "esc50": lambda folder, seed: synthetic.write_esc50(
        folder, clips_per_class=5, classes=3, seconds=1.0, seed=seed
    ),
    "speech_commands": lambda folder, seed: synthetic.write_speech_commands(
        folder, words=2, speakers=3, takes=1, noise_seconds=1.5, seed=seed
    ),
    "voxceleb1": lambda folder, seed: synthetic.write_voxceleb1(
        folder, speakers=2, sessions=3, utterances=1, seconds=1.0, seed=seed
    ),
    "unlabelled": lambda folder, seed: synthetic.write_unlabelled(folder, clips=4, seconds=1.5, seed=seed),
}


@pytest.mark.parametrize("name", WRITERS)
def test_seed_decides_every_byte(name, tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        WRITERS[name](tmp_path / folder, seed)
    first, again, other = (files_of(tmp_path / folder) for folder in "abc")
    assert first == again
    audio = {data for path, data in first.items() if path.endswith(".wav")}
    assert len(audio) == sum(path.endswith(".wav") for path in first)  # no two clips alike
    assert audio.isdisjoint(other.values())
    for path in (tmp_path / "a").rglob("*.wav"):
        check_audible(read(path))


def test_a_clip_does_not_depend_on_the_size_of_the_set(tmp_path):
    synthetic.write_esc50(tmp_path / "small", clips_per_class=5, classes=2, seconds=0.5)
    synthetic.write_esc50(tmp_path / "large", clips_per_class=10, classes=4, seconds=0.5)
    small, large = files_of(tmp_path / "small" / "audio"), files_of(tmp_path / "large" / "audio")
    assert len(large) == 40
    assert small.items() <= large.items()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(synthetic.SOUNDS)),
    seconds=st.floats(0.1, 3.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_kind_is_audible_at_every_length(kind, seconds, seed):
    wave = synthetic.sound(kind, seconds, synthetic.generator(seed, kind))
    assert wave.dtype == np.float32
    assert wave.shape == (round(seconds * 16000),)
    check_audible(wave)
    np.testing.assert_array_equal(wave, synthetic.sound(kind, seconds, synthetic.generator(seed, kind)))


def test_sound_refuses_what_it_cannot_make():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"no kind of sound is named 'quack'; choose one of rising_sweep"):
        synthetic.sound("quack", 1.0, rng)
    with pytest.raises(ValueError, match=r"at least 0\.1 s"):
        synthetic.sound("bell", 0.01, rng)


def spectral_centroid(wave: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.arange(len(power))).sum() / power.sum() * 16000 / len(wave))


def test_sweeps_go_where_their_name_says():
    """The frequency of the strongest bin rises (or falls) over most steps of 20 ms."""
    for kind, sign in (("rising_sweep", 1), ("falling_sweep", -1)):
        moves = []
        for seed in range(8):
            wave = synthetic.sound(kind, 3.0, synthetic.generator(seed))
            frames = torch.stft(
                torch.from_numpy(wave), 1024, 320, window=torch.hann_window(1024), return_complex=True
            )
            level, peak = frames.abs().max(dim=0)
            moves.append(np.sign(np.diff(peak[level > 0.2 * level.max()].numpy())).sum() * sign)
        assert np.median(moves) > 0, kind


def test_voices_differ_in_pitch_and_tract():
    """One word, two voices: a shorter tract lifts the spectrum, a higher pitch widens the harmonics."""
    low = synthetic.Voice(100, 0.9, (1.0, 1.0, 1.0), 0.6, 0.05, 0.0, 1.0)
    high = synthetic.Voice(100, 1.2, (1.0, 1.0, 1.0), 0.6, 0.05, 0.0, 1.0)
    says = [synthetic.speak(v, "lalelo", 1.0, synthetic.generator(1)) for v in (low, high)]
    assert spectral_centroid(says[1]) > 1.1 * spectral_centroid(says[0])
    for pitch in (100.0, 220.0):
        voice = synthetic.Voice(pitch, 1.0, (1.0, 1.0, 1.0), 0.6, 0.02, 0.0, 1.0)
        wave = synthetic.speak(voice, "aaaaaa", 1.0, synthetic.generator(2))[4800:9600]
        correlation = np.correlate(wave, wave, "full")[len(wave) - 1 :]
        period = 40 + int(correlation[40:320].argmax())
        assert 16000 / period == pytest.approx(pitch, rel=0.3)


def test_esc50_layout(tmp_path):
    synthetic.write_esc50(tmp_path, clips_per_class=15, classes=11, seconds=0.4, seed=1)
    with (tmp_path / "meta" / "esc50.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    assert {row["filename"] for row in rows} == {path.name for path in (tmp_path / "audio").iterdir()}
    assert len(rows) == 11 * 15
    for row in rows:
        assert row["filename"] == f"{row['fold']}-{row['src_file']}-{row['take']}-{row['target']}.wav"
        assert row["esc10"] == str(int(row["target"]) < 10)
        assert row["category"] == list(synthetic.SOUNDS)[int(row["target"])]
        assert len(read(tmp_path / "audio" / row["filename"])) == 6400
    for fold in "12345":
        targets = [row["target"] for row in rows if row["fold"] == fold]
        assert sorted(map(int, targets)) == sorted(list(range(11)) * 3)
    sources = {(row["src_file"], row["fold"], row["target"]) for row in rows}
    assert len(sources) == len({row["src_file"] for row in rows})  # a source is in one fold and class
    assert {row["take"] for row in rows} == {"A", "B"}
    with pytest.raises(ValueError, match="classes must be 1 to"):
        synthetic.write_esc50(tmp_path, classes=99)


def test_speech_commands_layout(tmp_path):
    synthetic.write_speech_commands(tmp_path, words=3, speakers=7, takes=2, noise_seconds=2.0)
    names = [p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("[!_]*/*.wav")]
    assert len(names) == 3 * 7 * 2
    assert all(re.fullmatch(r"[a-z]+/[0-9a-f]{8}_nohash_[01]\.wav", name) for name in names)
    assert {name.split("/")[0] for name in names} == set(list(synthetic.WORDS)[:3])
    lists = {
        split: (tmp_path / f"{split}_list.txt").read_text().split() for split in ("validation", "testing")
    }
    lists["training"] = sorted(set(names) - set(lists["validation"]) - set(lists["testing"]))
    speakers = {split: {Path(n).name[:8] for n in listed} for split, listed in lists.items()}
    assert {split: len(found) for split, found in speakers.items()} == {
        "validation": 1,
        "testing": 1,
        "training": 5,
    }
    assert len(set.union(*speakers.values())) == 7  # so no speaker is in two splits
    for split, listed in lists.items():
        assert set(listed) <= set(names)
        assert {synthetic.which_set(name) for name in listed} == {split}
    noises = list((tmp_path / "_background_noise_").glob("*.wav"))
    assert {"running_tap", "white_noise"} <= {path.stem for path in noises}
    assert all(len(read(path)) == 32000 for path in noises)
    with pytest.raises(ValueError, match="at least 3 speakers"):
        synthetic.write_speech_commands(tmp_path, speakers=2)


def test_which_set_agrees_with_the_real_lists(shared):
    folder = shared / "data" / "speech_commands_v0.02"
    if not folder.is_dir():
        pytest.skip(f"no real Speech Commands in {folder}")
    official = {
        name: split
        for split in ("validation", "testing")
        for name in (folder / f"{split}_list.txt").read_text().split()
    }
    names = [p.relative_to(folder).as_posix() for p in folder.glob("[!_]*/*.wav")]
    assert len(names) > 1000
    assert {name: synthetic.which_set(name) for name in names} == {
        name: official.get(name, "training") for name in names
    }


def test_voxceleb1_layout(tmp_path):
    synthetic.write_voxceleb1(tmp_path, speakers=3, sessions=4, utterances=2, seconds=1.0)
    lines = [line.split() for line in (tmp_path / "iden_split.txt").read_text().splitlines()]
    assert {path for _, path in lines} == {
        p.relative_to(tmp_path / "wav").as_posix() for p in (tmp_path / "wav").rglob("*.wav")
    }
    assert all(re.fullmatch(r"id1000[123]/[0-9a-f]{11}/0000[12]\.wav", path) for _, path in lines)
    splits = {split: {path.rsplit("/", 1)[0] for s, path in lines if s == split} for split in "123"}
    assert {split: len(sessions) for split, sessions in splits.items()} == {"1": 6, "2": 3, "3": 3}
    assert len(set.union(*splits.values())) == 12  # no session is in two splits
    assert all(
        {s.split("/")[0] for s in part} == {"id10001", "id10002", "id10003"} for part in splits.values()
    )
    meta = (tmp_path / "vox1_meta.csv").read_text().splitlines()
    assert meta[0].split("\t") == ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]
    assert [line.split("\t")[0] for line in meta[1:]] == ["id10001", "id10002", "id10003"]
    assert all(len(line.split("\t")) == 5 for line in meta)
    with pytest.raises(ValueError, match="at least 3 sessions"):
        synthetic.write_voxceleb1(tmp_path, sessions=2)


def test_unlabelled_layout(tmp_path):
    synthetic.write_unlabelled(tmp_path, clips=5, seconds=2.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"clip_{i:06d}.wav" for i in range(5)]
    assert {len(read(path)) for path in tmp_path.iterdir()} == {32000}


def statistics(path: Path) -> np.ndarray:
    """Mean and standard deviation over time of a 128-band log-mel spectrogram, [256]."""
    waveform = torch.from_numpy(read(path))[None]
    mel = torchaudio.compliance.kaldi.fbank(
        waveform - waveform.mean(), window_type="hanning", num_mel_bins=128, dither=0.0
    )
    return torch.cat([mel.mean(0), mel.std(0)]).numpy()


def accuracy(paths: list[Path], labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    features = np.stack([statistics(path) for path in paths])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return probe.fit(features[train], labels[train]).score(features[test], labels[test])


def test_sounds_are_learnable_but_not_from_statistics_alone(tmp_path):
    """240 clips of 10 classes, chance 0.1: 0.48 is measured on the full set of 400 clips and 5 folds."""
    synthetic.write_esc50(tmp_path, clips_per_class=24, folds=3, seconds=2.0)
    paths = sorted((tmp_path / "audio").iterdir())
    labels = np.array([path.stem.split("-")[3] for path in paths])
    test = np.array([path.name.startswith("1-") for path in paths])
    assert 0.25 < accuracy(paths, labels, ~test, test) < 0.85


def test_words_are_learnable_but_not_from_statistics_alone(tmp_path):
    """Six words in three pairs of swapped syllables, chance 0.17."""
    synthetic.write_speech_commands(tmp_path, words=6, speakers=24, takes=2, noise_seconds=1.0)
    paths = sorted(tmp_path.glob("[!_]*/*.wav"))
    labels = np.array([path.parent.name for path in paths])
    test = np.array([synthetic.which_set(path.name) != "training" for path in paths])
    assert 0.3 < accuracy(paths, labels, ~test, test) < 0.85


def test_speakers_are_learnable_across_sessions(tmp_path):
    """Eight voices, chance 0.125; the tested session's room and channel are not in training."""
    synthetic.write_voxceleb1(tmp_path, speakers=8, sessions=5, utterances=4, seconds=2.0)
    lines = [line.split() for line in (tmp_path / "iden_split.txt").read_text().splitlines()]
    labels = np.array([path[:7] for _, path in lines])
    test = np.array([split != "1" for split, _ in lines])
    paths = [tmp_path / "wav" / path for _, path in lines]
    assert 0.25 < accuracy(paths, labels, ~test, test) < 0.95


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0])
def test_events_fit_into_short_recordings(seconds: float, tmp_path: Path) -> None:
    synthetic.write_events(tmp_path, recordings=10, seconds=seconds, kinds=2)
    rows = (tmp_path / "events.csv").read_text().splitlines()[1:]
    ends = [float(row.split(",")[2]) for row in rows if row.split(",")[2]]
    assert len(ends) > 5 and max(ends) <= seconds
    assert soundfile.info(tmp_path / "audio" / "0001.wav").duration == seconds
    with pytest.raises(ValueError, match=r"recordings of 0\.2 s; an event takes at least 0\.5 s"):
        synthetic.write_events(tmp_path, seconds=0.2)
