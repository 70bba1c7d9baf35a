"""A run's folder: whose run it holds, and that one start at a time works in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ajepa.audio import AudioError
from ajepa.checkpoints import native as checkpoint
from ajepa.recipes import Recipe, RecipeError
from ajepa.training import folder
from ajepa.training.loop import pretrain


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def with_optim(recipe: Recipe, **values: Any) -> Recipe:
    return replace(recipe, optim=replace(recipe.optim, **values))


def test_a_run_that_learnt_nothing_gives_way_to_a_corrected_recipe(
    tiny_recipe: Recipe, audio_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(tiny_recipe.run.out)
    (audio_folder / "03.wav").write_bytes(b"")
    with pytest.raises(AudioError):
        pretrain(replace(tiny_recipe, run=replace(tiny_recipe.run, checkpoint_every=6)))
    first = out / "checkpoints" / "step-00000000.safetensors"
    assert list((out / "checkpoints").iterdir()) == [first]
    (audio_folder / "03.wav").unlink()
    (out / "best.safetensors").write_bytes(first.read_bytes())
    pretrain(with_optim(tiny_recipe, batch_size=6))
    told = capsys.readouterr().err
    assert "optim.batch_size (4, now 6), data (12 files, now 11 files, not the same); starting over" in told
    assert checkpoint.load(first).recipe["optim"]["batch_size"] == 6
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    assert not (out / "best.safetensors").exists(), "of the run before"


def test_a_run_that_learnt_nothing_gives_way_to_a_shorter_one(
    tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(tiny_recipe, untrained=True).parents[1]
    pretrain(with_optim(tiny_recipe, steps=4))
    assert "second checkpoint and was of another length; starting over" in capsys.readouterr().err
    assert steps(out) == [1, 2, 3, 4]


def test_a_finished_run_reduced_to_its_twin_stays(tiny_recipe: Recipe) -> None:
    out = pretrain(tiny_recipe).parent
    for step in (4, 6):
        (out / "checkpoints" / f"step-{step:08d}.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"optim\.lr \(0\.001, now 0\.5\)"):
        pretrain(with_optim(tiny_recipe, lr=0.5))


def test_a_finished_run_without_checkpoints_stays(tiny_recipe: Recipe) -> None:
    """Its encoder says whose it is: the same command returns it, another is refused, nothing is lost."""
    finished = pretrain(tiny_recipe)
    shutil.rmtree(finished.parent / "checkpoints")
    whole, weights = steps(finished.parent), finished.read_bytes()
    with pytest.raises(RecipeError, match=r"optim\.lr \(0\.001, now 0\.5\)"):
        pretrain(with_optim(tiny_recipe, lr=0.5))
    assert pretrain(tiny_recipe) == finished
    with pytest.raises(RecipeError, match=r"step-00000000\.safetensors: no such file"):
        pretrain(tiny_recipe, untrained=True)
    assert steps(finished.parent) == whole and finished.read_bytes() == weights


def test_one_start_at_a_time(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told whose turn it is, and touches nothing; the first one's end frees the folder."""
    monkeypatch.setattr(folder, "PATIENCE_SECONDS", 0.0)
    out = Path(tiny_recipe.run.out)
    half_written = out / "checkpoints" / ".ajepa.step-00000002.safetensors.host.7.partial"
    half_written.parent.mkdir(parents=True)
    half_written.touch()
    with FileLock(out / ".lock"), pytest.raises(RecipeError, match=rf"{out}: another process trains"):
        pretrain(tiny_recipe)
    assert half_written.exists() and not (out / "recipe.yaml").exists()
    with pytest.raises(RecipeError, match="cannot be shared"):
        pretrain(with_optim(tiny_recipe, accumulate=3))
    pretrain(tiny_recipe)
    assert not half_written.exists(), "of a process that was killed"


def test_micro_batches_may_change_where_they_change_no_step(tiny_recipe: Recipe) -> None:
    """With a term over the clips of a micro-batch they are part of the loss."""
    coupled = replace(tiny_recipe, objective=replace(tiny_recipe.objective, covariance_weight=0.04))
    coupled = replace(coupled, run=replace(coupled.run, out=f"{coupled.run.out}-coupled"))
    for recipe in (tiny_recipe, coupled):
        finished = pretrain(recipe)
        finished.unlink()
        (finished.parent / "checkpoints" / "step-00000006.safetensors").unlink()
    pretrain(with_optim(tiny_recipe, accumulate=2))
    with pytest.raises(RecipeError, match=r"optim\.accumulate \(1, now 2\)"):
        pretrain(with_optim(coupled, accumulate=2))


def test_a_run_that_holds_its_rate_is_extended_exactly(
    tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Extended from 6 to 9 steps it is, to the byte, the run that had 9 from the start."""
    held = with_optim(tiny_recipe, steps=6, warmup_steps=1, decay_steps=3, schedule_steps=2)
    held = replace(held, run=replace(held.run, checkpoint_every=2, keep=1))
    out = pretrain(held).parent
    assert (out / "checkpoints" / "step-00000003.safetensors").is_file(), "where the rate begins to fall"
    six = (out / "encoder.safetensors").read_bytes()
    (out / "best.safetensors").write_bytes(six)
    longer = with_optim(held, steps=9)
    extended = pretrain(longer)
    assert f"{out}: 6 steps are done; the run of 9 continues from step 3" in capsys.readouterr().err
    assert (out / "encoder-00000006.safetensors").read_bytes() == six
    assert (out / "encoder-context-00000006.safetensors").is_file()
    assert (out / "best-00000006.safetensors").is_file() and not (out / "best.safetensors").exists()
    assert steps(out) == list(range(1, 10))
    whole = pretrain(replace(longer, run=replace(longer.run, out=f"{out}-whole")))
    one, other = (checkpoint.load(path) for path in (extended, whole))
    assert all(one.tensors[name].equal(other.tensors[name]) for name in other.tensors)
    assert pretrain(longer) == extended, "finished: nothing is done again"


def test_a_run_along_a_cosine_is_extended_from_its_end(tiny_recipe: Recipe) -> None:
    out = pretrain(tiny_recipe).parent
    rates = [json.loads(line)["lr"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    pretrain(with_optim(tiny_recipe, steps=9))
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["lr"] for record in records[:6]] == rates
    assert records[6]["lr"] == with_optim(tiny_recipe, steps=9).optim.rate(6) > rates[-1]
    assert (out / "encoder-00000006.safetensors").is_file()
    with pytest.raises(RecipeError, match=r"optim\.steps \(9, now 8\)"):
        pretrain(with_optim(tiny_recipe, steps=8))


def test_a_run_is_not_extended_without_a_checkpoint(tiny_recipe: Recipe) -> None:
    out = pretrain(tiny_recipe).parent
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(RecipeError, match="no checkpoint up to step 6 is left"):
        pretrain(with_optim(tiny_recipe, steps=9))
