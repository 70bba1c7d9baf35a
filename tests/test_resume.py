"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ajepa.audio import AudioError
from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.recipes import Recipe, RecipeError, dump_recipe
from ajepa.recipes.recipe import OptimConfig
from ajepa.training import loop, state
from ajepa.training.loop import pretrain
from tests import forks


def losses(out: str | Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = checkpoint.load(one).tensors, checkpoint.load(other).tensors
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("stop", [2, 4])
def test_resumed_equals_uninterrupted(tiny_recipe: Recipe, tmp_path: Path, stop: int) -> None:
    """Bit for bit on the CPU in float32: the last checkpoint is all that a run needs."""
    whole = losses(pretrain(tiny_recipe).parent)
    resumed = replace(tiny_recipe, run=replace(tiny_recipe.run, out=str(tmp_path / "resumed"), keep=9))
    finished = pretrain(resumed)
    finished.unlink()
    out = finished.parent
    for path in (out / "checkpoints").glob("step-*"):
        if int(path.stem.removeprefix("step-")) > stop:
            path.unlink()
    assert losses(pretrain(resumed).parent) == whole
    last = Path("checkpoints") / "step-00000006.safetensors"
    assert same_weights(out / last, tiny_recipe.run.out / last)


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
    finished = pretrain(tiny_recipe)
    whole = finished.parent
    expected = losses(whole)
    finished.unlink()
    (whole / "checkpoints" / "step-00000006.safetensors").unlink()
    text = (whole / "metrics.jsonl").read_text()
    (whole / "metrics.jsonl").write_text(text[:-20])
    assert losses(pretrain(tiny_recipe).parent) == expected
    assert [start["step"] for start in json.loads((whole / "run.json").read_text())] == [0, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_runs_say_how_to_go_on(
    number: signal.Signals, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is finished, a checkpoint written, and the same call goes on where it stood."""
    other = replace(tiny_recipe, run=replace(tiny_recipe.run, out=tiny_recipe.run.out + "-whole"))
    whole = losses(pretrain(other).parent)
    original = loop.set_schedules

    def interrupt(optimizer: object, optim: OptimConfig, step: int) -> float:
        if step == 2:
            os.kill(os.getpid(), number)
        return original(optimizer, optim, step)

    monkeypatch.setattr(loop, "set_schedules", interrupt)
    with pytest.raises(KeyboardInterrupt, match="after step 3; the same command goes on"):
        pretrain(tiny_recipe)
    monkeypatch.undo()
    assert losses(pretrain(tiny_recipe).parent) == whole


def test_a_file_that_breaks_costs_no_step(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on a network disk that drops out for a while."""
    recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, cache_megabytes=0))
    recipe = replace(recipe, run=replace(recipe.run, checkpoint_every=2))
    other = replace(recipe, run=replace(recipe.run, out=recipe.run.out + "-whole"))
    whole = losses(pretrain(other).parent)
    held = {path: path.read_bytes() for path in Path(recipe.data.source).glob("*.wav")}
    original = loop.set_schedules

    def breaks(optimizer: object, optim: OptimConfig, step: int) -> float:
        if step == 2:
            for path in held:
                path.write_bytes(b"")
        return original(optimizer, optim, step)

    monkeypatch.setattr(loop, "set_schedules", breaks)
    words = r"\.wav: 0 bytes; repair the file, or go on from step 3 by the same command with --skip-broken"
    with pytest.raises(AudioError, match=words):
        pretrain(recipe)
    monkeypatch.undo()
    for path, content in held.items():
        path.write_bytes(content)
    assert losses(pretrain(recipe).parent) == whole


def train(path: Path, stop: int) -> None:
    original = loop.set_schedules

    def waits(optimizer: object, optim: OptimConfig, step: int) -> float:
        if step == stop:  # to be killed before the end, on any machine
            time.sleep(600)
        return original(optimizer, optim, step)

    loop.set_schedules = waits
    sys.exit(main(["pretrain", str(path)]))


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [(0, [3, 8]), (2, [7])])
def test_killed_at_any_step(tiny_recipe: Recipe, tmp_path: Path, workers: int, kills: list[int]) -> None:
    """SIGKILL, which no program can catch, while steps are under way: the same losses, bit for bit."""
    recipe = replace(
        tiny_recipe,
        optim=replace(tiny_recipe.optim, steps=12),
        data=replace(tiny_recipe.data, workers=workers),
        run=replace(tiny_recipe.run, checkpoint_every=3),
    )
    whole = pretrain(replace(recipe, run=replace(recipe.run, out=str(tmp_path / "whole")))).parent
    path = tmp_path / "killed.yaml"
    path.write_text(dump_recipe(recipe))
    out = Path(recipe.run.out)
    for kill in kills:
        process = forks.context().Process(target=train, args=(path, kill + 1))
        process.start()
        while process.is_alive() and (not (out / "metrics.jsonl").exists() or len(losses_so_far(out)) < kill):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert len(losses_so_far(out)) < 12, "the run was over before it could be killed"
    assert losses(pretrain(recipe).parent) == losses(whole)
    last = Path("checkpoints") / "step-00000012.safetensors"
    assert same_weights(out / last, whole / last)


def losses_so_far(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="limits files by setrlimit")
def test_a_checkpoint_that_cannot_be_written_spoils_none(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The system refuses the write half-way: one line of error, and the run goes on from what there was."""
    whole = losses(
        pretrain(replace(tiny_recipe, run=replace(tiny_recipe.run, out=str(tmp_path / "w")))).parent
    )
    early = replace(tiny_recipe, run=replace(tiny_recipe.run, keep=9))
    finished = pretrain(early)
    finished.unlink()
    out = finished.parent
    for step in (4, 6):
        (out / "checkpoints" / f"step-{step:08d}.safetensors").unlink()
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(early))
    size = (out / "checkpoints" / "step-00000002.safetensors").stat().st_size
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
        "from ajepa.cli import main\n"
        f"sys.exit(main(['pretrain', {str(path)!r}]))"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode == 2, failed.stderr
    assert "cannot be written" in failed.stderr.splitlines()[-1]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "step-00000000.safetensors",
        "step-00000002.safetensors",
    ]
    assert losses(pretrain(early).parent) == whole


def test_a_disk_that_is_too_full_is_told_before_training(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for is what the checkpoints take when there are most of them."""
    usage = type(state.shutil.disk_usage("."))
    most, write = 0, state.write_checkpoint

    def watched(*args: Any) -> Path:
        nonlocal most
        path = write(*args)  # those that make room for it are removed after this
        most = max(most, sum(one.stat().st_size for one in path.parent.iterdir()))
        return path

    def named(out: str) -> Recipe:
        run = replace(tiny_recipe.run, keep=1, checkpoint_every=1, out=f"{tiny_recipe.run.out}-{out}")
        return replace(tiny_recipe, run=run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", watched)
        pretrain(named("watched"))
    monkeypatch.setattr(state.shutil, "disk_usage", lambda path: usage(10**9, 0, most))
    pretrain(named("enough"))
    monkeypatch.setattr(state.shutil, "disk_usage", lambda path: usage(10**9, 0, most * 9 // 10))
    with pytest.raises(RecipeError, match=r"run\.keep 1"):
        pretrain(named("too little"))
    monkeypatch.setattr(state.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(RecipeError, match="0 MiB are free"):
        pretrain(tiny_recipe)
    assert not list(Path(tiny_recipe.run.out).glob("checkpoints/*"))
