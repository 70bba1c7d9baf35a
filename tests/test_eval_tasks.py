"""Tasks, read from small sets of the true layouts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ajepa.data.speech_commands import KEYWORDS
from ajepa.data.synthetic import write_esc50, write_speech_commands, write_voxceleb1
from ajepa.eval.models.open import open_model
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.tasks import Clip, Task, TaskError, open_task
from tests.hear_tasks import tones, write_rows
from tests.probing import probed


def check_rounds(task: Task) -> None:
    """Every clip that is scored is scored once, and no choice has seen the split that it is made for."""
    rounds = task.rounds()
    assert len({one.test for one in rounds}) == len(rounds)
    for one in rounds:
        assert one.test not in one.train
        for train, valid in one.inner:
            assert train and valid not in train
            assert one.test not in train | {valid}
            assert train | {valid} <= set(task.counts)
    if task.folds:
        assert {one.test for one in rounds} == set(task.counts)
        assert all(one.train == set(task.counts) - {one.test} for one in rounds)


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    write_esc50(tmp_path / "esc50", clips_per_class=10, classes=12, seconds=0.1)
    return tmp_path / "esc50"


def test_esc50_and_esc10(esc50: Path) -> None:
    task = open_task("esc50", esc50)
    assert (task.name, task.metric, len(task.clips), len(task.classes)) == ("esc50", "accuracy", 120, 12)
    assert task.counts == dict.fromkeys("12345", 24)
    assert task.notes == ("120 of 2,000 clips, 12 classes",)
    check_rounds(task)
    ten = open_task("esc10", esc50)
    assert (len(ten.clips), len(ten.classes)) == (100, 10)
    first = task.clips[0]
    assert first.path.name.split("-")[0] == first.split
    assert task.classes[task.target()[0]] == first.labels[0]


def test_a_copy_with_one_complete_fold_is_split_within_it(esc50: Path) -> None:
    table = esc50 / "meta" / "esc50.csv"
    rows = table.read_text().splitlines()
    # Outside fold 4 the last two classes, 10 and 11, are not there.
    kept = [row for row in rows[1:] if row.split(",")[1] == "4" or int(row.split(",")[2]) < 10]
    write_rows(table, rows[0], *kept)
    task = open_task("esc50", esc50)
    assert (task.name, len(task.clips), len(task.classes)) == ("esc50_fold4", 24, 12)
    assert "sub-folds of fold 4" in task.notes[0]
    folds_of_source: dict[str, set[str]] = {}
    for clip in task.clips:
        folds_of_source.setdefault(clip.group, set()).add(clip.split)
    assert all(len(folds) == 1 for folds in folds_of_source.values()), "a source crosses the folds"
    assert max(task.counts.values()) - min(task.counts.values()) <= 2
    check_rounds(task)
    assert open_task("esc10", esc50).counts == dict.fromkeys("12345", 20)


def test_esc50_that_cannot_be_used(esc50: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"absent.*meta/esc50\.csv.*github"):
        open_task("esc50", tmp_path / "absent")
    with pytest.raises(TaskError, match=r"no option words; it has csv, skip_missing"):
        open_task("esc50", esc50, words=3)
    for name in ("1-100000-A-0.wav", "2-110000-A-0.wav", "3-120000-A-0.wav"):
        (esc50 / "audio" / name).unlink()
    with pytest.raises(TaskError, match=r"3 of 120 listed files.*skip_missing"):
        open_task("esc50", esc50)
    assert len(open_task("esc50", esc50, skip_missing=True).clips) == 117


def test_a_table_with_other_folds(esc50: Path) -> None:
    rows = (esc50 / "meta" / "esc50.csv").read_text().splitlines()
    thirds = [row.split(",") for row in rows[1:]]
    for number, row in enumerate(thirds):
        row[1] = str(1 + number % 3)
    write_rows(esc50 / "meta" / "thirds.csv", rows[0], *[",".join(row) for row in thirds])
    task = open_task("esc50", esc50, csv="meta/thirds.csv")
    assert task.name == "thirds"
    assert task.counts == {"1": 40, "2": 40, "3": 40}
    check_rounds(task)


def test_words(tmp_path: Path) -> None:
    data = tmp_path / "words"
    write_speech_commands(data, words=3, speakers=10, seconds=0.1, noise_seconds=2.5)
    task = open_task("speech_commands_v2", data)
    assert task.name == "speech_commands_3_words"
    assert len(task.clips) == 60
    listed = {name: (data / f"{name}_list.txt").read_text().split() for name in ("validation", "testing")}
    assert task.counts == {
        "valid": len(listed["validation"]),
        "test": len(listed["testing"]),
        "train": 60 - len(listed["validation"]) - len(listed["testing"]),
    }
    speakers = {split: {c.group for c in task.clips if c.split == split} for split in task.counts}
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    assert "84,843" in task.notes[0]
    check_rounds(task)
    (data / "testing_list.txt").unlink()
    with pytest.raises(TaskError, match=r"testing_list\.txt.*copy the official list there"):
        open_task("speech_commands_v2", data)


def test_twelve_classes(tmp_path: Path) -> None:
    data, test = tmp_path / "v1", tmp_path / "test"
    words = [*KEYWORDS, "bed", "cat"]
    tones(data, [f"{word}/{speaker}_nohash_0.wav" for word in words for speaker in ("a", "b", "c")], 0.1)
    (data / "validation_list.txt").write_text("".join(f"{word}/b_nohash_0.wav\n" for word in words))
    (data / "testing_list.txt").write_text("".join(f"{word}/c_nohash_0.wav\n" for word in words))
    tones(data / "_background_noise_", ["white_noise.wav", "running_tap.wav"], seconds=2.5)
    classes = [*KEYWORDS, "_unknown_", "_silence_"]
    tones(test, [f"{label}/d_nohash_0.wav" for label in classes], 0.1)
    (test / "_unknown_" / "d_nohash_0.wav").rename(
        test / "_unknown_" / "bed_d_nohash_0.wav"
    )  # as it has them
    for folder in (data / "bed", test / "yes"):  # a copy that was half re-encoded
        for path in list(folder.iterdir()):
            soundfile.write(path.with_suffix(".flac"), *soundfile.read(path))
    with pytest.raises(TaskError, match="speech_commands_test_set"):
        open_task("speech_commands_v1", data)
    task = open_task("speech_commands_v1", data, test_data=test)
    assert task.classes == tuple(sorted(classes))
    # 12 words of one training speaker; slices at 0, 0.5, 1 and 1.5 s of each noise.
    assert task.counts == {"train": 12 + 4, "valid": 12 + 4, "test": 12}
    unknown = [clip for clip in task.clips if clip.labels == ("_unknown_",) and clip.split == "train"]
    assert {clip.path.parent.name for clip in unknown} == {"bed", "cat"}
    tested = [clip for clip in task.clips if clip.split == "test" and clip.labels != ("_silence_",)]
    assert {clip.group for clip in tested} == {"d"}, "one speaker is one group, whatever he says"
    assert len(task.notes) == 2
    check_rounds(task)
    shutil.rmtree(test / "_silence_")
    with pytest.raises(TaskError, match="no folder _silence_"):
        open_task("speech_commands_v1", data, test_data=test)
    shutil.rmtree(data / "yes")
    with pytest.raises(TaskError, match="2 of 24 listed"):
        open_task("speech_commands_v1", data, test_data=test)


def test_speakers(tmp_path: Path) -> None:
    write_voxceleb1(tmp_path, speakers=3, sessions=3, utterances=2, seconds=0.1)
    task = open_task("voxceleb1", tmp_path)
    assert task.counts == {"train": 6, "valid": 6, "test": 6}
    assert task.name == "voxceleb1_3_speakers"
    assert len({clip.group for clip in task.clips}) == 9, "a group is a session"
    check_rounds(task)
    lines = (tmp_path / "iden_split.txt").read_text().splitlines()
    (tmp_path / "iden_split_two.txt").write_text("\n".join(line for line in lines if "id10003" not in line))
    two = open_task("voxceleb1", tmp_path, split_list="iden_split_two.txt")
    assert two.name == "voxceleb1_2_speakers_two"
    (tmp_path / "iden_split.txt").write_text("4 id10001/a/00001.wav\n")
    with pytest.raises(TaskError, match="line 1"):
        open_task("voxceleb1", tmp_path)
    (tmp_path / "iden_split.txt").unlink()
    with pytest.raises(TaskError, match=r"iden_split\.txt.*robots\.ox"):
        open_task("voxceleb1", tmp_path)


def test_tables(tmp_path: Path) -> None:
    names = [f"audio/{number}.wav" for number in range(12)]
    tones(tmp_path, names, 0.05)
    splits = ["train"] * 6 + ["dev"] * 3 + ["test"] * 3
    rows = [f"{name},{'ab'[i % 2]},{splits[i]},{i % 3},s{i // 2}" for i, name in enumerate(names)]
    table = write_rows(tmp_path / "meta.csv", "filename,species,part,fold,site", *rows)
    task = open_task("table", table, label="species", split="part")
    assert task.counts == {"train": 6, "valid": 3, "test": 3}
    folded = open_task("table", table, label="species", fold="fold", group="site")
    assert folded.counts == Counter({"0": 4, "1": 4, "2": 4})
    assert folded.clips[5].group == "s2"
    assert task.fingerprint() != folded.fingerprint()
    check_rounds(folded)
    assert any("6 of 6 groups have clips in several splits: s0, s1, s2" in note for note in folded.notes)
    alone = [row if number else row.replace(",a,", ",only,") for number, row in enumerate(rows)]
    write_rows(tmp_path / "alone.csv", "filename,species,part,fold,site", *alone)
    with pytest.raises(TaskError, match="labels only occur in one fold only"):
        open_task("table", tmp_path / "alone.csv", label="species", fold="fold")
    before = task.fingerprint(dates=True), task.fingerprint()
    (tmp_path / names[0]).write_bytes((tmp_path / names[1]).read_bytes())
    assert (task.fingerprint(dates=True) != before[0], task.fingerprint() == before[1]) == (True, True)
    assert open_task("table", table, label="species").folds, "the column is called as usual"
    with pytest.raises(TaskError, match="no column kind"):
        open_task("table", table, label="kind", fold="fold")
    write_rows(tmp_path / "odd.csv", "filename,label,split", f"{names[0]},a,later")
    with pytest.raises(TaskError, match=r"'later'.*train, valid and test"):
        open_task("table", tmp_path / "odd.csv", split="split")


def test_a_table_of_several_labels(tmp_path: Path) -> None:
    names = [f"{number}.wav" for number in range(6)]
    tones(tmp_path, names, 0.05)
    labels = ["a;b", "", "b", "a", "b;a", "a"]
    splits = ["train", "train", "train", "valid", "test", "test"]
    rows = [f"{name},{label},{split}" for name, label, split in zip(names, labels, splits, strict=True)]
    table = write_rows(tmp_path / "multi.csv", "filename,label,split", *rows)
    task = open_task("table", table, split="split", multilabel=True)
    assert task.metric == "mAP"
    assert np.array_equal(task.target(), [[1, 1], [0, 0], [0, 1], [1, 0], [1, 1], [1, 0]])
    write_rows(tmp_path / "multi.csv", "filename,label,split", *rows[:-1], f"{names[-1]},c,test")
    with pytest.raises(TaskError, match="labels c"):
        open_task("table", table, split="split", multilabel=True)


def test_what_no_score_could_be_trusted_on_is_refused(esc50: Path, tmp_path: Path) -> None:
    table = esc50 / "meta" / "esc50.csv"
    rows = table.read_text().splitlines()
    name, fold, rest = rows[1].split(",", 2)
    twice = tmp_path / "twice.csv"
    twice.write_text("\n".join([*rows, f"{name},{int(fold) % 5 + 1},{rest}"]) + "\n")
    with pytest.raises(TaskError, match=f"{name} is listed twice"):
        open_task("esc50", esc50, csv=twice)
    twice.write_bytes(b"filename,fold,category,esc10,src_file\n\xe9")
    with pytest.raises(TaskError, match="is not UTF-8"):
        open_task("esc50", esc50, csv=twice)

    write_voxceleb1(tmp_path / "speakers", speakers=2, sessions=3, utterances=1, seconds=0.1)
    lines = tmp_path / "speakers" / "iden_split.txt"
    tested = next(line for line in lines.read_text().splitlines() if line[0] == "3")
    lines.write_text(f"{lines.read_text()}1{tested[1:]}\n")
    with pytest.raises(TaskError, match="is listed twice"):
        open_task("voxceleb1", tmp_path / "speakers")


def test_a_split_without_labels_has_no_map(tmp_path: Path) -> None:
    clips = [Clip(tmp_path, ("a",), "train"), Clip(tmp_path, ("b",), "valid"), Clip(tmp_path, (), "test")]
    with pytest.raises(TaskError, match="no clip in test has a label"):
        Task("bare", tuple(clips), folds=False, multilabel=True)


def test_mp3(tmp_path: Path) -> None:
    """Lossy files of two pitches are told apart by their embeddings, so they are decoded as what they are."""
    rng = np.random.default_rng(0)
    for number in range(24):
        tone = np.sin(2 * np.pi * (440 if number % 2 else 1760) * np.arange(8000) / 16_000)
        audio = 0.3 * tone + 0.01 * rng.standard_normal(8000)
        soundfile.write(tmp_path / f"{number}.mp3", audio, 16_000, format="MP3")
    rows = [f"{number}.mp3,{'ab'[number % 2]},{number // 8}" for number in range(24)]
    table = write_rows(tmp_path / "meta.csv", "filename,label,fold", *rows)
    task = open_task("table", table, fold="fold")
    (record,) = probed([open_model("logmel")], task, Probing(), tmp_path / "cache")
    assert record.score == 1


def test_the_real_sets(shared: Path) -> None:
    data = shared / "data"
    assert not open_task("esc10", data / "esc50").notes, "ESC-10 is complete"
    fold4 = open_task("esc50", data / "esc50")
    assert (fold4.name, len(fold4.clips), len(fold4.classes)) == ("esc50_fold4", 400, 50)
    words = open_task("speech_commands_v2", data / "speech_commands_v0.02")
    assert words.counts == {"train": 900, "valid": 240, "test": 397}
    speakers = open_task("voxceleb1", data / "voxceleb1")
    assert speakers.counts == {"train": 280, "valid": 64, "test": 128}
