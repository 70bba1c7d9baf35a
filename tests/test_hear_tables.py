"""HEAR task folders from a user's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ajepa.cli import main
from ajepa.hear_module import tasks
from ajepa.hear_module.tasks import TaskError
from tests.hear_tasks import check_task, pcm, tones, write_rows

SPLITS = ("train", "valid", "test")


def test_table_with_splits_resamples_and_keeps_basenames_apart(tmp_path):
    tones(tmp_path, ["x/a.wav", "y/a.wav", "y/A.wav", "x a.wav"], seconds=0.3, rate=44100)
    table = write_rows(
        tmp_path / "my task.csv",
        "filename,label,split",
        "x/a.wav,dog,training",
        "y/a.wav,cat,train",
        "y/A.wav,dog,dev",
        "x a.wav,cat,test",
    )
    folder = tasks.from_table(table, tmp_path / "out", seconds=0.2)
    metadata = check_task(folder)
    assert folder.name == "my_task-v1-full"
    assert metadata["labels"] == {
        "train": {"x_a.wav": ["dog"], "y_a.wav": ["cat"]},
        "valid": {"y_A-2.wav": ["dog"]},  # differs from y_a where case does not count
        "test": {"x-a.wav": ["cat"]},
    }
    for name, hertz in (("x_a.wav", 200), ("y_a.wav", 400)):
        wave = pcm(folder / "16000" / "train" / name).astype(float)
        assert np.abs(np.fft.rfft(wave)).argmax() == hertz * 0.2
    own = tasks.from_table(table, tmp_path / "out", sample_rate=8000, task_name="own")
    assert check_task(own, sample_rate=8000)["sample_duration"] is None
    assert soundfile.info(own / "8000" / "test" / "x-a.wav").frames == 2400


def test_table_with_folds_and_other_column_names(tmp_path):
    tones(tmp_path / "audio", [f"{i}.flac" for i in range(12)])
    rows = [f"{i}.flac\t{'ab'[i % 2]}\t{[10, 9, 1][i % 3]}\t?" for i in range(12)]
    table = write_rows(tmp_path / "t.tsv", "path\tclass\tpart\tsplit", *rows)
    options = {"audio_root": tmp_path / "audio", "path_column": "path", "label_column": "class"}
    metadata = check_task(tasks.from_table(table, tmp_path / "out", fold_column="part", **options))
    assert metadata["splits"] == ["fold00", "fold01", "fold02"]
    assert metadata["nfolds"] == 3
    assert metadata["labels"]["fold00"]["2.wav"] == ["a"]  # fold 1, the first by number
    assert metadata["labels"]["fold02"]["0.wav"] == ["a"]  # fold 10


def test_table_with_several_labels(tmp_path):
    tones(tmp_path, ["a.wav", "b.wav", "c.wav"])
    table = write_rows(
        tmp_path / "t.csv", "filename,label,split",
        "a.wav,dog; cat,train", "a.wav,rain,train", "b.wav,,valid", "c.wav,dog;dog,test",
    )  # fmt: skip
    metadata = check_task(tasks.from_table(table, tmp_path / "out", multilabel=True))
    assert metadata["prediction_type"] == "multilabel"
    assert metadata["labels"]["train"] == {"a.wav": ["dog", "cat", "rain"]}
    assert metadata["labels"]["valid"] == {"b.wav": []}
    assert metadata["labels"]["test"] == {"c.wav": ["dog"]}
    assert metadata["evaluation"] == ["mAP"]


@pytest.mark.parametrize("column", ["filename", "path", "sound"])
def test_the_command_finds_or_is_told_the_columns(column, tmp_path):
    """The same table for a HEAR task and for a probe."""
    names = [f"{number}.wav" for number in range(6)]
    tones(tmp_path, names)
    rows = [f"{name},{'dog|cat' if n % 2 else 'dog'},{SPLITS[n // 2]}" for n, name in enumerate(names)]
    table = write_rows(tmp_path / "t.csv", f"{column},label,split", *rows)
    options = ["--split", "split", "--multilabel", "--label-separator", "|"]
    options += ["--path", column] if column == "sound" else []
    made = ["data", "hear-task", "table", "--source", str(table), "--out", str(tmp_path / "out"), *options]
    assert main(made) == 0
    metadata = check_task(tmp_path / "out" / "t-v1-full")
    assert metadata["labels"]["train"] == {"0.wav": ["dog"], "1.wav": ["dog", "cat"]}
    assert metadata["sample_duration"] is None, "each clip keeps its length"
    score = ["evaluate", "linear", "--model", "logmel", "--task", "table", "--data", str(table), *options]
    cache, record = tmp_path / "cache", tmp_path / "record.json"
    assert main([*score, "--cache", str(cache), "--json", str(record)]) == 0
    assert json.loads(record.read_text())["classes"] == 2


def test_a_separator_is_not_left_unheeded(tmp_path):
    tones(tmp_path, ["a.wav"])
    table = write_rows(tmp_path / "t.csv", "filename,label,split", "a.wav,x,train")
    for options, message in (
        ({"label_separator": "|"}, r"only multilabel tables separate labels"),
        ({"label_separator": "", "multilabel": True}, "the label separator is empty"),
        ({"path_column": "sound"}, "no column sound with the files; its columns are filename"),
    ):
        with pytest.raises(TaskError, match=message):
            tasks.from_table(table, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "name,label,fold",
            ["a.wav,x,1"],
            "no column filename or path or .* with the files; its columns are name",
        ),
        ("filename,fold", ["a.wav,1"], "no column label; its columns are filename, fold"),
        ("filename,label", ["a.wav,x"], "expected a column 'fold' or 'split'; its"),
        ("filename,label,fold,split", ["a.wav,x,1,test"], "has both columns; name the one to use"),
        ("filename,label,split", [], "the table has no rows"),
        ("filename,label,split", ["a.wav,x,holdout"], "row 1: a.wav: column 'split' is 'holdout'; use train"),
        ("filename,label,fold", ["a.wav,x,1", "b.wav,x,"], "row 2: b.wav: column 'fold' is empty"),
        ("filename,label,split", ["a.wav,x,train", "b.wav,x,test"], "no clips in valid"),
        ("filename,label,fold", ["a.wav,x,1", "b.wav,x,2"], "2 folds; heareval needs 3"),
        ("filename,label,split", ["a.wav,x,train", "a.wav,y,test"], r"a\.wav is listed twice"),
        (
            "filename,label,split",
            ["a.wav,x,train", "z.wav,y,test"],
            r"1 of 2 listed files are missing.*z\.wav",
        ),
        ("filename,label,split", [",x,train"], "row 1: filename is empty"),
        ("filename,label,fold", ["a.wav,None,1", "b.wav,x,2", "c.wav,x,3"], "labels None would be changed"),
        ("filename,label,fold", ["a.wav,01,1", "b.wav,2,2", "c.wav,2,3"], "labels 01 would be changed"),
        ("filename,label,fold", ["a.wav,,1", "b.wav,x,2", "c.wav,x,3"], "row 1: a.wav has no label"),
    ],
)
def test_table_errors(tmp_path, monkeypatch, header, rows, message):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    tones(Path(), ["a.wav", "b.wav", "c.wav", "../outside.wav"])
    write_rows(Path("t.csv"), header, *rows)
    with pytest.raises(TaskError, match=message):
        tasks.from_table("t.csv", "out")
    assert not Path("out").exists()


def test_the_same_clip_in_two_splits_is_a_leak(tmp_path):
    tones(tmp_path, ["a.wav"])
    table = write_rows(tmp_path / "t.csv", "filename,label,split", "a.wav,x,train", "./a.wav,y,test")
    with pytest.raises(TaskError, match="is in train and in test; keep one"):
        tasks.from_table(table, tmp_path / "out", multilabel=True)


def test_a_failure_leaves_the_old_task_and_nothing_else(tmp_path):
    tones(tmp_path, ["a.wav", "b.wav", "c.wav"])
    table = write_rows(tmp_path / "t.csv", "filename,label,fold", "a.wav,x,1", "b.wav,x,2", "c.wav,x,3")
    folder = tasks.from_table(table, tmp_path / "out")
    before = (folder / "fold00.json").stat().st_mtime_ns
    (tmp_path / "c.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"c\.wav"):
        tasks.from_table(table, tmp_path / "out", force=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]
    assert (folder / "fold00.json").stat().st_mtime_ns == before
