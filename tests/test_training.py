"""Recipes, the stream of crops, the loop and its checkpoints."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import ajepa
from ajepa import checkpoint
from ajepa.audio import AudioError
from ajepa.checkpoint import Checkpoint, CheckpointError
from ajepa.data.crops import CropDataset, StepSampler
from ajepa.features import LogMel, LogMelConfig
from ajepa.recipe import Recipe, RecipeError, dump_recipe, load_recipe, recipe_names
from ajepa.training import loop
from ajepa.training.loop import TrainingError, pretrain, whole_patch_seconds


def losses(out: str | Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


# --- recipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe))
    assert load_recipe(str(copy)) == recipe


def test_overrides_in_either_form() -> None:
    recipe = load_recipe(
        "ajepa-small-cpu", ["optim.lr=0.5", "--optim.batch_size", "7", "--objective.momentum", "[0.5, 0.75]"]
    )
    assert recipe.optim.lr == 0.5
    assert recipe.optim.batch_size == 7
    assert recipe.objective.momentum == (0.5, 0.75)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.learning_rate=1", "learning_rate"),
        ("optim.lr=fast", "lr"),
        ("encoder.size=huge", "size"),
        ("encoder.heads=5", "5 heads"),
        ("encoder.patch=[16,48]", "16, 48"),
        ("front_end.mels=64", r"front_end\.mels is 64"),
        ("front_end.hop_seconds=0", "hop_seconds"),
        ("run.log_every=0", r"run\.log_every is 0"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        load_recipe("ajepa-small-cpu", [override])


def test_unknown_recipes_list_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="ajepa-small-cpu"):
        load_recipe("nonsense")


# --- the stream of crops ------------------------------------------------------------------------------


def test_each_file_once_an_epoch_and_ranks_share_a_batch() -> None:
    draws = [draw for batch in StepSampler(10, 4, 0, 10, seed=3) for draw in batch]
    for epoch in range(4):
        assert sorted(draw.file for draw in draws[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert len({draw.seed for draw in draws}) == len(draws)
    halves = [list(StepSampler(10, 4, 0, 10, seed=3, rank=rank, ranks=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == list(StepSampler(10, 4, 0, 10, seed=3))
    assert list(StepSampler(10, 4, 6, 10, seed=3)) == list(StepSampler(10, 4, 0, 10, seed=3))[6:]
    with pytest.raises(ValueError, match="divided"):
        StepSampler(10, 5, 0, 1, seed=0, rank=0, ranks=2)


def test_the_memory_cache_changes_nothing(audio_folder: Path) -> None:
    files = sorted(audio_folder.glob("*.wav"))
    soundfile.write(files[0], np.random.default_rng(1).uniform(-0.5, 0.5, (44_100, 2)), 44_100)
    draws = [draw for batch in StepSampler(len(files), 4, 0, 9, seed=0) for draw in batch]
    none = CropDataset(files, 0.5, 16_000, 6.0)
    some = CropDataset(files, 0.5, 16_000, 6.0, cache_megabytes=1)
    assert 0 < len(some._cache) < len(files), "room for a few files only"
    for draw in [*draws, *reversed(draws)]:
        torch.testing.assert_close(some[draw].waveform_S, none[draw].waveform_S, atol=1e-5, rtol=0)
        assert torch.equal(some[draw].waveform_S, some[draw].waveform_S)


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


# --- the loop -----------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(tiny_recipe: Recipe) -> None:
    out = pretrain(tiny_recipe).parent
    assert load_recipe(str(out / "recipe.yaml")) == tiny_recipe
    info = json.loads((out / "run.json").read_text())
    assert [start["step"] for start in info] == [0]
    assert info[0]["ajepa"]
    assert info[0]["data"]["files"] == 12
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "lr", "momentum", "target_std", "prediction_std", "rankme", "clips_per_s", "visible"):
        assert all(np.isfinite(record[key]) for record in records), key
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}.safetensors" for step in (0, 4, 6)]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    pretrain(tiny_recipe)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}, (
        "a finished run stays as it is"
    )


@pytest.mark.parametrize("stop", [2, 4])
def test_resumed_equals_uninterrupted(tiny_recipe: Recipe, tmp_path: Path, stop: int) -> None:
    """Bit for bit on the CPU in float32: the last checkpoint is all that a run needs."""
    whole = losses(pretrain(tiny_recipe).parent)
    resumed = replace(tiny_recipe, run=replace(tiny_recipe.run, out=str(tmp_path / "resumed"), keep=9))
    out = pretrain(resumed).parent
    for path in (out / "checkpoints").glob("step-*"):
        if int(path.stem.removeprefix("step-")) > stop:
            path.unlink()
    assert losses(pretrain(resumed).parent) == whole
    ours = checkpoint.load(out / "checkpoints" / "step-00000006.safetensors").tensors
    theirs = checkpoint.load(Path(tiny_recipe.run.out) / "checkpoints" / "step-00000006.safetensors").tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_worker_processes_change_nothing(tiny_recipe: Recipe, tmp_path: Path) -> None:
    whole = losses(pretrain(tiny_recipe).parent)
    workers = replace(
        tiny_recipe,
        data=replace(tiny_recipe.data, workers=2),
        run=replace(tiny_recipe.run, out=str(tmp_path / "workers")),
    )
    assert losses(pretrain(workers).parent) == whole


def test_another_recipe_does_not_go_on_with_a_run(tiny_recipe: Recipe) -> None:
    pretrain(tiny_recipe)
    changed = replace(tiny_recipe, optim=replace(tiny_recipe.optim, lr=0.5))
    with pytest.raises(RecipeError, match=r"optim\.lr \(0\.001, now 0\.5\)"):
        pretrain(changed)
    with pytest.raises(RecipeError, match=r"run\.seed \(0, now 7\)"):
        pretrain(replace(tiny_recipe, run=replace(tiny_recipe.run, seed=7)))
    next(Path(tiny_recipe.data.source).iterdir()).unlink()
    with pytest.raises(RecipeError, match="data \\(12 files, now 11 files, not the same\\)"):
        pretrain(tiny_recipe)


def test_a_cut_last_line_of_the_metrics_does_no_harm(tiny_recipe: Recipe) -> None:
    whole = pretrain(tiny_recipe).parent
    expected = losses(whole)
    (whole / "checkpoints" / "step-00000006.safetensors").unlink()
    text = (whole / "metrics.jsonl").read_text()
    (whole / "metrics.jsonl").write_text(text[:-20])
    assert losses(pretrain(tiny_recipe).parent) == expected
    assert [start["step"] for start in json.loads((whole / "run.json").read_text())] == [0, 4]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss can have a NaN gradient."""
    original = loop.AJEPA.forward

    def poisoned(
        self: loop.AJEPA, spectrogram: torch.Tensor, step: int, generator: torch.Generator
    ) -> object:
        loss = original(self, spectrogram, step, generator)
        if step == 3:
            loss.value.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(loop.AJEPA, "forward", poisoned)
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
    recipe = replace(tiny_recipe, optim=replace(tiny_recipe.optim, epochs=1.5, warmup_steps=1))
    assert len(losses(pretrain(recipe).parent)) == 5  # 18 clips in batches of 4


def test_a_folder_that_cannot_be_written_is_told_before_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, out=str(tmp_path / "file" / "run")))
    with pytest.raises(RecipeError, match="cannot be written"):
        pretrain(recipe)


def test_interrupted_runs_say_how_to_go_on(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C: the step is finished, a checkpoint written, and the same call goes on where it stood."""
    other = replace(tiny_recipe, run=replace(tiny_recipe.run, out=tiny_recipe.run.out + "-whole"))
    whole = losses(pretrain(other).parent)
    original = loop.set_schedules

    def interrupt(optimizer: object, recipe: Recipe, step: int) -> float:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(optimizer, recipe, step)

    monkeypatch.setattr(loop, "set_schedules", interrupt)
    with pytest.raises(KeyboardInterrupt, match="after step 3; the same command goes on"):
        pretrain(tiny_recipe)
    monkeypatch.undo()
    assert losses(pretrain(tiny_recipe).parent) == whole


@pytest.mark.parametrize(("part", "key"), [("data", "source"), ("run", "out")])
def test_what_a_run_needs_is_named(tiny_recipe: Recipe, part: str, key: str) -> None:
    recipe = replace(tiny_recipe, **{part: replace(getattr(tiny_recipe, part), **{key: ""})})
    with pytest.raises(RecipeError, match=rf"{part}\.{key} is empty"):
        pretrain(recipe)


def test_crops_fill_whole_patches(tiny_recipe: Recipe) -> None:
    for seconds, frames in [(1.28, 128), (10.24, 1024), (2.08, 208), (10.0, 1008)]:
        recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, crop_seconds=seconds))
        samples = round(whole_patch_seconds(recipe) * 16_000)
        assert LogMel(LogMelConfig()).frames(samples) == frames


def test_weight_decay_spares_biases_and_norms(tiny_recipe: Recipe) -> None:
    from ajepa.objectives.a_jepa import AJEPA

    system = AJEPA(tiny_recipe.objective, tiny_recipe.encoder, 10)
    optimizer = loop.make_optimizer(system, tiny_recipe)
    loop.set_schedules(optimizer, tiny_recipe, 3)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] > 0
    assert spared["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == sum(p.requires_grad for p in system.parameters())


# --- checkpoints --------------------------------------------------------------------------------------


def test_checkpoint_names_are_pinned(tiny_recipe: Recipe) -> None:
    """Files outlive versions: a changed name needs a new format."""
    out = pretrain(tiny_recipe).parent
    saved = checkpoint.load(out / "checkpoints" / "step-00000006.safetensors")
    groups = Counter(name.split(".")[0] for name in saved.tensors)
    assert set(groups) == {"objective", "features", "optimizer"}
    encoder = {name for name in saved.tensors if name.startswith("objective.encoder.blocks.0.")}
    assert encoder == {
        f"objective.encoder.blocks.0.{part}.{kind}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    exported = checkpoint.load(out / "encoder.safetensors")
    outside = {name for name in exported.tensors if ".blocks." not in name}
    assert outside == {
        "encoder.patch_embed.weight",
        "encoder.patch_embed.bias",
        "encoder.norm.weight",
        "encoder.norm.bias",
        "features.mean",
        "features.std",
    }
    assert exported.step == saved.step == 6
    assert exported.recipe["name"] == "tiny"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, Checkpoint({"a": torch.zeros(2)}, {}, 1, {}))

    def full_disk(tensors: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"part of a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(path, Checkpoint({"a": torch.ones(2)}, {}, 2, {}))
    assert checkpoint.load(path).step == 1
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of ajepa's"):
        checkpoint.load(foreign)
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "absent.safetensors")


def test_top_level_names_resolve() -> None:
    for name in ajepa.__all__:
        assert getattr(ajepa, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        ajepa.nothing  # noqa: B018
