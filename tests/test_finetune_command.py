"""`ajepa evaluate finetune`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ajepa.cli import main
from ajepa.eval.results.record import read_records
from tests.hear_tasks import tones, write_rows

# Finite in the trial when it is opened, on silence; infinite on sounds.
OVERFLOWING = """
import torch

class Overflowing(torch.nn.Module):
    sample_rate = 16_000

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1, 4), 3e38))

    def forward(self, waveform_BS):
        return 1e3 * waveform_BS.abs().amax(1, keepdim=True) @ self.weight
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command for a table of twelve tones of two kinds, without its models."""
    names = [f"{number}.wav" for number in range(12)]
    tones(tmp_path, names)
    rows = [f"{name},{'ab'[n % 2]},{('train', 'valid', 'test')[n // 4]}" for n, name in enumerate(names)]
    table = write_rows(tmp_path / "tones.csv", "filename,label,split", *rows)
    line = ["evaluate", "finetune", "--task", "table", "--data", str(table)]
    return [*line, "--split", "split", "--set", "epochs=1", "--set", "warmup_epochs=0"]


def test_models_beside_a_baseline(
    command: list[str], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*command, "--model", f"one={source}", "--model", f"two={source}", "--baseline", "one"]
    assert main([*line, "--json", str(tmp_path / "out.json")]) == 0
    one, two = read_records(tmp_path / "out.json")
    assert one.score == two.score and two.baseline, "the same twin, the same seed"
    assert two.baseline.difference == 0.0
    assert "one, seed 0, test: epoch 1, loss" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*line, "--seeds", "x"])
    assert "--seeds: 'x' are not numbers such as 0,1,2" in capsys.readouterr().err
    assert main([*line, "--baseline", "three"]) == 2 and "'three'" in capsys.readouterr().err


def test_clips_of_several_labels(
    command: list[str], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "tones.csv"
    table.write_text(table.read_text().replace(",a,", ",a;b,"))
    line = [*command, "--multilabel", "--model", source, "--json", str(tmp_path / "out.json")]
    assert main(line) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["metric"], record["details"]["config"]["loss"]) == ("mAP", "bce")
    capsys.readouterr()
    assert main([*line, "--set", "loss=cross-entropy"]) == 2
    assert "clips of table have several labels; use bce" in capsys.readouterr().err


def test_a_baseline_is_refused_before_any_training(
    command: list[str], source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--model", f"one={source}", "--model", "logmel"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("ajepa: the protocol finetune cannot score logmel; choose a model that ajepa.load")


def test_what_is_finished_outlives_a_model_that_fails(
    command: list[str], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoders.py").write_text(OVERFLOWING)
    models = ["--model", f"one={source}", "--model", f"broken=python:{tmp_path / 'encoders.py'}:Overflowing"]
    assert main([*command, *models, "--json", str(tmp_path / "out.json")]) == 1
    said = capsys.readouterr()
    assert "failed: broken on table, finetune: seed 0, epoch 1: the training loss is nan" in said.err
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["model"] == "one" and f"{record['score']:.3f}" in said.out
