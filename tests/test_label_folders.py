"""Folders of classes, parts of recordings, and label tracks as tasks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.audio import AudioError, load
from ajepa.cli import main
from ajepa.data.tables import TaskError
from ajepa.data.tracks import read_track
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks import Task, open_task
from ajepa.eval.tasks.reading import read_clip
from tests.hear_tasks import tones, write_rows

RATE = 16_000


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def splits(task: Task, root: Path) -> dict[str, str]:
    return {clip.path.relative_to(root).as_posix(): clip.split for clip in task.clips}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    names = [f"{label}/s{n % 5}/{n:02d}.wav" for label in ("bus", "car", "train") for n in range(10)]
    return touched(tmp_path / "v1.2", *names)


def test_a_folder_a_class(classes: Path, tmp_path: Path) -> None:
    task = open_task("folder", classes)
    assert (task.name, task.classes) == ("v1.2", ("bus", "car", "train")), "a class may be called train"
    assert task.counts == {"train": 18, "valid": 6, "test": 6}
    assert "split by ajepa, as v1.2-split.csv lists" in task.notes
    lines = (tmp_path / "v1.2-split.csv").read_text().splitlines()
    assert lines[0] == "path,split" and lines[1].startswith("bus/s0/00.wav,")
    again = open_task("folder", classes, split=str(tmp_path / "v1.2-split.csv"))
    assert splits(again, classes) == splits(task, classes)
    with pytest.raises(TaskError, match=r"v1\.2-split\.csv: holds another split"):
        open_task("folder", classes, group="folder")


@pytest.mark.parametrize(("group", "groups"), [("folder", 15), (r"^\d", 1), (r"\d\.", 10)])
def test_groups_of_files(classes: Path, group: str, groups: int) -> None:
    if groups == 1:
        with pytest.raises(TaskError, match="1 groups of clips are too few"):
            open_task("folder", classes, group=group)
        return
    task = open_task("folder", classes, group=group)
    found = {clip.group: clip.split for clip in task.clips}
    assert len(found) == groups and all(found[clip.group] == clip.split for clip in task.clips)


def test_folders_of_splits(tmp_path: Path) -> None:
    parts = {"Training": range(10), "dev": range(10, 12), "test": range(12, 15)}
    names = [f"{part}/{label}/{n}.wav" for part, ns in parts.items() for n in ns for label in "ab"]
    root = touched(tmp_path / "set", *names)
    task = open_task("folder", root)
    assert task.counts == {"train": 20, "valid": 4, "test": 6} and task.classes == ("a", "b")
    assert not list(tmp_path.glob("*-split.csv"))
    for path in (root / "dev").rglob("*.wav"):
        path.unlink()
    task = open_task("folder", root)
    assert task.counts == {"train": 16, "valid": 4, "test": 6} and task.refit
    assert Counter(clip.labels for clip in task.clips if clip.split == "valid") == {("a",): 2, ("b",): 2}
    mixed = open_task("folder", root, split="auto")
    assert mixed.classes == ("a", "b") and mixed.counts == {"train": 15, "valid": 5, "test": 6}
    for path in (root / "test").rglob("*.wav"):
        path.unlink()
    (tmp_path / "set-split.csv").unlink()
    assert open_task("folder", root).counts == {"train": 12, "valid": 4, "test": 4}, "one split is none"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a/1.wav", "2.wav"], {}, r"2\.wav is in no class's folder"),
        (["train/a/1.wav", "test/a/2.wav", "extra/3.wav"], {}, "folders of splits, and also extra"),
        (["train/a/1.wav", "test/a/2.wav", "3.wav"], {}, r"3\.wav is in no split's folder"),
        (["train/a/1.wav", "test/2.wav"], {}, r"test/2\.wav is in no class's folder"),
        (["a/1.wav"] * 2, {"group": "["}, "neither folder nor a regular expression"),
        (["a/1.wav"], {"group": "x"}, r"1\.wav: its name does not match the group 'x'"),
        (["a/1.wav", "b/2.wav"], {}, "2 groups of clips are too few"),
        (["a/1.wav"], {"label": "x"}, "task folder has no option label; it has split, group"),
    ],
)
def test_folders_that_are_no_task(
    names: list[str], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=message):
        open_task("folder", touched(tmp_path / "set", *names), **options)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Six recordings of 3 s: a low tone, silence and a high tone, of one second each."""
    root = tmp_path / "field"
    root.mkdir()
    time = np.arange(RATE) / RATE
    for number in range(6):
        parts = [np.sin(2 * np.pi * hertz * time) for hertz in (300 + number, 0, 3000 + 10 * number)]
        soundfile.write(root / f"{number}.wav", 0.3 * np.concatenate(parts), RATE)
        (root / f"{number}.txt").write_text(
            "0.000000\t1.000000\tlow\n\\\t200.0\t400.0\n2.000000\t3.030000\thigh\n", encoding="utf-8-sig"
        )
    return root


def test_label_tracks_through_the_command(recordings: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    arguments = ["--task", "audacity", "--data", str(recordings), "--json", str(record)]
    common = ["evaluate", "knn", "--model", "logmel", "--cache", str(tmp_path / "cache")]
    assert main([*common, *arguments]) == 0
    (found,) = read_records(record)
    assert (found.task, found.score, found.classes, found.clips) == ("field", 1.0, 2, 12)
    assert "groups of clips of one source" in found.interval_method
    task = open_task("audacity", recordings)
    assert {clip.split for clip in task.clips} == {"train", "valid", "test"}
    assert all(len({clip.split for clip in task.clips if clip.group == f"{n}.wav"}) == 1 for n in range(6))


def test_parts_are_decoded_exactly(recordings: Path) -> None:
    clips = [clip for clip in open_task("audacity", recordings).clips if clip.path.stem == "3"]
    whole_S = load(recordings / "3.wav")
    assert torch.equal(read_clip(clips[0], RATE), whole_S[:RATE])
    assert torch.equal(read_clip(clips[1], RATE), whole_S[2 * RATE :]), "a label drawn to beyond the end"
    with pytest.raises(AudioError, match=r"3\.wav: ends at 3\.00 s, but .* ends at 4\.00 s"):
        read_clip(clips[1]._replace(seconds=2.0), RATE)


def test_recordings_without_labels(recordings: Path) -> None:
    (recordings / "5.txt").unlink()
    (recordings / "4.txt").write_text("")
    tones(recordings, ["7.wav"])
    (recordings / "7.txt").write_text("0.0\t0.1\tlow;high\n")
    with pytest.raises(TaskError, match="the label 'low;high' has 1 clips"):
        open_task("audacity", recordings)
    task = open_task("audacity", recordings, multilabel=True)
    assert "1 recordings have no label track and are left out: 5.wav" in task.notes
    assert [clip.labels for clip in task.clips if clip.path.stem == "4"] == [()]
    assert [clip.labels for clip in task.clips if clip.path.stem == "7"] == [("low", "high")]
    for path in recordings.glob("*.txt"):
        path.unlink()
    with pytest.raises(TaskError, match=r"no recording has labels in a \.txt file"):
        open_task("audacity", recordings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.5 0.7 dog", "line 2: '0.5 0.7 dog'; expected `start TAB end TAB label`"),
        ("0.7\t0.5\tdog", "line 2: .*; expected"),
        ("nan\t0.5\tdog", "line 2: .*; expected"),
        ("0.5\t0.7\t", "line 2: the label at 0.5 s has no text"),
        ("0.5\t0.7", "line 2: the label at 0.5 s has no text"),
        ("0.5\t0.5\tdog", "line 2: 'dog' is a point at 0.5 s"),
    ],
)
def test_tracks_that_cannot_be_read(line: str, message: str, tmp_path: Path) -> None:
    track = tmp_path / "a.txt"
    track.write_text(f"0,25\t0,5\tcat, small\n{line}\n")
    with pytest.raises(TaskError, match=message):
        read_track(track)
    track.write_text("0,25\t0,5\tcat, small\r\n")
    assert read_track(track) == [(0.25, 0.25, "cat, small")]


def test_tables_of_segments(recordings: Path) -> None:
    spans = [("low", "0", "1,0"), ("high", "2,0", "")]
    rows = [f"{n}.wav;{start};{end};{label}" for n in range(6) for label, start, end in spans]
    table = write_rows(recordings / "segments.csv", "path;start;end;label", *rows)
    task = open_task("table", table, split="auto")
    assert [(clip.start, clip.seconds) for clip in task.clips[:2]] == [(0.0, 1.0), (2.0, None)]
    assert all(len({clip.split for clip in task.clips if clip.group == f"{n}.wav"}) == 1 for n in range(6))
    lines = (recordings / "segments-split.csv").read_text().splitlines()
    assert lines[:2] == ["path,start,end,split", f"0.wav,0.000000,1.000000,{task.clips[0].split}"]
    again = open_task("table", table, split=str(recordings / "segments-split.csv"))
    assert [clip.split for clip in again.clips] == [clip.split for clip in task.clips]
    onsets = [row.replace(";", "\t").replace(",", ".") for row in rows]
    write_rows(recordings / "onsets.tsv", "filename\tonset\toffset\tlabel", *onsets)
    assert len(open_task("table", recordings / "onsets.tsv", split="auto").clips) == 12


def test_one_row_a_file_is_cut_only_if_asked(recordings: Path) -> None:
    """UrbanSound8K's table has the times of its clips in recordings that it does not contain."""
    rows = [f"{n}.wav,2,1,{'ab'[n % 2]},{n % 3}" for n in range(6)]
    table = write_rows(recordings / "t.csv", "path,start,duration,label,fold", *rows)
    whole = open_task("table", table)
    assert {(clip.start, clip.seconds) for clip in whole.clips} == {(0.0, None)}
    assert any("columns start and duration are not read" in note for note in whole.notes)
    cut = open_task("table", table, segments=True)
    assert {(clip.start, clip.seconds) for clip in cut.clips} == {(2.0, 1.0)}
    write_rows(recordings / "t.csv", "path,label,fold", "0.wav,a,1")
    with pytest.raises(TaskError, match="no columns start and end"):
        open_task("table", recordings / "t.csv", segments=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0.wav,0,1,a,train", "0.wav,0.5,2,b,test"], r"0\.wav from 0\.5 s on is in test and in train"),
        (["0.wav,0,,a,train", "0.wav,2,3,b,test"], r"0\.wav from 2 s on is in test and in train"),
        (["0.wav,0,1,a,train", "0.wav,0,1,b,train"], r"row 2: 0\.wav is listed twice"),
        (["0.wav,2,1,a,train", "0.wav,0,1,b,train"], "row 1: start is 2, end is 1.0; give seconds from 0"),
        (["0.wav,-1,,a,train", "0.wav,0,1,b,train"], "row 1: start is -1, end is None; give seconds from 0"),
        (["0.wav,x,1,a,train", "0.wav,0,1,b,train"], "row 1: start is 'x'; give a number"),
    ],
)
def test_segments_that_cannot_be_used(rows: list[str], message: str, recordings: Path) -> None:
    table = write_rows(recordings / "t.csv", "path,start,end,label,split", *rows)
    with pytest.raises(TaskError, match=message):
        open_task("table", table)
