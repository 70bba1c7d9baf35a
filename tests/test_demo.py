"""What the demo says of pre-training's gain."""

from __future__ import annotations

import json
from pathlib import Path

from ajepa.eval.demo import TRAINED, TWIN, gains
from ajepa.eval.results.record import Record


def write_task(folder: Path, clips: dict[str, int]) -> None:
    folder.mkdir()
    (folder / "task_metadata.json").write_text(json.dumps({"splits": list(clips)}))
    for split, count in clips.items():
        labels = {f"{number}.wav": ["a"] for number in range(count)}
        (folder / f"{split}.json").write_text(json.dumps(labels))


def record(model: str, task: str, score: float) -> Record:
    return Record(model, "", task, "hear", "hear", "accuracy", score)


def test_gains_count_the_clips_that_are_scored(tmp_path: Path) -> None:
    """Standard errors by hand: sqrt((0.5 * 0.5 + 0.9 * 0.1) / n), n = 100 in two folds, 25 in one split."""
    write_task(tmp_path / "folds", {"fold00": 40, "fold01": 60})
    write_task(tmp_path / "split", {"train": 500, "valid": 30, "test": 25})
    records = [record("log-mel", task, 0.1) for task in ("folds", "split")]
    records += [record(TWIN, "folds", 0.5), record(TWIN, "split", 0.9)]
    records += [record(TRAINED, "folds", 0.9), record(TRAINED, "split", 0.5)]
    assert gains(records, tmp_path).splitlines() == [
        "  +0.400 (standard error 0.058, 100 test clips)  folds",
        "  -0.400 (standard error 0.117, 25 test clips)  split",
    ]
