"""Recipes, the stream of crops, the loop and its checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import ajepa
from ajepa.audio import AudioError
from ajepa.checkpoints import native as checkpoint
from ajepa.objectives.a_jepa import AJEPA
from ajepa.recipes import Recipe, RecipeError, load_recipe
from ajepa.recipes.parts import ProbeConfig
from ajepa.training.loop import TrainingError, due_after, pretrain
from ajepa.training.optimiser import make_optimizer, set_schedules


def losses(out: str | Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_files_stop_or_are_listed(tiny_recipe: Recipe, audio_folder: Path, workers: int) -> None:
    tiny_recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, workers=workers))
    (audio_folder / "03.wav").write_bytes(b"")
    soundfile.write(audio_folder / "04.wav", np.zeros(16_000), 16_000)
    with pytest.raises(AudioError, match=rf"^{audio_folder}/0[34]\.wav"):
        pretrain(tiny_recipe)
    skipping = replace(tiny_recipe, data=replace(tiny_recipe.data, skip_broken=True))
    out = pretrain(skipping).parent
    listed = (out / "broken.txt").read_text()
    assert "03.wav" in listed
    assert "04.wav" in listed
    assert "silent" in listed
    assert len(losses(out)) == 6


def test_a_folder_of_broken_files_ends_with_an_error(tmp_path: Path, tiny_recipe: Recipe) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.wav").write_bytes(b"nothing")
    recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, source=str(folder), skip_broken=True))
    with pytest.raises(AudioError, match="in a row"):
        pretrain(recipe)


def test_a_run_leaves_what_it_promises(tiny_recipe: Recipe) -> None:
    out = pretrain(tiny_recipe).parent
    as_run = replace(tiny_recipe, data=replace(tiny_recipe.data, segment_seconds=1.28))
    assert load_recipe(str(out / "recipe.yaml")) == as_run
    info = json.loads((out / "run.json").read_text())
    assert [start["step"] for start in info] == [0]
    assert info[0]["ajepa"]
    assert info[0]["data"]["files"] == 12
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    for key in (
        "loss",
        "lr",
        "grad_norm",
        "momentum",
        "target_std",
        "prediction_std",
        "clips_per_s",
        "visible",
    ):
        assert all(np.isfinite(record[key]) for record in records), key
    assert all(0 <= record["data_wait"] < 1 for record in records)
    for key in ("rankme", "attention_entropy", "ema_gap"):
        assert [record["step"] for record in records if np.isfinite(record.get(key, np.nan))] == [2, 4, 6], (
            key
        )
    assert next((out / "tensorboard").iterdir()).stat().st_size > 1000
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}.safetensors" for step in (0, 4, 6)]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    pretrain(tiny_recipe)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}, (
        "a finished run stays as it is"
    )


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss can have a NaN gradient."""
    original = AJEPA.forward

    def poisoned(self: AJEPA, spectrogram: torch.Tensor, step: int, *others: object) -> object:
        loss = original(self, spectrogram, step, *others)
        if step == 3:
            loss.value.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(AJEPA, "forward", poisoned)
    with pytest.raises(TrainingError, match="step 3: the gradient's norm is nan"):
        pretrain(tiny_recipe)
    saved = checkpoint.load(max(Path(tiny_recipe.run.out, "checkpoints").iterdir()))
    assert all(tensor.isfinite().all() for tensor in saved.tensors.values())


def test_a_loss_that_is_not_finite_stops_the_run(tiny_recipe: Recipe) -> None:
    """An absurd learning rate overflows: the error names the step, the files and what to try."""
    wild = replace(
        tiny_recipe, optim=replace(tiny_recipe.optim, lr=1e30, warmup_steps=0, clip_norm=0.0, steps=40)
    )
    with pytest.raises(TrainingError, match=r"(?s)step \d+: the loss is (nan|inf).*optim\.lr.*\.wav"):
        pretrain(wild)


def test_epochs_become_steps(tiny_recipe: Recipe) -> None:
    recipe = replace(
        tiny_recipe,
        data=replace(tiny_recipe.data, segment_seconds=0.0),
        optim=replace(tiny_recipe.optim, epochs=1.5, warmup_steps=1),
    )
    assert len(losses(pretrain(recipe).parent)) == 5  # 18 clips in batches of 4


def test_a_folder_that_cannot_be_written_is_told_before_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, out=str(tmp_path / "file" / "run")))
    with pytest.raises(RecipeError, match="cannot be written"):
        pretrain(recipe)


@pytest.mark.parametrize(("part", "key"), [("data", "source"), ("run", "out")])
def test_what_a_run_needs_is_named(tiny_recipe: Recipe, part: str, key: str) -> None:
    recipe = replace(tiny_recipe, **{part: replace(getattr(tiny_recipe, part), **{key: ""})})
    with pytest.raises(RecipeError, match=rf"{part}\.{key} is empty"):
        pretrain(recipe)


def test_crops_fill_whole_patches(tiny_recipe: Recipe) -> None:
    for seconds, frames in [(1.28, 128), (10.24, 1024), (2.08, 208), (10.0, 1008)]:
        recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, crop_seconds=seconds))
        assert recipe.front_end.frames(recipe.crop_samples) == frames
        assert recipe.crop_grid.time * recipe.encoder.patch[0] == frames


def test_weight_decay_spares_biases_and_norms(tiny_recipe: Recipe) -> None:
    system = AJEPA(tiny_recipe.objective, tiny_recipe.encoder, 10)
    optimizer = make_optimizer(system, tiny_recipe.optim)
    set_schedules(optimizer, tiny_recipe.optim, 3)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] > 0
    assert spared["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == sum(p.requires_grad for p in system.parameters())


@pytest.mark.parametrize(
    ("done", "due"),  # line, gauges, probe, checkpoint
    [
        (1, (False, False, False, False)),
        (5, (True, False, False, False)),
        (6, (True, True, False, False)),
        (7, (True, False, True, True)),
        (12, (True, True, False, False)),
        (13, (True, True, True, True)),
    ],
)
def test_what_is_due_after_a_step(tiny_recipe: Recipe, done: int, due: tuple[bool, ...]) -> None:
    """Gauges and the probe bring a line of metrics; after the last step all of it is due."""
    probe = ProbeConfig(table="clips.csv", every=7)
    run = replace(tiny_recipe.run, log_every=5, health_every=6, checkpoint_every=7, probe=probe)
    recipe = replace(tiny_recipe, run=run, optim=replace(tiny_recipe.optim, steps=13))
    assert due_after(done, recipe) == due
    without = replace(recipe, run=replace(run, probe=ProbeConfig(every=7)))
    assert not due_after(done, without).probe


def test_top_level_names_are_those_of_their_modules() -> None:
    """Each name leads to what bears it; what is not there is an AttributeError."""
    for name in ajepa.__all__:
        assert getattr(ajepa, name).__name__ == name
        assert getattr(ajepa, name).__module__.startswith("ajepa.")
    assert ajepa.pretrain is pretrain
    with pytest.raises(AttributeError, match="nothing"):
        ajepa.nothing  # noqa: B018
