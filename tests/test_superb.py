"""The protocol s3prl: settings, s3prl's files, scores of its answers, and (slow) its own commands."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ajepa.cli import main
from ajepa.data.synthetic import write_voxceleb1
from ajepa.eval.models.open import S3prlUpstream, open_model
from ajepa.eval.protocols import ProtocolError, TaskEntry
from ajepa.eval.protocols import s3prl as superb
from ajepa.eval.protocols.s3prl import S3prl
from ajepa.eval.results.answers import scored
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.scores import summary
from ajepa.eval.toolkits.commands import run_module, timed
from ajepa.model.fingerprint import fingerprint
from tests import forks
from tests.toolkits import needs_s3prl


def test_upstreams_of_s3prl(tiny: Path) -> None:
    for text, name, checkpoint in (
        ("s3prl:mel", "mel", ""),
        (f"x=s3prl:hf_hubert_custom:{tiny}", "x", str(tiny)),
        ("x=s3prl:hf_hubert_custom:somebody/model", "x", "somebody/model"),
    ):
        model = open_model(text)
        assert model.name == name and isinstance(model.module, S3prlUpstream)
        assert model.module.checkpoint == checkpoint
    before = fingerprint(open_model(f"s3prl:a:{tiny}").module)
    tiny.write_text(tiny.read_text() + "# another checkpoint")
    assert fingerprint(open_model(f"s3prl:a:{tiny}").module) != before


def test_settings() -> None:
    superbs = S3prl("s3prl")
    assert (superbs.steps, superbs.lr, superbs.seeds) == (200_000, 1e-4, (1337,)), "SUPERB's"
    given = {"steps": "20", "lr": "1e-3", "frequency": "average"}  # text, as of --set
    changed = S3prl("s3prl", **given)  # type: ignore[arg-type]
    assert changed == replace(superbs, steps=20, lr=1e-3, frequency="average")
    with pytest.raises(ProtocolError, match="steps is 'many'; expected a value such as 200000"):
        S3prl("s3prl", steps="many")  # type: ignore[arg-type]
    for wrong in ({"steps": 0}, {"steps": 2.5}, {"lr": -1}, {"frequency": "max"}, {"workers": True}):
        with pytest.raises(ProtocolError):
            S3prl("s3prl", **wrong)  # type: ignore[arg-type]
    for seeds in ((), (1, 1), (-1,), (2**32,), ("a",)):
        with pytest.raises(ProtocolError, match="give different numbers"):
            S3prl("s3prl", seeds=seeds)


def test_what_s3prl_writes(tmp_path: Path) -> None:
    log = tmp_path / "log.log"
    log.write_text(
        "dev at step 10: 0.4\nNew best on dev at step 10: 0.4\ntest at step 10: 0.3\n"
        "dev at step 20: 0.6\nNew best on dev at step 20: 0.6\ndev at step 30: 0.5\n"
    )
    assert superb._best(log) == (20, 0.6)
    log.write_text("dev at step 10: 0.0\n")
    with pytest.raises(EvaluationError, match="train more steps"):
        superb._best(log)
    (tmp_path / "list.txt").write_text("b c.wav yes\na.wav no\n")
    assert superb._labels(tmp_path / "list.txt") == (["a.wav", "b c.wav"], ["no", "yes"])


@pytest.mark.parametrize(
    ("task", "clip", "group"),
    [
        ("speech_commands", "up-0a7c2a8d_nohash_0.wav", "0a7c2a8d"),
        ("speech_commands", "_unknown_-bed_0a7c2a8d_nohash_0.wav", "0a7c2a8d"),
        ("speech_commands", "_silence_-running_tap_1600.wav", ""),
        ("voxceleb1", "id10001-rav_01-02-00001", "id10001-rav_01-02"),
    ],
)
def test_groups_of_clips(task: str, clip: str, group: str) -> None:
    assert superb._group(task, clip) == group


def test_scores_of_answers() -> None:
    clips = [f"{number:03}" for number in reversed(range(200))]
    truth = ["a" if number % 2 else "b" for number in range(200)]
    perfect = {
        "clips": clips,
        "splits": ["test"] * 200,
        "groups": [""] * 200,
        "truth": truth,
        "answers": truth,
    }
    fields, draws_S = summary([scored(perfect)])
    assert fields["score"] == 1
    assert fields["interval"] == (1, 1)
    assert fields["spread"] is None
    assert (draws_S == 1).all()

    wrong = ["a"] * 200  # right in half of the cases; the other seed in all
    fields, draws_S = summary([scored(perfect), scored(perfect | {"answers": wrong})])
    assert fields["by_seed"] == (1, 0.5)
    assert fields["score"] == 0.75
    assert fields["spread"] == pytest.approx(0.5 / 2**0.5)
    low, high = fields["interval"]
    assert low < 0.75 < high
    # A half of a proportion of 200 clips: its interval is half as wide as the binomial one.
    assert high - low == pytest.approx(1.96 * (0.25 / 200) ** 0.5, rel=0.15)
    assert fields["folds"] == {"test": 0.75}

    half = ["a"] * 100 + truth[100:]
    two_speakers = perfect | {"groups": ["one"] * 100 + ["other"] * 100, "answers": half}
    low, high = summary([scored(two_speakers)])[0]["interval"]
    assert (low, high) == (0.5, 1), "two groups, one of them half right"

    folds = perfect | {"splits": ["2"] * 50 + ["10"] * 150, "answers": truth[:50] + ["b"] * 150}
    fields, _ = summary([scored(folds)])
    assert list(fields["folds"].items()) == [("2", 1), ("10", 0.5)]
    assert fields["score"] == 0.75, "the mean over folds, not over clips"


def test_labels_outside_the_truth_are_wrong_answers() -> None:
    run = {"clips": ["x", "y"], "splits": ["test"] * 2, "groups": ["", ""], "truth": ["up", "down"]}
    (split,) = scored(run | {"answers": ["up", "left"]})
    assert split.score == 0.5


def test_a_failing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"python -m no_such_module x.*own\.log(.|\n)*No module named"):
        run_module("no_such_module", ["x"], tmp_path, tmp_path / "own.log")


def test_data_of_other_splits_are_other_data(tmp_path: Path) -> None:
    (tmp_path / "iden_split.txt").write_text("1 id10001/a/1.wav\n3 id10001/a/2.wav\n")
    (tmp_path / "config.yaml").write_text(f"root: {tmp_path}\nbatch_size: 32\n")
    before = superb._data_fingerprint(tmp_path)
    (tmp_path / "iden_split.txt").write_text("3 id10001/a/1.wav\n1 id10001/a/2.wav\n")
    assert superb._data_fingerprint(tmp_path) != before, "of the same names and sizes"
    before = superb._data_fingerprint(tmp_path)
    (tmp_path / "config.yaml").write_text(f"root: {tmp_path}\nbatch_size: 16\n")
    assert superb._data_fingerprint(tmp_path) != before, "of other settings"


def test_what_is_missing_is_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = TaskEntry("speakers", "voxceleb1", {"s3prl": str(tmp_path)})
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EvaluationError, match="ajepa harness enable s3prl"):
            S3prl("s3prl").depends_on(entry, "")
        patched.setattr(importlib.util, "find_spec", lambda name: name)
        with pytest.raises(EvaluationError, match="`ajepa data s3prl` makes such a folder"):
            S3prl("s3prl").depends_on(entry, "")
        (tmp_path / "config.yaml").touch()
        with pytest.raises(
            EvaluationError, match=r"config\.yaml: not the settings of speech_commands or vox"
        ):
            S3prl("s3prl").depends_on(entry, "")
        (tmp_path / "config.yaml").write_text(
            "downstream_expert: {datarc: {speech_commands_root: DATA/train}}"
        )
        with pytest.raises(ProtocolError, match="made for speech_commands, not for voxceleb1"):
            S3prl("s3prl").depends_on(entry, "")
    with pytest.raises(SystemExit):
        main(["evaluate", "s3prl", "--model", str(tiny), "--task", "voxceleb1"])
    assert "the following arguments are required: --data, --out" in capsys.readouterr().err
    given = ["--task", "voxceleb1", "--data", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["evaluate", "s3prl", "--model", str(tiny), *given, "--pool", "mean"])
    assert "unrecognized arguments: --pool mean" in capsys.readouterr().err
    assert main(["evaluate", "s3prl", "--model", str(tiny), *given, "--set", "stepps=1"]) == 2
    assert "stepps; s3prl takes seeds, steps, lr" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "s3prl", "--model", str(tiny), *given, "--set", "steps"])
    assert "--set: 'steps' is not KEY=VALUE" in capsys.readouterr().err


@pytest.mark.slow
@needs_s3prl
def test_records_of_two_models(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ajepa evaluate s3prl` tests the step that validation chose, and is not run again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_voxceleb1(tmp_path / "speakers", speakers=4, sessions=3, utterances=2, seconds=0.6)
    made = ["--source", str(tmp_path / "speakers"), "--out", str(tmp_path / "sid")]
    assert main(["data", "s3prl", "voxceleb1", *made]) == 0
    out = tmp_path / "out"
    command = ["evaluate", "s3prl", "--task", "voxceleb1", "--data", str(tmp_path / "sid")]
    command += ["--out", str(out), "--json", str(tmp_path / "records.json"), "--device", "cpu"]
    command += ["--model", f"ours={tiny}", "--model", "s3prl:mel", "--baseline", "mel", "--seeds", "1"]
    command += ["--set", "steps=6", "--set", "eval_every=3", "--set", "lr=1e-2", "--set", "workers=0"]
    with forks.forked(forks.S3PRL):
        assert main(command) == 0
    ours, mel = json.loads((tmp_path / "records.json").read_text())
    for record in (ours, mel):
        assert record["protocol"] == "s3prl"
        assert record["task"] == "voxceleb1"
        assert 0 <= record["interval"][0] <= record["score"] <= record["interval"][1] <= 1
        assert record["seeds"] == [1]
        assert {one["step"] for one in record["chosen"]} <= {3, 6}
        assert record["clips_by_split"]["test"] == 8
        assert record["details"]["config"]["steps"] == 6
        assert record["versions"]["s3prl"][0] == "0"
        assert any("SUPERB trains 200,000" in note for note in record["notes"])
    assert ours["weights"] == fingerprint(open_model(str(tiny)).module) and mel["weights"] is None
    assert ours["baseline"]["difference"] == pytest.approx(ours["score"] - mel["score"])
    assert any((out / "features").rglob("*.npy")), "features are kept"
    log = next(out.glob("s3prl/voxceleb1-ours-*/seed-1/run/log.log")).read_text()
    assert f"test at step 0: {ours['by_seed'][0]}" in log, "the score is s3prl's own"

    def stop(*arguments: object) -> float:
        raise AssertionError("run again")

    monkeypatch.setattr(superb, "run_stock", stop)
    capsys.readouterr()
    assert main(command) == 0
    assert "ours (learned sum)" in capsys.readouterr().out
    for file in (out / "cells").iterdir():  # the cells are lost, what s3prl left is there
        file.unlink()
    assert main(command) == 0
    again = json.loads((tmp_path / "records.json").read_text())
    assert [record["interval"] for record in again] == [ours["interval"], mel["interval"]]
    assert torch.tensor(again[0]["by_seed"]).equal(torch.tensor(ours["by_seed"]))


def test_time_of_a_training_that_went_on_is_that_of_all_its_processes(tmp_path: Path) -> None:
    spent, log = tmp_path / "spent.json", tmp_path / "train.log"
    with pytest.raises(KeyboardInterrupt), timed(spent, log) as before:
        assert before == 0.0
        raise KeyboardInterrupt
    log.write_text("its output")
    began = json.loads(spent.read_text())["began"]
    os.utime(log, (began + 50, began + 50))  # when it was killed
    with timed(spent, log) as before:
        assert before == pytest.approx(50, abs=0.01)
    with timed(spent, log) as before:
        assert before == 0.0, "it ended well: the next training is another one"
