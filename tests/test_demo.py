"""What the demo says of pre-training's gain."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ajepa.eval import demo as demo_module
from ajepa.eval.demo import TRAINED, TWIN, Size, demo, gains
from ajepa.eval.results.record import Record
from tests import forks
from tests.hear_tasks import shorten_training
from tests.toolkits import needs_heareval


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


@pytest.mark.slow
@needs_heareval
def test_the_demo_runs_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, on 50 sounds, 60 words and 4 steps; a second call finds everything done."""
    make = demo_module._make_audio

    def make_audio(audio: Path, tasks_dir: Path, size: Size, with_unlabelled: bool) -> None:
        made = tasks_dir.exists()
        make(audio, tasks_dir, size, with_unlabelled)
        for task in () if made else tasks_dir.iterdir():
            shorten_training(task, epochs=2)

    monkeypatch.setattr(demo_module, "_make_audio", make_audio)
    size = Size(
        sounds=5,
        speakers=3,
        unlabelled=8,
        settings=("optim.steps=4", "optim.warmup_steps=1", "optim.batch_size=4", "run.accelerator=cpu"),
        jobs=1,
    )
    with forks.forked(forks.HEAR):
        demo(tmp_path, size=size)
    shown = capsys.readouterr().out
    records = json.loads((tmp_path / "hear" / "records.json").read_text())
    page = (tmp_path / "report.html").read_text()
    assert str(tmp_path / "report.html") in shown and TRAINED in page and '"ajepa-demo"' in page
    shown_there = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    sections = [(one["protocol"], one["matrix"], len(one["models"])) for one in shown_there["tasks"]]
    assert sections == [("hear", True, 3)] * 2, "every answer of the toolkit, in a confusion matrix"
    assert None not in (number for one in shown_there["tasks"] for number in one["media"])
    assert {(record["model"], record["clips"]) for record in records} == {
        (model, clips) for model in ("log-mel statistics", TWIN, TRAINED) for clips in (50, 60)
    }
    assert all(0 <= record["score"] <= 1 for record in records)
    assert len({record["weights"] for record in records}) == 3
    assert shown.count("standard error") == 2
    encoder = tmp_path / "pretrain" / "encoder.safetensors"
    assert f"ajepa embed FILES --model {encoder}" in shown
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    demo(tmp_path, size=size)
    assert capsys.readouterr().out == shown
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
