"""Models as commands and comparisons name them: NAME=SOURCE, and sources for toolkits in other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ajepa.cli import main
from ajepa.eval.compare.cells import plan
from ajepa.eval.compare.config import Comparison
from ajepa.eval.compare.protocols import Conditions
from ajepa.eval.models.open import open_model
from ajepa.eval.toolkits.hear import Entry
from ajepa.eval.toolkits.s3prl import Upstream
from ajepa.eval.toolkits.stock import Checkpoint
from ajepa.model.loading import bundled
from ajepa.named_source import name_of, named_source
from tests.hear_tasks import tones, write_rows


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    """A recipe in a folder with "=" in its name."""
    (tmp_path / "runs" / "lr=1e-3").mkdir(parents=True)
    return tiny.rename(tmp_path / "runs" / "lr=1e-3" / "steps=20.yaml")


def test_the_name_ends_at_the_first_equals_sign(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_source("logmel") == ("", "logmel")
    assert named_source(f"mine={run}") == ("mine", str(run))
    assert named_source(str(run)) == ("", str(run))
    assert named_source("mine=") == ("mine", "")
    monkeypatch.chdir(run.parent.parent)
    assert named_source("lr=1e-3") == ("", "lr=1e-3"), "it is there"
    assert named_source("lr=1e-4") == ("lr", "1e-4")


def test_a_path_with_an_equals_sign_is_a_source_for_every_protocol(run: Path) -> None:
    for text, name in ((str(run), "steps=20"), (f"mine={run}", "mine")):
        assert (open_model(text).name, open_model(text).source) == (name, str(run))
        for kind in (Entry, Checkpoint, Upstream):
            found = kind.parse(text)
            assert (found.name, found.source) == (name, str(run))
    assert Upstream.parse(f"s3prl:hf_hubert_custom:{run}") == Upstream(
        "hf_hubert_custom", "hf_hubert_custom", str(run)
    )
    assert Entry.of("a=b", str(run)) == Entry("a=b", "ajepa.hear_module", str(run)), (
        "as a comparison names it"
    )


def test_a_dot_in_a_folder_s_name_is_no_suffix(run: Path) -> None:
    assert name_of(str(run)) == "steps=20", "a file"
    folder = run.parent.parent / "v0.1"
    folder.mkdir()
    assert name_of(str(folder)) == "v0.1"
    assert name_of("ajepa-small-cpu") == "ajepa-small-cpu", "a recipe"


@pytest.mark.parametrize("kind", [Entry, Checkpoint, Upstream])
def test_toolkits_are_given_the_file_of_the_default_encoder(
    kind: type[Entry | Checkpoint | Upstream],
) -> None:
    for text, name in (("default", "default"), ("mine=default", "mine")):
        found = kind.parse(text)
        assert (found.name, found.source) == (name, str(bundled()))


@pytest.mark.parametrize("protocol", ["hear", "s3prl", "xares"])
def test_toolkits_refuse_baselines_before_anything_runs(
    protocol: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--protocol", protocol, "--task", "esc50", "--out", str(tmp_path / "out")]
    command += ["--tasks-dir" if protocol == "hear" else "--data", str(tmp_path)]
    (tmp_path / "hubert").mkdir()
    (tmp_path / "hubert" / "config.json").write_text('{"model_type": "hubert"}')
    for source in ("hear-naive", str(tmp_path / "hubert")):
        assert main([*command, "--model", str(tiny), "--model", f"other={source}"]) == 2
        assert f"other: the protocol {protocol} cannot be given {source}, only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_comparison_says_beforehand_which_models_a_protocol_cannot_be_given(
    tiny: Path, tmp_path: Path
) -> None:
    models = {"ours": str(tiny), "log-mel": "logmel", "naive": "hear-naive"}
    task = {"task": "table", "data": str(tmp_path / "labels.csv"), "hear": str(tmp_path), "split": "split"}
    tones(tmp_path, ["a.wav", "b.wav", "c.wav", "d.wav"])
    rows = ["a.wav,x,train", "b.wav,y,train", "c.wav,x,valid", "d.wav,x,test"]
    write_rows(tmp_path / "labels.csv", "filename,label,split", *rows)
    comparison = Comparison(models, {"tones": task}, ["linear", "finetune", "hear"])
    found = plan(comparison, comparison.sources(), {}, Conditions(tmp_path, tmp_path))
    assert [(failure.model, failure.protocol) for failure in found.failures] == [
        ("log-mel", "finetune"),
        ("naive", "finetune"),
        ("naive", "hear"),
    ]
    assert "the protocol hear cannot be given hear-naive" in found.failures[-1].reason
