"""AudioSet in the layouts that people have it in."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ajepa.cli import main
from ajepa.eval.models.open import open_model
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.tasks import Task, TaskError, open_task
from ajepa.eval.tasks.audioset import HELD_OUT, _id_of, ids_hash
from tests.probing import probed

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LABELS = ("/m/09x0r", "/m/04rlf", "/m/0jbk")
TABLES = {"balanced_train": 60, "unbalanced_train": 40, "eval": 20}
Rows = dict[str, dict[str, tuple[str, ...]]]  # of each table the labels of each ID


def draw_rows() -> Rows:
    rng = random.Random(0)
    return {
        table: {
            "".join(rng.choices(CHARACTERS, k=11)): tuple(rng.sample(LABELS, rng.randint(1, 2)))
            for _ in range(count)
        }
        for table, count in TABLES.items()
    }


ROWS = draw_rows()


def write_tables(folder: Path, rows: Rows = ROWS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table, labels_of in rows.items():
        lines = ["# Segments csv created on a Sunday", "# YTID, start_seconds, end_seconds, positive_labels"]
        lines += [f'{ytid}, 30.000, 40.000, "{",".join(labels)}"' for ytid, labels in labels_of.items()]
        (folder / f"{table}_segments.csv").write_text("\n".join(lines) + "\n")


def write_audio(path: Path, label: str = LABELS[0]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(1600) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (300 + 500 * LABELS.index(label)) * time), 16_000)


Layout = Callable[[Path, str, str, int], Path]


def panns(root: Path, table: str, ytid: str, number: int) -> Path:
    part = f"unbalanced_train_segments_part{number % 2:02d}/" if table == "unbalanced_train" else ""
    return root / "audios" / f"{table}_segments" / f"{part}Y{ytid}.wav"


def hub(root: Path, table: str, ytid: str, number: int) -> Path:
    return root / "audio" / table.replace("balanced", "bal") / f"{ytid}.flac"


def one_folder(root: Path, table: str, ytid: str, number: int) -> Path:
    return root / "audio" / f"{ytid}_30.000.wav"


def a_folder_a_label(root: Path, table: str, ytid: str, number: int) -> Path:
    return root / table / "Speech" / f"{ytid}_30.000-40.000.ogg"


LAYOUTS: dict[Layout, str] = {panns: "metadata", hub: "data", one_folder: "", a_folder_a_label: "csv"}


def write_audioset(root: Path, layout: Layout = panns, *, without: frozenset[str] = frozenset()) -> Path:
    write_tables(root / LAYOUTS[layout])
    for table, labels_of in ROWS.items():
        for number, (ytid, labels) in enumerate(labels_of.items()):
            if ytid not in without:
                write_audio(layout(root, table, ytid, number), labels[0])
    return root


def found(task: Task) -> dict[str, tuple[tuple[str, ...], bool]]:
    return {clip.group: (clip.labels, clip.split == "test") for clip in task.clips}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts(layout: Layout, tmp_path: Path) -> None:
    root = write_audioset(tmp_path, layout)
    small, large = open_task("audioset_20k", root), open_task("audioset_2m", root)
    assert (small.metric, small.multilabel, small.classes) == ("mAP", True, tuple(sorted(LABELS)))
    train = {ytid: (labels, False) for ytid, labels in ROWS["balanced_train"].items()}
    test = {ytid: (labels, True) for ytid, labels in ROWS["eval"].items()}
    assert found(small) == train | test
    more = {ytid: (labels, False) for ytid, labels in ROWS["unbalanced_train"].items()}
    assert found(large) == train | more | test
    number = {label: place for place, label in enumerate(small.classes)}
    for row, clip in zip(small.target(), small.clips, strict=True):
        assert sorted(np.flatnonzero(row)) == sorted(number[label] for label in clip.labels)
        assert clip.group in clip.path.stem


def test_a_part_is_held_out_for_choices(tmp_path: Path) -> None:
    task = open_task("audioset_20k", write_audioset(tmp_path))
    held_out = {ytid for ytid in ROWS["balanced_train"] if zlib.crc32(ytid.encode()) % HELD_OUT == 0}
    assert 0 < len(held_out) < 12
    assert {clip.group for clip in task.clips if clip.split == "valid"} == held_out
    (one,) = task.rounds()
    assert (one.test, one.train) == ("test", {"train", "valid"})
    assert one.inner == ((frozenset({"train"}), "valid"),)
    assert f"{len(held_out)} training clips" in " ".join(task.notes)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    gone = frozenset([*list(ROWS["balanced_train"])[:7], *list(ROWS["eval"])[-2:]])
    root = write_audioset(tmp_path, without=gone)
    (root / "audios" / "eval_segments" / "notes.txt").write_text("not audio")
    task = open_task("audioset_20k", root)
    here = [ytid for ytid in reversed(ROWS["balanced_train"]) if ytid not in gone]
    notes = "\n".join(task.notes)
    assert (
        f"train: 53 of 60 listed clips are present, 7 are missing; hash of their IDs {ids_hash(here)}"
        in notes
    )
    assert "test: 18 of 20 listed" in notes
    assert "balanced_train_segments.csv has 60 rows, the official one 22,160" in notes
    assert "3 of 527 classes" in notes
    assert task.name == "audioset_20k_71_clips", "a small part is not called AudioSet"


def test_id_lists(tmp_path: Path) -> None:
    gone = next(iter(ROWS["balanced_train"]))
    root = write_audioset(tmp_path, without=frozenset([gone]))
    train = sorted(ROWS["balanced_train"])[10:50]
    (tmp_path / "train.txt").write_text("# chosen\n" + "".join(f"{ytid}\n" for ytid in train if ytid != gone))
    task = open_task("audioset_20k", root, id_list=tmp_path / "train.txt")
    expected = {ytid for ytid in train if ytid != gone}
    assert {clip.group for clip in task.clips if clip.split != "test"} == expected
    assert task.counts["test"] == 20, "not listed: whole"
    assert "test: the ID list names no clip of it; all are used" in task.notes
    assert any(ids_hash(expected) in note for note in task.notes)

    entries = [{"wav": f"/elsewhere/eval/Y{ytid}.flac", "labels": "x"} for ytid in list(ROWS["eval"])[:5]]
    (tmp_path / "eval.json").write_text(json.dumps({"data": entries}))
    both = open_task("audioset_20k", root, id_list=[tmp_path / "train.txt", tmp_path / "eval.json"])
    assert both.counts["test"] == 5
    assert {clip.group for clip in both.clips if clip.split != "test"} == expected

    (tmp_path / "gone.txt").write_text("\n".join([*train, gone]))
    with pytest.raises(TaskError, match=f"1 of 4[01] clips .* have no audio: {gone}.*skip_missing"):
        open_task("audioset_20k", root, id_list=tmp_path / "gone.txt")
    skipping = open_task("audioset_20k", root, id_list=tmp_path / "gone.txt", skip_missing=True)
    assert {clip.group for clip in skipping.clips if clip.split != "test"} == expected
    (tmp_path / "odd.txt").write_text(next(iter(ROWS["unbalanced_train"])))
    with pytest.raises(TaskError, match="1 of 1 names are not in this task"):
        open_task("audioset_20k", root, id_list=tmp_path / "odd.txt")
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(TaskError, match=r'expected \{"data"'):
        open_task("audioset_20k", root, id_list=tmp_path / "odd.json")


def test_the_list_of_what_is_there_is_an_id_list(tmp_path: Path) -> None:
    gone = frozenset(list(ROWS["balanced_train"])[:3])
    root = write_audioset(tmp_path / "mine", without=gone)
    ids = tmp_path / "ids.txt"
    assert main(["data", "ids", "audioset_20k", "--source", str(root), "--out", str(ids)]) == 0
    mine = open_task("audioset_20k", root)
    theirs = open_task("audioset_20k", write_audioset(tmp_path / "theirs", hub), id_list=ids)
    assert found(theirs) == found(mine)
    hashes = [note.split()[-1] for note in theirs.notes if "hash of their IDs" in note]
    assert hashes == [note.split()[-1] for note in mine.notes if "hash of their IDs" in note]


def test_of_several_files_of_a_clip_the_first_is_taken(tmp_path: Path) -> None:
    root = write_audioset(tmp_path, a_folder_a_label)
    ytid = next(iter(ROWS["eval"]))
    write_audio(root / "eval" / "Animal" / f"{ytid}_30.000-40.000.wav")
    (root / "eval" / "again").symlink_to(root / "eval")
    paths = [clip.path for clip in open_task("audioset_20k", root).clips if clip.group == ytid]
    assert [path.parent.name for path in paths] == ["Animal"]


@given(
    ytid=st.text(CHARACTERS, min_size=11, max_size=11),
    prefix=st.sampled_from(["", "Y"]),
    rest=st.sampled_from(["", "_30", "_30.000", "_30_40", "_30.000-40.000", "_30000"]),
)
def test_ids_are_found_in_file_names(ytid: str, prefix: str, rest: str) -> None:
    stem = f"{prefix}{ytid}{rest}"
    assert _id_of(stem, {ytid}) == ytid
    assert _id_of(f"x{stem}", {ytid}) is None
    assert _id_of(f"{prefix}{ytid}x{rest}", {ytid}) is None


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"absent.*research\.google\.com"):
        open_task("audioset_20k", tmp_path / "absent")
    with pytest.raises(TaskError, match=r"balanced_train_segments\.csv: no such file"):
        open_task("audioset_20k", tmp_path)
    write_tables(tmp_path)
    with pytest.raises(TaskError, match=r"no audio for the 60 train clips; add .*balanced_train_segments/Y"):
        open_task("audioset_20k", tmp_path)
    write_audioset(tmp_path, one_folder)
    names = ["index,mid,display_name", *(f'{place},/m/{place:04},"Sound, {place}"' for place in range(527))]
    (tmp_path / "class_labels_indices.csv").write_text("\n".join(names))
    with pytest.raises(TaskError, match=r"line 3: /m/0\w+.* not in class_labels_indices\.csv"):
        open_task("audioset_20k", tmp_path)
    (tmp_path / "class_labels_indices.csv").write_text("\n".join(names[:100]))
    with pytest.raises(TaskError, match=r"99 classes in column mid, not 527"):
        open_task("audioset_20k", tmp_path)
    (tmp_path / "class_labels_indices.csv").unlink()
    with (tmp_path / "eval_segments.csv").open("a") as file:
        file.write("abcdefghijk, 30.000, 40.000\n")
    with pytest.raises(TaskError, match=r"eval_segments\.csv, line 23.*expected `ID"):
        open_task("audioset_20k", tmp_path)


def test_a_probe_chooses_on_what_is_held_out_and_learns_from_all(tmp_path: Path) -> None:
    task = open_task("audioset_20k", write_audioset(tmp_path / "audioset"))
    (record,) = probed([open_model("logmel")], task, Probing(), tmp_path / "cache")
    # A tone says which of three labels is the first; the second is not to be heard.
    assert record.metric == "mAP"
    assert 0.6 < record.score < 1
    assert record.notes == task.notes


def test_a_clip_of_training_and_test_is_refused(tmp_path: Path) -> None:
    root = write_audioset(tmp_path)
    train, test = (next(root.rglob(f"{name}_segments.csv")) for name in ("balanced_train", "eval"))
    row = train.read_text().splitlines()[-1]
    test.write_text(f"{test.read_text().rstrip()}\n{row}\n")
    with pytest.raises(TaskError, match=f"{row[:11]} in both a training table and eval_segments"):
        open_task("audioset_20k", root)
