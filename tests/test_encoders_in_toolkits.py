"""An encoder of another interface through the stock toolkits, each in its own process, by one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50, write_voxceleb1
from ajepa.eval.compare.config import Comparison
from ajepa.eval.compare.run import evaluate
from ajepa.eval.models.open import open_model
from ajepa.eval.results.record import Record
from ajepa.hear_module import tasks
from ajepa.model.fingerprint import fingerprint
from tests.test_encoders_in import module  # noqa: F401
from tests.test_xares import needs_xares
from tests.toolkits import needs_heareval, needs_s3prl

pytestmark = pytest.mark.slow


@pytest.fixture
def source(module: Path, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """Named relative to the folder where the command runs, which is not where the toolkits run."""
    monkeypatch.chdir(module.parent)
    return f"python:{module.name}:energies"


def scored(source: str, task: dict[str, str], protocol: dict[str, object], out: Path) -> Record:
    records, failures = evaluate(Comparison({"energies": source}, {"task": task}, protocol), out)  # type: ignore[arg-type]
    assert not failures, failures[0].reason
    (record,) = records
    assert (record.model, record.source) == ("energies", source)
    assert record.weights == fingerprint(open_model(source).module)
    return record


@needs_heareval
def test_hear(source: str, tmp_path: Path) -> None:
    write_esc50(tmp_path / "sounds", clips_per_class=10, classes=2, seconds=0.5)
    task = tasks.from_esc50(tmp_path / "sounds", tmp_path / "tasks")
    metadata = json.loads((task / "task_metadata.json").read_text())
    grid = {"lr": [0.01], "max_epochs": [9], "patience": [20], "check_val_every_n_epoch": [3]}
    metadata["evaluation_params"] = {"task_specific_param_grid": grid}
    (task / "task_metadata.json").write_text(json.dumps(metadata))
    record = scored(source, {"hear": str(task)}, {"hear": {"grid_points": 1}}, tmp_path / "out")
    assert len(record.folds) == 5 and record.clips == 20


@needs_s3prl
def test_s3prl(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_voxceleb1(tmp_path / "speakers", speakers=4, sessions=3, utterances=2, seconds=0.6)
    made = ["--source", str(tmp_path / "speakers"), "--out", str(tmp_path / "sid")]
    assert main(["data", "s3prl", "voxceleb1", *made]) == 0
    settings = {"steps": 4, "eval_every": 2, "lr": 1e-2, "workers": 0, "seeds": [1]}
    record = scored(
        source, {"task": "voxceleb1", "s3prl": str(tmp_path / "sid")}, {"s3prl": settings}, tmp_path / "out"
    )
    assert record.details["upstream"] == "ajepa_any" and record.clips_by_split["test"] == 8
    assert any((tmp_path / "out" / "features").rglob("*.npy")), "features are kept"


@needs_xares
def test_x_ares(source: str, tmp_path: Path) -> None:
    write_esc50(tmp_path / "sounds", clips_per_class=10, classes=2, seconds=0.5)
    made = ["--source", str(tmp_path / "sounds"), "--out", str(tmp_path / "env")]
    assert main(["data", "xares", "esc50", *made]) == 0
    task = {"task": "esc50", "xares": str(tmp_path / "env" / "esc50")}
    record = scored(source, task, {"xares": {"epochs": 1, "seeds": [1]}}, tmp_path / "out")
    assert len(record.folds) == 5 and record.clips == 20
