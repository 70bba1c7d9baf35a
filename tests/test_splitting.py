"""Splits made for tables that have none."""

from __future__ import annotations

import csv
import random
from collections import Counter
from pathlib import Path

import pytest

from ajepa.data.labelled import Labelled, check_no_overlap
from ajepa.data.splitting import split_file
from ajepa.eval.tasks import TaskError, open_task
from ajepa.eval.tasks.task import Task


def write_table(folder: Path, clips: int = 60, groups: int = 20, labels: int = 3, shuffled: int = 0) -> Path:
    """Clips of three kinds from twenty sites, each site with three clips; the files are empty."""
    rows = [(f"{n:03d}.wav", f"kind {n % labels}", f"site {n % groups}") for n in range(clips)]
    for name, _, _ in rows:
        (folder / name).touch()
    random.Random(shuffled).shuffle(rows)
    table = folder / "birds.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "label", "site"), *rows])
    return table


def splits(task: Task) -> dict[str, str]:
    return {clip.path.name: clip.split for clip in task.clips}


def test_labels_are_spread_and_groups_stay_together(tmp_path: Path) -> None:
    task = open_task("table", write_table(tmp_path), split="auto", group="site")
    assert Counter(splits(task).values()) == {"train": 36, "valid": 12, "test": 12}
    by_group: dict[str, set[str]] = {}
    for clip in task.clips:
        by_group.setdefault(clip.group, set()).add(clip.split)
    assert len(by_group) == 20 and all(len(found) == 1 for found in by_group.values())
    for split, share in (("train", 12), ("valid", 4), ("test", 4)):
        counts = Counter(clip.labels[0] for clip in task.clips if clip.split == split)
        assert all(abs(count - share) <= 2 for count in counts.values()) and len(counts) == 3


def test_without_groups_labels_are_spread_exactly(tmp_path: Path) -> None:
    task = open_task("table", write_table(tmp_path), split="auto")
    counts = Counter((clip.split, clip.labels[0]) for clip in task.clips)
    assert set(counts.values()) == {12, 4} and len(counts) == 9


def test_the_split_is_written_down_and_can_be_repeated(tmp_path: Path) -> None:
    table = write_table(tmp_path)
    first = splits(open_task("table", table, split="auto"))
    kept = split_file(table)
    written = kept.read_bytes()
    with kept.open(newline="") as file:
        assert {row["filename"]: row["split"] for row in csv.DictReader(file)} == first
    write_table(tmp_path, shuffled=1)
    assert splits(open_task("table", table, split="auto")) == first, "the order of the rows does not matter"
    assert kept.read_bytes() == written
    with pytest.raises(TaskError, match=r"birds-split\.csv: holds another split"):
        open_task("table", table, split="auto", group="site")
    assert kept.read_bytes() == written


def test_the_split_is_the_same_with_every_release_of_its_libraries(tmp_path: Path) -> None:
    task = open_task("table", write_table(tmp_path, groups=10), split="auto", group="site")
    assert {clip.group for clip in task.clips if clip.split == "test"} == {"site 5", "site 7"}


def test_several_labels_a_clip(tmp_path: Path) -> None:
    table = write_table(tmp_path)
    task = open_task("table", table, split="auto", group="site", multilabel=True)
    assert Counter(splits(task).values()) == {"train": 36, "valid": 12, "test": 12}
    by_group = Counter(clip.group for clip in task.clips if clip.split == "test")
    assert set(by_group.values()) == {3}


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ({"groups": 4}, {"group": "site"}, "4 groups of clips are too few to split by --split auto"),
        ({"clips": 13, "labels": 3}, {}, "the label 'kind .' has 4 clips"),
    ],
)
def test_too_few_clips_are_named(
    tmp_path: Path, shape: dict[str, int], options: dict[str, str], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        open_task("table", write_table(tmp_path, **shape), split="auto", **options)
    assert not list(tmp_path.glob("*-split.csv"))


def test_a_split_that_is_not_there_makes_none(tmp_path: Path) -> None:
    for name in ("low", "high"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        (tmp_path / "sounds" / name / "a.wav").write_bytes(b"")
    with pytest.raises(TaskError, match=r"--split my-splitt.csv: no such file; give auto, or a file"):
        open_task("folder", tmp_path / "sounds", split="my-splitt.csv")


def test_too_few_groups_to_hold_out_are_said_to_be_that(tmp_path: Path) -> None:
    """A table that has splits is not told to add a column of splits."""
    table = write_table(tmp_path, clips=12, groups=3)
    lines = table.read_text().splitlines()
    rows = [f"{line},{'test' if place % 4 == 0 else 'train'}" for place, line in enumerate(lines[1:])]
    table.write_text("\n".join([f"{lines[0]},split", *rows]))
    with pytest.raises(TaskError, match=r"too few to hold out training clips .* or mark some as valid"):
        open_task("table", table, split="split", group="site")


def test_segments_that_touch_do_not_overlap() -> None:
    """2.40 + (7.13 - 2.40) is more than 7.13 by one rounding."""
    clips = [
        Labelled(Path("a.wav"), "a.wav", ("x",), split, "", start, end - start)
        for start, end, split in ((2.40, 7.13, "train"), (7.13, 8.13, "test"))
    ]
    check_no_overlap(clips, Path("table.csv"))
    with pytest.raises(TaskError, match="is in test and in train"):
        check_no_overlap([clips[0], clips[1]._replace(start=7.12)], Path("table.csv"))
