"""Data sets in s3prl's form: what is linked, converted, made and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from ajepa.cli import main
from ajepa.data.synthetic import write_speech_commands, write_voxceleb1
from ajepa.data.synthetic.layouts import which_set
from ajepa.s3prl_upstream import sets
from ajepa.s3prl_upstream.sets import KEYWORDS, DataSetError


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six words, of which four are of the ten that s3prl knows."""
    folder = tmp_path_factory.mktemp("words")
    write_speech_commands(folder, words=6, speakers=12, takes=1, seconds=0.3, noise_seconds=2.0)
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "_")
    for path, word in zip(folders, ["yes", "no", "go", "stop"], strict=False):
        path.rename(folder / word)
    return folder


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speakers")
    write_voxceleb1(folder, speakers=4, sessions=3, utterances=1, seconds=0.5)
    return folder


def wav_names(folder: Path) -> dict[str, set[str]]:
    return {path.name: {file.name for file in path.glob("*.wav")} for path in folder.iterdir()}


def test_speech_commands(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ks"
    assert main(["data", "s3prl", "speech_commands", "--source", str(words), "--out", str(out)]) == 0
    assert f"-c {out / 'config.yaml'}" in capsys.readouterr().out
    assert wav_names(out / "train") == wav_names_of_folders(words)
    held_out = {
        path.name: {file.name for file in path.glob("*.wav") if which_set(file.name) == "testing"}
        for path in words.iterdir()
        if path.is_dir()
    }
    test = wav_names(out / "test")
    keywords = {word: names for word, names in held_out.items() if word in KEYWORDS}
    assert {word: test[word] for word in keywords} == keywords
    average = round(sum(map(len, keywords.values())) / len(keywords))
    assert set(test) == {*keywords, "_unknown_", "_silence_"}
    assert len(test["_silence_"]) == average
    others = {f"{word}_{name}" for word, names in held_out.items() if word not in KEYWORDS for name in names}
    assert test["_unknown_"] <= others
    assert len(test["_unknown_"]) == min(average, len(others)) > 0
    for name in test["_silence_"]:
        stem, start = name.removesuffix(".wav").rsplit("_", 1)
        slice_S, rate = soundfile.read(out / "test" / "_silence_" / name)
        noise_S, _ = soundfile.read(words / "_background_noise_" / f"{stem}.wav")
        assert (len(slice_S), rate) == (16_000, 16_000)
        np.testing.assert_allclose(slice_S, noise_S[int(start) :][:16_000], atol=2**-15)
    data = yaml.safe_load((out / "config.yaml").read_text())["downstream_expert"]["datarc"]
    assert Path(data["speech_commands_root"]) == out / "train"
    assert Path(data["speech_commands_test_root"]) == out / "test"


def wav_names_of_folders(folder: Path) -> dict[str, set[str]]:
    return {path.name: {f.name for f in path.glob("*.wav")} for path in folder.iterdir() if path.is_dir()}


def test_speech_commands_twice_is_the_same(words: Path, tmp_path: Path) -> None:
    one, two = sets.speech_commands(words, tmp_path / "1"), sets.speech_commands(words, tmp_path / "2")
    files = {path.relative_to(one): path for path in one.rglob("*.wav")}
    assert set(files) == {path.relative_to(two) for path in two.rglob("*.wav")}
    for name, path in files.items():
        assert path.read_bytes() == (two / name).read_bytes()


def test_a_clip_in_two_formats_is_one(words: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(words, both)
    for path in both.rglob("*.wav"):
        soundfile.write(path.with_suffix(".flac"), *soundfile.read(path))
    one, two = sets.speech_commands(words, tmp_path / "1"), sets.speech_commands(both, tmp_path / "2")
    assert wav_names(one / "train") == wav_names(two / "train")
    assert wav_names(one / "test") == wav_names(two / "test")


def test_own_words_take_the_places_of_the_keywords(words: Path, tmp_path: Path) -> None:
    own = sorted(path.name for path in words.iterdir() if path.is_dir() and path.name not in KEYWORDS)[1]
    out = sets.speech_commands(words, tmp_path / "ks", keywords=[own, "go"])
    train, before = wav_names(out / "train"), wav_names_of_folders(words)
    assert train["yes"] == before[own]
    assert train["no"] == before["go"]
    assert train["other_yes"] == before["yes"]
    assert set(train) & set(KEYWORDS) == {"yes", "no"}
    assert len(train) == len(before)
    assert set(wav_names(out / "test")) == {"yes", "no", "_unknown_", "_silence_"}
    for wrong, message in ([["go", "go"], "different words"], [["maybe"], "choose up to ten"]):
        with pytest.raises(DataSetError, match=message):
            sets.speech_commands(words, tmp_path / "other", keywords=wrong)


def test_official_test_archive_is_taken_as_it_is(words: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for name in (*KEYWORDS, "_unknown_", "_silence_"):
        (archive / name).mkdir(parents=True)
        soundfile.write(archive / name / f"{name}.wav", np.zeros(1600), 16_000)
    out = sets.speech_commands(words, tmp_path / "ks", test_source=archive)
    assert wav_names(out / "test") == wav_names(archive)
    (archive / "stop" / "stop.wav").unlink()
    (archive / "stop").rmdir()
    with pytest.raises(DataSetError, match="no folder stop"):
        sets.speech_commands(words, tmp_path / "other", test_source=archive)


def test_audio_that_does_not_fit_is_converted(speakers: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    lines = (speakers / "iden_split.txt").read_text().split()[1::2]
    for name in lines:
        samples_S, rate = soundfile.read(speakers / "wav" / name)
        target = (copy / "vox1_dev_wav" / "wav" / name).with_suffix(".flac")
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, np.stack([samples_S, samples_S], 1).repeat(2, 0), 2 * rate)
    out = sets.voxceleb1(copy, tmp_path / "sid", meta=speakers / "iden_split.txt")
    for name in lines:
        path = out / "audio" / "wav" / name
        found = soundfile.info(path)
        assert (found.samplerate, found.channels, found.format) == (16_000, 1, "WAV")
        assert not path.is_symlink()


def test_voxceleb1(speakers: Path, tmp_path: Path) -> None:
    out = sets.voxceleb1(speakers, tmp_path / "sid")
    assert (out / "iden_split.txt").read_text() == (speakers / "iden_split.txt").read_text()
    for name in (out / "iden_split.txt").read_text().split()[1::2]:
        assert (out / "audio" / "wav" / name).resolve() == speakers / "wav" / name
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert Path(config["downstream_expert"]["datarc"]["file_path"]) == out  # and s3prl adds */wav
    assert Path(config["downstream_expert"]["datarc"]["meta_data"]) == out / "iden_split.txt"


def test_missing_files(speakers: Path, tmp_path: Path) -> None:
    meta = tmp_path / "meta.txt"
    text = (speakers / "iden_split.txt").read_text()
    meta.write_text(text + "1 id10001/absent/00001.wav\n")
    with pytest.raises(DataSetError, match=r"1 of 13 listed files .*id10001/absent/00001\.wav"):
        sets.voxceleb1(speakers, tmp_path / "sid", meta=meta)
    assert not (tmp_path / "sid").exists()
    out = sets.voxceleb1(speakers, tmp_path / "sid", meta=meta, skip_missing=True)
    assert (out / "iden_split.txt").read_text() == text


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 id99999/a/1.wav", "rename the speakers"),
        ("1 id11252/a/1.wav", "rename the speakers"),
        ("4 id10001/a/1.wav", "expected `1 id10001"),
        ("1 ../id10001/a/1.wav", "expected `1 id10001"),
    ],
)
def test_wrong_lines_are_refused(speakers: Path, tmp_path: Path, line: str, message: str) -> None:
    meta = tmp_path / "meta.txt"
    meta.write_text(f"{line}\n")
    with pytest.raises(DataSetError, match=message):
        sets.voxceleb1(speakers, tmp_path / "sid", meta=meta)


def test_a_folder_is_replaced_only_by_force(words: Path, tmp_path: Path) -> None:
    out = sets.speech_commands(words, tmp_path / "ks")
    (out / "test" / "go" / "stale.wav").write_bytes(b"")
    with pytest.raises(DataSetError, match="--force"):
        sets.speech_commands(words, out)
    sets.speech_commands(words, out, force=True)
    assert not (out / "test" / "go" / "stale.wav").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("")
    with pytest.raises(DataSetError, match="was not made here"):
        sets.speech_commands(words, mine, force=True)
    assert (mine / "thesis.tex").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ks", "mine"]


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    """s3prl drops a last batch that is not full: fewer clips than a batch, and it would wait for ever."""
    write_speech_commands(tmp_path / "few", words=2, speakers=5, takes=1, seconds=0.2, noise_seconds=2.0)
    own = [path.name for path in (tmp_path / "few").iterdir() if path.is_dir() and path.name[0] != "_"]
    with pytest.raises(DataSetError, match="at least 32"):
        sets.speech_commands(tmp_path / "few", tmp_path / "ks", keywords=own)
    write_speech_commands(tmp_path / "short", words=6, speakers=12, takes=1, seconds=0.2, noise_seconds=0.5)
    with pytest.raises(DataSetError, match="1 s or less"):
        sets.speech_commands(tmp_path / "short", tmp_path / "ks", keywords=own)
    with pytest.raises(DataSetError, match="no such folder"):
        sets.speech_commands(tmp_path / "absent", tmp_path / "ks")
    with pytest.raises(DataSetError, match="no such file"):
        sets.voxceleb1(tmp_path / "few", tmp_path / "sid")
