"""HEAR task folders from ESC-50 and Speech Commands, as heareval reads them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ajepa.data import synthetic
from ajepa.data.speech_commands import KEYWORDS
from ajepa.hear_module import tasks
from ajepa.hear_module.tasks import TaskError
from tests.hear_tasks import check_task, pcm, tones, write_rows


@pytest.fixture(scope="module")
def esc50(tmp_path_factory) -> Path:
    """11 classes, one clip in each fold of each."""
    folder = tmp_path_factory.mktemp("esc50")
    synthetic.write_esc50(folder, clips_per_class=5, classes=11, seconds=0.5)
    return folder


@pytest.fixture(scope="module")
def speech_commands(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech_commands")
    synthetic.write_speech_commands(folder, words=3, speakers=5, takes=1, seconds=0.6, noise_seconds=3.0)
    return folder


def copy_as(source: Path, target: Path, suffix: str) -> Path:
    """The ESC-50 copy `source` in another audio format; the table still says .wav."""
    (target / "audio").mkdir(parents=True)
    (target / "meta").mkdir()
    (target / "meta" / "esc50.csv").write_bytes((source / "meta" / "esc50.csv").read_bytes())
    for path in (source / "audio").iterdir():
        wave, rate = soundfile.read(path)
        soundfile.write(target / "audio" / f"{path.stem}{suffix}", wave, rate)
    return target


def test_esc50_wav_is_cut_into_its_folds_and_padded(esc50, tmp_path, capsys):
    folder = tasks.from_esc50(esc50, tmp_path)
    metadata = check_task(folder)
    assert folder == tmp_path / "esc50-v2.0.0-partial"
    assert metadata["splits"] == ["fold00", "fold01", "fold02", "fold03", "fold04"]
    assert (metadata["split_mode"], metadata["nfolds"]) == ("presplit_kfold", 5)
    assert metadata["evaluation"] == ["top1_acc", "mAP", "d_prime", "aucroc"]
    with (esc50 / "meta" / "esc50.csv").open() as file:
        for row in csv.DictReader(file):
            split = f"fold{int(row['fold']) - 1:02d}"
            assert metadata["labels"][split][row["filename"]] == [row["category"]]
            written = pcm(folder / "16000" / split / row["filename"])
            np.testing.assert_array_equal(written[:8000], pcm(esc50 / "audio" / row["filename"]))
            assert not written[8000:].any()
    assert "55 of the 2,000 clips of ESC50; by fold: 1: 11, 2: 11" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # nothing temporary is left


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_esc10_of_a_copy_in_another_format(esc50, tmp_path, suffix):
    copy = copy_as(esc50, tmp_path / "copy", suffix)
    folder = tasks.from_esc50(copy, tmp_path / "out", esc10=True)
    metadata = check_task(folder)
    assert folder.name == "esc10-v2.0.0-partial"
    assert metadata["clips"] == {f"fold0{i}": 10 for i in range(5)}
    found = {label for labels in metadata["labels"].values() for (label,) in labels.values()}
    assert found == set(list(synthetic.SOUNDS)[:10])
    name = next(iter(metadata["labels"]["fold00"]))
    written = pcm(folder / "16000" / "fold00" / name)[:8000].astype(float)
    original = pcm(esc50 / "audio" / name).astype(float)
    assert np.corrcoef(written, original)[0, 1] > (0.99999 if suffix == ".flac" else 0.9)


def test_esc50_with_another_table(esc50, tmp_path):
    """Four folds of one's own, in a table inside the data set."""
    with (esc50 / "meta" / "esc50.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["fold"] != "5"]
    lines = [f"{row['filename']},{row['fold']},{row['category']}" for row in rows]
    write_rows(esc50 / "meta" / "four.csv", "filename,fold,category", *lines)
    metadata = check_task(tasks.from_esc50(esc50, tmp_path, csv="meta/four.csv"))
    assert metadata["task_name"] == "four"
    assert metadata["splits"] == ["fold00", "fold01", "fold02", "fold03"]


def test_esc50_missing_files_are_named_or_skipped(esc50, tmp_path, capsys):
    copy = copy_as(esc50, tmp_path / "copy", ".wav")
    gone = sorted((copy / "audio").glob("1-*"))[:7]
    for path in gone:
        path.unlink()
    message = rf"7 of 55 listed files are missing: .*{gone[0].name}.* and 2 more; .*skip_missing"
    with pytest.raises(TaskError, match=message):
        tasks.from_esc50(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    metadata = check_task(tasks.from_esc50(copy, tmp_path / "out", skip_missing=True))
    assert metadata["clips"]["fold00"] == 4
    assert metadata["evaluation"] == ["top1_acc"]  # the other scores need every class in every fold
    assert "fold00 has no clip of" in capsys.readouterr().err
    for path in (copy / "audio").glob("1-*"):
        path.unlink()
    with pytest.raises(TaskError, match=r"no clip in fold 1 \(clips by fold: 2: 11, 3: 11"):
        tasks.from_esc50(copy, tmp_path / "out", skip_missing=True, force=True)


def test_esc50_folder_and_columns_are_checked(tmp_path):
    with pytest.raises(TaskError, match=r"nowhere: no such folder; expected an ESC-50 folder"):
        tasks.from_esc50(tmp_path / "nowhere", tmp_path)
    with pytest.raises(
        TaskError, match=r"esc50\.csv: no such file; expected a table with the columns filename"
    ):
        tasks.from_esc50(tmp_path, tmp_path)
    (tmp_path / "meta").mkdir()
    table = write_rows(tmp_path / "meta" / "esc50.csv", "filename,fold,label", "a.wav,1,dog")
    with pytest.raises(TaskError, match="no column category; its columns are filename, fold, label"):
        tasks.from_esc50(tmp_path, tmp_path)
    for fold, message in (("x", "fold 'x' is not a number"), ("0", "folds must be 1 to 5")):
        write_rows(table, "filename,fold,category", f"a.wav,{fold},dog")
        with pytest.raises(TaskError, match=message):
            tasks.from_esc50(tmp_path, tmp_path)


def test_an_existing_task_is_replaced_only_by_force(esc50, tmp_path):
    folder = tasks.from_esc50(esc50, tmp_path, task_name="mine")
    (folder / "16000" / "fold00" / "stale.wav").touch()
    with pytest.raises(TaskError, match="exists; pass force to replace it"):
        tasks.from_esc50(esc50, tmp_path, task_name="mine")
    assert (folder / "16000" / "fold00" / "stale.wav").exists()
    check_task(tasks.from_esc50(esc50, tmp_path, task_name="mine", force=True))
    (folder / "task_metadata.json").unlink()
    with pytest.raises(TaskError, match="exists and is not a task folder"):
        tasks.from_esc50(esc50, tmp_path, task_name="mine", force=True)
    with pytest.raises(TaskError, match="task name"):
        tasks.from_esc50(esc50, tmp_path, task_name="../mine")


def test_speech_commands_follows_the_lists(speech_commands, tmp_path, capsys):
    folder = tasks.from_speech_commands(speech_commands, tmp_path)
    metadata = check_task(folder)
    assert folder.name == "speech_commands_3_words-v0.0.2-partial"
    assert (metadata["split_mode"], metadata["splits"]) == ("trainvaltest", ["train", "valid", "test"])
    assert (metadata["sample_duration"], metadata["evaluation"]) == (1.0, ["top1_acc"])
    official = {"train": "training", "valid": "validation", "test": "testing"}
    for split, labels in metadata["labels"].items():
        for name, (word,) in labels.items():
            assert name.startswith(f"{word}_")
            assert synthetic.which_set(name.removeprefix(f"{word}_")) == official[split]
    assert sum(metadata["clips"].values()) == 15
    assert "15 clips of 3 words" in capsys.readouterr().err
    two = check_task(tasks.from_speech_commands(speech_commands, tmp_path, words=["sami", "talo"]))
    assert sum(two["clips"].values()) == 10


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_speech_commands_in_another_format_keep_their_splits(speech_commands, tmp_path, suffix):
    copy = tmp_path / "copy"
    for path in speech_commands.rglob("*.*"):
        target = copy / path.relative_to(speech_commands)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".wav":
            soundfile.write(target.with_suffix(suffix), *soundfile.read(path))
        else:
            target.write_bytes(path.read_bytes())
    native = check_task(tasks.from_speech_commands(speech_commands, tmp_path / "native"))
    metadata = check_task(tasks.from_speech_commands(copy, tmp_path / "out"))
    assert metadata["labels"] == native["labels"]


def test_speech_commands_errors(speech_commands, tmp_path):
    with pytest.raises(TaskError, match="no folder for the words zebra; there are misa, sami, talo"):
        tasks.from_speech_commands(speech_commands, tmp_path, words=["zebra"])
    (tmp_path / "sami").mkdir()
    with pytest.raises(TaskError, match=r"validation_list\.txt: no such file; copy the official list"):
        tasks.from_speech_commands(tmp_path, tmp_path)
    for split in ("validation", "testing"):
        (tmp_path / f"{split}_list.txt").write_text("sami/0000_nohash_0.wav\n")
    with pytest.raises(TaskError, match="no audio in folders named after words"):
        tasks.from_speech_commands(tmp_path, tmp_path)
    tones(tmp_path, ["sami/1111_nohash_0.wav"])
    with pytest.raises(TaskError, match=r"1 of 1 listed files are missing: .*0000_nohash_0\.wav"):
        tasks.from_speech_commands(tmp_path, tmp_path)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_the_twelve_classes_of_hear(tmp_path, suffix):
    """Ten words, the others unknown, slices of noise as silence, the official test folder for test."""
    source, test = tmp_path / "train", tmp_path / "test"
    words = [*KEYWORDS, "bed"]
    tones(source, [f"{word}/{speaker}_nohash_0.wav" for word in words for speaker in ("aa", "bb", "cc")], 1.0)
    tones(source, [f"_background_noise_/{name}{suffix}" for name in ("running_tap", "pink_noise")], 3.0)
    classes = {*KEYWORDS, "_unknown_", "_silence_"}
    tones(test, [f"{label}/aa_nohash_0.wav" for label in sorted(classes)], 1.0)
    (source / "validation_list.txt").write_text("".join(f"{word}/bb_nohash_0.wav\n" for word in words))
    (source / "testing_list.txt").write_text("".join(f"{word}/cc_nohash_0.wav\n" for word in words))
    folder = tasks.from_speech_commands(source, tmp_path / "out", test_source=test)
    metadata = check_task(folder)
    assert folder.name == "speech_commands-v0.0.2-partial"
    for split in ("train", "valid", "test"):
        assert {label for (label,) in metadata["labels"][split].values()} == classes
    assert metadata["clips"] == {"train": 11 + 4, "valid": 11 + 4, "test": 12}
    noise = pcm(source / "_background_noise_" / f"pink_noise{suffix}")
    slices = sorted((folder / "16000" / "train").glob("_silence__pink_noise-*.wav"))
    assert [path.stem.split("-")[1] for path in slices] == ["0", "16000", "24000", "8000"]
    np.testing.assert_array_equal(pcm(slices[2]), noise[24000:40000])
    (test / "_unknown_" / "aa_nohash_0.wav").unlink()
    (test / "_unknown_").rmdir()
    with pytest.raises(TaskError, match=r"no folder _unknown_; expected the unpacked .*test_set_v0\.01"):
        tasks.from_speech_commands(source, tmp_path / "out2", test_source=test)
    for path in (source / "_background_noise_").iterdir():
        path.unlink()
    with pytest.raises(TaskError, match="_background_noise_: no audio"):
        tasks.from_speech_commands(source, tmp_path / "out2", test_source=test)


def test_real_esc10_is_complete(shared, tmp_path):
    source = shared / "data" / "esc50"
    if not source.is_dir():
        pytest.skip(f"no real ESC-50 in {source}")
    folder = tasks.from_esc50(source, tmp_path, esc10=True)
    metadata = check_task(folder)
    assert folder.name == "esc10-v2.0.0-full"
    assert metadata["clips"] == {f"fold0{i}": 80 for i in range(5)}


def test_real_speech_commands_counts(shared, tmp_path):
    source = shared / "data" / "speech_commands_v0.02"
    if not source.is_dir():
        pytest.skip(f"no real Speech Commands in {source}")
    metadata = check_task(tasks.from_speech_commands(source, tmp_path))
    assert metadata["clips"] == {"train": 900, "valid": 240, "test": 397}
