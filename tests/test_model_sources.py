"""Models as commands and comparisons name them: NAME=SOURCE, and sources for toolkits in other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ajepa.cli import main
from ajepa.eval.compare.cells import plan
from ajepa.eval.compare.config import Comparison
from ajepa.eval.models.open import S3prlUpstream, open_model
from ajepa.eval.models.text import absolute
from ajepa.eval.protocols import OURS, Bench, Conditions, TaskEntry
from ajepa.model.loading import bundled
from ajepa.named_source import name_of, named_source
from ajepa.recipes import RecipeError
from tests.hear_tasks import tones, write_rows

METADATA = '{"splits": ["train", "valid", "test"], "evaluation": ["top1_acc"]}'


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
    assert absolute(str(run)) == str(run)
    own = open_model(f"s3prl:hf_hubert_custom:{run}")
    assert own.name == "hf_hubert_custom" and isinstance(own.module, S3prlUpstream)
    assert (own.module.upstream, own.module.checkpoint) == ("hf_hubert_custom", str(run))


def test_a_dot_in_a_folder_s_name_is_no_suffix(run: Path) -> None:
    assert name_of(str(run)) == "steps=20", "a file"
    folder = run.parent.parent / "v0.1"
    folder.mkdir()
    assert name_of(str(folder)) == "v0.1"
    assert name_of("ajepa-small-cpu") == "ajepa-small-cpu", "a recipe"


def test_toolkits_are_given_the_file_of_the_default_encoder() -> None:
    assert absolute("default") == str(bundled())
    assert Path(absolute("ajepa-demo")).is_file(), "a recipe of the package"
    with pytest.raises(RecipeError, match="nonsense"):
        absolute("nonsense")


@pytest.mark.parametrize("protocol", ["linear", "finetune", "hear", "s3prl", "xares"])
def test_which_models_a_protocol_takes(protocol: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "16000").mkdir()
    entry = TaskEntry("sounds", "esc50", {"hear": str(tmp_path)})
    refused = {}
    (tmp_path / "44100").mkdir()
    for source in (str(tiny), "logmel", "hear-naive", "s3prl:mel"):
        bench = Bench("model", source, Conditions(tmp_path, tmp_path))
        refused[source] = OURS[protocol](protocol).refusal(bench, entry)
    taken = {str(tiny)} if protocol == "finetune" else set(refused)
    assert {source for source, why in refused.items() if not why} == taken
    for source in set(refused) - taken:
        assert refused[source].startswith(f"the protocol {protocol} cannot score {source}; choose")


def test_a_refused_model_stops_the_command_before_anything_runs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks" / "a" / "16000").mkdir(parents=True)
    (tmp_path / "tasks" / "a" / "task_metadata.json").write_text(METADATA)
    command = ["evaluate", "hear", "--tasks-dir", str(tmp_path / "tasks"), "--out", str(tmp_path / "out")]
    assert main([*command, "--model", str(tiny), "--model", "other=hear-naive"]) == 2
    assert "no audio at the 44100 Hz of other; `ajepa data hear-task" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_comparison_says_beforehand_which_models_a_protocol_cannot_be_given(
    tiny: Path, tmp_path: Path
) -> None:
    models = {"ours": str(tiny), "log-mel": "logmel", "naive": "hear-naive"}
    folder = tmp_path / "hear"
    (folder / "16000").mkdir(parents=True)
    (folder / "task_metadata.json").write_text(METADATA)
    task = {"task": "table", "data": str(tmp_path / "labels.csv"), "hear": str(folder), "split": "split"}
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
    assert "the protocol finetune cannot score hear-naive" in found.failures[1].reason
    assert "no audio at the 44100 Hz of naive" in found.failures[-1].reason
