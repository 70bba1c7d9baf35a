"""What is kept next to a record: the clips' answers and features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval.results.kept import KeptError, answers_of, features_of, read_table, write_table
from ajepa.eval.results.record import read_records
from ajepa.eval.results.scores import Scored
from ajepa.eval.tasks import Clip, Task

ANSWERS = ("layer", "seed", "split", "clip", "truth", "labels", "scores")


def test_a_probe_keeps_its_answers(tmp_path: Path) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=10, classes=3, seconds=0.3)
    command = ["evaluate", "knn", "--model", "logmel", "--task", "esc10", "--data", str(tmp_path / "esc50")]
    command += ["--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "far" / "knn.json")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (record,) = read_records(tmp_path / "far" / "knn.json")
    (file,), (features,) = record.answers, record.features
    rows = read_table(tmp_path / "far" / file, ANSWERS)
    assert len(rows) == record.clips == 30
    for fold, score in record.folds.items():
        right = [row["truth"][0] == row["labels"][0] for row in rows if row["split"] == fold]
        assert np.mean(right) == pytest.approx(score)
    assert all(Path(row["clip"]).is_file() for row in rows)
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)
    mapped = read_table(tmp_path / "far" / features, ("clip", "features"))
    assert {row["clip"] for row in mapped} == {row["clip"] for row in rows}

    assert main(command) == 0, "without --out nothing is left that a record could name"
    (record,) = read_records(tmp_path / "far" / "knn.json")
    assert record.answers == record.features == ()


def small_task(clips: int) -> Task:
    splits = ["train", "valid", "test"]
    listed = [Clip(Path(f"{n}.wav"), (f"class {n % 2}",), splits[n % 3]) for n in range(clips)]
    return Task("small", tuple(listed), folds=False)


def test_answers_of_seeds_follow_the_order_of_the_task(tmp_path: Path) -> None:
    task = small_task(12)
    test = [clip for clip in task.clips if clip.split == "test"]
    target = torch.tensor([task.classes.index(clip.labels[0]) for clip in test])
    right = torch.nn.functional.one_hot(target, 2).float()
    runs = [[Scored("test", scores, target, ("",) * len(test))] for scores in (right, 1 - right)]
    write_table(tmp_path / "a.parquet", [answers_of(task, runs, seeds=[3, 5])])
    rows = read_table(tmp_path / "a.parquet", ANSWERS)
    assert [row["seed"] for row in rows] == [3] * 4 + [5] * 4
    assert [Path(row["clip"]).name for row in rows[:4]] == [clip.path.name for clip in test]
    assert [row["labels"][0] == row["truth"][0] for row in rows] == [True] * 4 + [False] * 4


def test_features_keep_the_distances_of_a_plane() -> None:
    task = small_task(40)
    plane = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 50)
    first, again = (features_of(task, plane)["features"].to_pylist() for _ in range(2))
    assert first == again, "the same clips, the same map"
    scaled = (plane - plane.mean(0)) / plane.std(0)
    apart, mapped = (torch.cdist(*[one.double()] * 2) for one in (scaled, torch.tensor(first)))
    torch.testing.assert_close(mapped, apart, rtol=0, atol=1e-3)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(KeptError, match=r"a\.parquet: not a Parquet file"):
        read_table(tmp_path / "a.parquet", ANSWERS)
    write_table(tmp_path / "b.parquet", [features_of(small_task(6), torch.eye(6))])
    with pytest.raises(KeptError, match=r"b\.parquet: it has no column labels, layer"):
        read_table(tmp_path / "b.parquet", ANSWERS)
