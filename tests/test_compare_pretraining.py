"""Models that a comparison pre-trains: runs done once, seeds joined, failures that stop nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from ajepa.eval.compare.pretraining import Pretraining, Run, identity, joined
from ajepa.eval.compare.run import Comparison, ComparisonError, compare
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.table import interval_text
from ajepa.eval.robustness.curve import robustness
from ajepa.recipes import Recipe, dump_recipe, load_recipe
from tests import forks


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """High and low tones of half a second: 16 to train, 8 to validate, 8 to test."""
    rng, lines = np.random.default_rng(0), ["filename,label,split"]
    for number in range(32):
        label = ("low", "high")[number % 2]
        hertz = rng.uniform(200, 400) if label == "low" else rng.uniform(2000, 4000)
        wave = 0.2 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16_000) + 0.01 * rng.standard_normal(8000)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000)
        split = "train" if number < 16 else "valid" if number < 24 else "test"
        lines.append(f"{number}.wav,{label},{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return tmp_path / "table.csv"


@pytest.fixture
def content(tiny_recipe: Recipe, table: Path, tmp_path: Path) -> dict[str, Any]:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_recipe(tiny_recipe))
    trained: dict[str, Any] = {"recipe": str(recipe), "seeds": [0, 1]}
    return {
        "models": {
            "log-mel": "logmel",
            "plain": trained,
            "context": trained | {"encoder": "context"},
            "twin": trained | {"weights": "random"},
            "broken": {"recipe": str(recipe), "set": {"data.source": str(tmp_path / "absent")}},
        },
        "pretrain": {"optim.steps": 3, "optim.warmup_steps": 1},
        "tasks": {"tones": {"task": "table", "data": str(table), "split": "split"}},
        "protocols": ["knn"],
        "baseline": "twin",
    }


@pytest.mark.slow
def test_models_are_pre_trained_once_and_their_seeds_joined(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "lr=1" / "out", tmp_path / "cache"  # with a sign that could end a name
    with forks.forked(forks.PRETRAINING):
        records, failures = compare(Comparison(**content), out, cache, jobs=2, threads=1)
    assert [(failure.model, failure.protocol) for failure in failures] == [("broken, seed 0", "knn")]
    assert "absent: no such" in failures[0].reason and failures[0].reason in capsys.readouterr().err
    by_model = {record.model: record for record in records}
    assert list(by_model) == ["log-mel", "plain", "context", "twin"]
    plain, twin = by_model["plain"], by_model["twin"]
    assert [run.run for run in by_model["context"].pretraining] == [run.run for run in plain.pretraining]
    made = plain.pretraining
    assert plain.source == content["models"]["plain"]["recipe"]
    assert [run.seed for run in made] == [0, 1]
    assert plain.score == pytest.approx(np.mean([run.score for run in made]))
    assert [run.steps for run in made] == [3, 3]
    assert all(run.seconds and run.chosen for run in made)
    assert plain.weights is None, "each run has its own"
    six = (*made, *twin.pretraining, *by_model["context"].pretraining)
    assert len({run.weights for run in six}) == 6
    assert [run.run for run in twin.pretraining] == [run.run for run in made], (
        "the random weights are those that the runs began with"
    )
    assert plain.baseline and plain.baseline.difference == pytest.approx(plain.score - twin.score)
    log_mel = by_model["log-mel"]
    assert log_mel.baseline and log_mel.baseline.name == "twin" and not log_mel.pretraining
    recipes = [yaml.safe_load((out / "runs" / run.run / "recipe.yaml").read_text()) for run in made]
    assert [(recipe["run"]["seed"], recipe["optim"]["steps"]) for recipe in recipes] == [(0, 3), (1, 3)]

    content["models"].pop("broken")  # it would be tried again each time
    files = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    again, _ = compare(Comparison(**content), out, cache)
    assert again == records
    assert files == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}

    shared, _ = compare(Comparison(**content), tmp_path / "other", cache, runs_folder=out / "runs")
    assert [(one.model, one.score) for one in shared] == [(one.model, one.score) for one in records]
    assert not (tmp_path / "other" / "runs").exists()
    assert files == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}

    content["models"] = {"longer": content["models"]["plain"] | {"set": {"optim.steps": 4}, "seeds": [0]}}
    with forks.forked(forks.PRETRAINING):
        (longer,), _ = compare(Comparison(**content | {"baseline": None}), out, cache)
    (run,) = longer.pretraining
    assert run.steps == 4 and run.run not in {one.run for one in made}, "other settings are another run"
    assert longer.weights and not run.weights, "of one run they are the record's"


def test_random_weights_alone_are_not_trained_for(content: dict[str, Any], tmp_path: Path) -> None:
    """Training that is asked for later goes on from them; where it fails, they are there all the same."""
    twin = content["models"]["twin"] | {"seeds": [0]}
    content |= {"baseline": None, "models": {"twin": twin}}
    out, cache = tmp_path / "out", tmp_path / "cache"
    (alone,), failures = compare(Comparison(**content), out, cache, threads=1)
    (made,) = alone.pretraining
    run = made.run
    assert not failures and made.steps == 0
    assert [path.name for path in (out / "runs" / run / "checkpoints").iterdir()] == [
        "step-00000000.safetensors"
    ]

    content["models"] = {"plain": content["models"]["twin"] | {"weights": "trained"}, "twin": twin}
    audio = Path(load_recipe(twin["recipe"]).data.source)
    damaged = {path: path.read_bytes() for path in audio.iterdir()}
    for path, whole in damaged.items():
        path.write_bytes(bytes(len(whole)))
    (kept,), failures = compare(Comparison(**content), out, cache, threads=1)
    assert [failure.model for failure in failures] == ["plain, seed 0"]
    assert (kept.model, kept.score) == ("twin", alone.score)

    for path, whole in damaged.items():
        path.write_bytes(whole)
    records, failures = compare(Comparison(**content), out, cache, threads=1)
    assert [record.model for record in records] == ["plain", "twin"] and not failures
    (made,) = records[0].pretraining
    assert (made.run, made.steps) == (run, 3)
    log = (out / "runs" / f"{run}.log").read_text()
    told = [log.find(words) for words in ("the run's random weights", "not readable", "the finished encoder")]
    assert -1 < told[0] < told[1] < told[2], "each start adds to the log"


def test_corrupted_clips_are_joined_like_clean_ones() -> None:
    """The mean over runs of scores, losses and area, with intervals from the same draws of runs and clips."""
    noises, results = ("noise:0dB", "noise:10dB"), []
    runs = {run.name: run for run in (Run("a", s, Path("absent"), ["absent"], "absent") for s in range(3))}
    for name, clean in zip(runs, (0.6, 0.7, 0.8), strict=True):
        random = torch.Generator().manual_seed(1)
        drawn_XS = torch.tensor([[clean], [clean - 0.4], [clean - 0.2]]).double()
        drawn_XS = drawn_XS + 0.01 * torch.randn(1, 1000, generator=random)
        curve, area = robustness(noises, [clean - 0.4, clean - 0.2], drawn_XS[1:], clean, drawn_XS[0])
        record = Record(name, "absent", "t", "knn", "knn", "accuracy", clean, corrupted=curve)
        results.append(Result(replace(record, noise_area=area), drawn_XS[0], drawn_XS[1:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ajepa.eval.compare.pretraining.spent", lambda folder: {})
        ((record, draws_S, corrupted_XS, *_),) = joined(results, runs)
    loud, soft = record.corrupted
    assert (loud.score, soft.score) == pytest.approx((0.3, 0.5))
    assert (loud.loss, soft.loss) == pytest.approx((0.4, 0.2))
    assert loud.interval is not None and loud.interval[0] < 0.26 and loud.interval[1] > 0.34
    assert loud.loss_interval == pytest.approx((0.4, 0.4)), (
        "runs and clips are drawn alike: the loss is paired"
    )
    assert record.noise_area is not None and record.noise_area.score == pytest.approx(0.4)
    assert record.noise_area.interval is not None and record.noise_area.interval[0] < 0.36
    assert torch.allclose(draws_S - corrupted_XS[1], torch.tensor(0.2).double())


def test_intervals_hold_the_spread_over_seeds() -> None:
    """Two runs far apart: drawn together with the clips they widen the interval to reach both."""

    def result(model: str, score: float) -> Result:
        record = Record(model, "absent", "t", "knn", "knn", "accuracy", score, weights=model)
        record = replace(record, folds={"test": score}, interval_method="over clips", by_seed=(score,))
        draws = score + 0.01 * torch.randn(1000, generator=torch.Generator().manual_seed(1)).double()
        return Result(record, draws)

    def undrawn(result: Result) -> Result:
        return Result(result.record, torch.empty(0))

    every = [Run(model, seed, Path("absent"), ["absent"], "absent") for model in "acd" for seed in (0, 7, 8)]
    runs = {run.name: run for run in every}
    results = [result("a, seed 0", 0.4), result("b", 0.3), result("a, seed 7", 0.6)]
    same = [result("c, seed 0", 0.5), result("c, seed 7", 0.7)]
    others = [result("d, seed 7", 0.5), result("d, seed 8", 0.7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ajepa.eval.compare.pretraining.spent", lambda folder: {})
        one, other = joined(results, runs)
        (paired,), (unpaired,) = joined(same, runs), joined(others, runs)
        (toolkit,) = joined(list(map(undrawn, same)), runs)
    assert one.record.interval is not None
    low, high = one.record.interval
    assert one.record.model == "a" and one.record.score == pytest.approx(0.5)
    assert low < 0.42 and high > 0.58
    assert float(one.draws_S.std()) == pytest.approx(0.1, abs=0.005), "0.141 over the root of 2"
    assert [run.seed for run in one.record.pretraining] == [0, 7]
    assert [run.by_seed for run in one.record.pretraining] == [(0.4,), (0.6,)], "of several seeds of a head"
    assert [run.weights for run in one.record.pretraining] == ["a, seed 0", "a, seed 7"]
    assert one.record.spread == pytest.approx(0.2 / 2**0.5)
    assert one.record.folds == {"test": pytest.approx(0.5)}
    assert one.record.interval_method == "over clips, and over 2 pre-trainings"
    assert other.record is results[1].record
    assert float((paired.draws_S - one.draws_S).std()) < 1e-6, "the same seeds and clips are drawn for both"
    assert float((unpaired.draws_S - one.draws_S).std()) > 0.05
    assert toolkit.record.interval_method == "over clips", "there is no interval"
    assert interval_text(toolkit.record) == "± 0.141 over pre-trainings"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"seeds": [0]}, "model a: recipe is None; name a recipe"),
        ({"recipe": 3}, "model a: recipe is 3; name a recipe"),
        ({"recipe": "ajepa-small-cpu", "seeds": []}, r"model a: seeds is \[\]; give different"),
        ({"recipe": "ajepa-small-cpu", "seeds": [0, 0]}, r"model a: seeds is \[0, 0\]; give different"),
        (
            {"recipe": "ajepa-small-cpu", "seed": 1},
            "model a: seed; it takes encoder, recipe, seeds, set, weights",
        ),
        ({"recipe": "ajepa-small-cpu", "set": 3}, "give settings such as"),
        ({"recipe": "ajepa-small-cpu", "set": {"optim.stps": 3}}, "model a: .*stps"),
        ({"recipe": "ajepa-tiny"}, "model a: no recipe is called 'ajepa-tiny'"),
        ({"recipe": "ajepa-small-cpu", "weights": "best"}, "choose trained or random"),
        (
            {"recipe": "ajepa-small-cpu", "encoder": "teacher"},
            "model a: encoder is 'teacher'; choose target or",
        ),
        ({"recipe": "ajepa-small-cpu", "encoder": "target", "weights": "random"}, "leave encoder out"),
    ],
)
def test_wrong_entries_are_named(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ComparisonError, match=words):
        Comparison({"a": entry}, {"tones": {"task": "table", "data": "x"}}, ["knn"])


def test_keys_of_later_versions_do_not_rename_a_run(tmp_path: Path) -> None:
    """What names a folder is the recipe as it was before the key, until the key is in use."""
    assert "stretching" not in identity(load_recipe("ajepa-small-cpu"))["objective"]
    assert "segment_seconds" not in identity(load_recipe("audio-mae-small-cpu"))["data"]
    used = {"objective.stretching.share": 0.5, "data.segment_seconds": 0.0}
    settings = [f"{key}={value}" for key, value in used.items()]
    found = identity(load_recipe("ajepa-small-cpu", settings))
    assert found["objective"]["stretching"]["share"] == 0.5
    assert found["data"]["segment_seconds"] == 0.0

    def folder(settings: dict[str, Any]) -> Path:
        given = {"recipe": "ajepa-small-cpu", "set": settings}
        return Pretraining.read("a", given, {}).runs(tmp_path)[0].folder

    assert folder({}) != folder({"objective.stretching.share": 0.5})
