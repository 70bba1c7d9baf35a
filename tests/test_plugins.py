"""A task, an encoder and a protocol that another package adds by its entry points."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from ajepa.cli import main
from ajepa.eval.models.open import MODELS, ClipModel, open_model
from ajepa.eval.plugins import Registry
from ajepa.eval.protocols import OURS, PROTOCOLS
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks import TASKS, open_task
from tests.hear_tasks import tones

MODULE = '''
"""What somebody's package has."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ajepa.eval.protocols import Protocol
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.tasks import Clip, Task


def open_tones(data, *, folds=3):
    """Files by number: the first half is lower than the second."""
    paths = sorted(Path(data).glob("*.wav"), key=lambda path: int(path.stem))
    clips = [Clip(p, ("low" if n < len(paths) / 2 else "high",), str(n % folds)) for n, p in enumerate(paths)]
    return Task("tones", tuple(clips), folds=True)


class ZeroCrossings(nn.Module):
    """How often the waveform changes its sign."""

    sample_rate, ragged = 16_000, False

    def forward(self, waveform_BS, lengths, all_layers):
        rate_B = (waveform_BS[:, 1:] * waveform_BS[:, :-1] < 0).float().mean(1)
        return rate_B[:, None, None, None, None]


@dataclass(frozen=True)
class Nearest(Protocol):
    """The probe knn under another name."""

    layer: str = "last"

    def run(self, bench, entry, folder):
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text(bench.name)
        return Probing("knn", self.layer).run(bench, entry, folder)
'''
ENTRY_POINTS = """
[ajepa.tasks]
tones = outside_ajepa:open_tones
esc50 = outside_ajepa:open_tones
[ajepa.models]
zero-crossings = outside_ajepa:ZeroCrossings
[ajepa.protocols]
nearest = outside_ajepa:Nearest
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with entry points; a folder of twelve tones, high and low."""
    site = tmp_path / "site"
    about = site / "outside_ajepa-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "outside_ajepa.py").write_text(textwrap.dedent(MODULE))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-ajepa\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    (tmp_path / "tones").mkdir()
    tones(tmp_path / "tones", [f"{number}.wav" for number in range(12)])
    return tmp_path / "tones"


def test_registries_know_them(outside: Path) -> None:
    assert TASKS.names()[-1] == "tones" and MODELS.names()[-1] == "zero-crossings"
    assert PROTOCOLS.names() == [*OURS, "nearest"]
    assert TASKS.get("esc50") is TASKS.known["esc50"], "a name of ours cannot be taken"
    assert TASKS.get("absent") is None
    assert isinstance(open_model("zero-crossings").module, ClipModel)
    assert len(open_task("tones", outside, folds=4).clips) == 12
    assert Registry("ajepa.nothing", {"a": 1}).names() == ["a"]


def test_evaluate_takes_them(outside: Path, tmp_path: Path) -> None:
    command = ["evaluate", "nearest", "--task", "tones", "--data", str(outside)]
    command += [
        "--model",
        "zero-crossings",
        "--cache",
        str(tmp_path / "cache"),
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (record,) = read_records(tmp_path / "a.json")
    assert (record.model, record.task, record.protocol) == ("zero-crossings", "tones", "nearest")
    assert record.score > 0.5, "higher tones cross zero more often"
    assert len(list((tmp_path / "out").glob("nearest/tones-zero-crossings-*/notes.txt"))) == 1


def test_a_comparison_takes_them(outside: Path, source: str, tmp_path: Path) -> None:
    quick = {"set": {"epochs": 1, "warmup_epochs": 0}}
    content = {
        "models": {"crossings": "zero-crossings", "tiny": source},
        "tasks": {"pitches": {"task": "tones", "data": str(outside), "folds": 3}},
        "protocols": {"linear": {}, "nearest": {}, "finetune": quick},
        "baseline": "crossings",
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    command = ["compare", str(tmp_path / "compare.yaml"), "--out", str(tmp_path / "out")]
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 1, "zero crossings cannot be fine-tuned"
    records = read_records(tmp_path / "out" / "records.json")
    assert [(record.protocol, record.model) for record in records] == [
        ("linear", "crossings"),
        ("linear", "tiny"),
        ("nearest", "crossings"),
        ("nearest", "tiny"),
        ("finetune", "tiny"),
    ]
    assert records[-1].details["recipe"] == "generic", "no recipe is made for this task"
    assert "the protocol finetune cannot score zero-crossings" in (tmp_path / "out" / "table.md").read_text()
