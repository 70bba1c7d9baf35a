"""The HEAR protocol through the stock toolkit: real commands, tiny task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile

import ajepa
from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval.compare.run import Comparison, evaluate
from ajepa.eval.models.logmel import LogMelStatistics
from ajepa.eval.results.record import read_records
from ajepa.eval.results.table import by_task
from ajepa.features import LogMelConfig
from ajepa.hear_module import tasks
from ajepa.model.fingerprint import fingerprint
from ajepa.recipes import Recipe
from tests import forks
from tests.hear_tasks import shorten_training
from tests.toolkits import needs_heareval


def test_fingerprints_follow_the_weights() -> None:
    first, second = ajepa.load_model("ajepa-demo"), ajepa.load_model("ajepa-demo", seed=1)
    assert fingerprint(first) == fingerprint(ajepa.load_model("ajepa-demo"))
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first) != fingerprint(ajepa.load_model("ajepa-demo", chunk_seconds=9.0))
    other_bands = LogMelStatistics(LogMelConfig(low_hz=300.0))
    assert fingerprint(LogMelStatistics()) != fingerprint(other_bands), "the front end is part of it"
    assert fingerprint(LogMelStatistics()) == fingerprint(LogMelStatistics())


def test_the_task_has_audio_at_the_rate_of_each_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_esc50(tmp_path / "source", clips_per_class=5, classes=2, seconds=0.2)
    made = ["data", "hear-task", "esc50", "--source", str(tmp_path / "source"), "--out"]
    with pytest.raises(SystemExit):
        main([*made, str(tmp_path / "wrong"), "--sample-rate", "0"])
    assert "--sample-rate: '0' is no whole number from 1000 to 1000000" in capsys.readouterr().err
    assert main([*made, str(tmp_path / "tasks"), "--sample-rate", "32000"]) == 0
    (task,) = (tmp_path / "tasks").iterdir()
    (clip, *_) = task.glob("32000/fold00/*.wav")
    assert soundfile.info(clip).samplerate == 32_000
    out = tmp_path / "out"
    command = ["evaluate", "hear", "--tasks-dir", str(tmp_path / "tasks"), "--out", str(out)]
    command += ["--model", "logmel"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert (
        f"{task}: no audio at the 16000 Hz of logmel; `ajepa data hear-task ... --sample-rate 16000" in said
    )
    assert not out.exists()


@pytest.mark.slow
@needs_heareval
def test_scores_of_two_models(tiny_recipe: Recipe, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_esc50(source, clips_per_class=10, classes=3, seconds=1.0)
    task = tasks.from_esc50(source, tmp_path / "tasks")
    shorten_training(task, epochs=30, every=3)
    run = ajepa.pretrain(tiny_recipe).parent
    comparison = Comparison(
        {"log-mel": "logmel", "tiny": str(run)}, {"sounds": {"hear": str(task)}}, {"hear": {"grid_points": 1}}
    )
    out = tmp_path / "scores"
    with forks.forked(forks.HEAR):
        records, failures = evaluate(comparison, out)
    assert not failures
    assert [record.model for record in records] == ["log-mel", "tiny"]
    for record in records:
        assert record.task == task.name, "the folder's, not the comparison's"
        assert len(record.folds) == 5
        assert 0 <= record.score <= 1
        assert record.score == pytest.approx(sum(record.folds.values()) / 5)
        assert record.spread is not None and record.spread >= 0
        assert record.clips == 30 and set(record.clips_by_split.values()) == {6}
    assert records[0].score > 0.5, "log-mel statistics tell three sounds apart"
    assert read_records(out / "records.json") == records
    assert "log-mel" in by_task(records)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.log")}
    assert len(stamps) >= 4, "of two commands for each model"
    assert evaluate(comparison, out) == (records, [])
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.log")}, "run again"


@pytest.mark.slow
@needs_heareval
def test_a_failing_command_is_named(tmp_path: Path) -> None:
    write_esc50(tmp_path / "source", clips_per_class=5, classes=2, seconds=0.5)
    task = tasks.from_esc50(tmp_path / "source", tmp_path / "tasks")
    next(task.glob("16000/*/*.wav")).unlink()
    comparison = Comparison(
        {"log-mel": "logmel"}, {"sounds": {"hear": str(task)}}, {"hear": {"grid_points": 1}}
    )
    records, (failure,) = evaluate(comparison, tmp_path / "scores")
    assert not records
    assert re.search(r"heareval\.embeddings\.runner.*embeddings\.log", failure.reason)
