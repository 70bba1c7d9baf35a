"""One run on several processes: as the user starts it, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ajepa.checkpoints import native as checkpoint
from ajepa.recipes import Recipe, dump_recipe
from ajepa.recipes.parts import ProbeConfig
from ajepa.training.loop import pretrain

pytestmark = pytest.mark.slow


def command(recipe: Recipe, folder: Path, name: str, *options: str) -> list[str]:
    path = folder / f"{name}.yaml"
    path.write_text(dump_recipe(recipe))
    out = f"--run.out={folder / name}"
    return [sys.executable, "-m", "ajepa.cli", "pretrain", str(path), out, *options]


def start(line: list[str]) -> subprocess.Popen[str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MASTER_", "LOCAL_"))
    }
    return subprocess.Popen(
        line,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 180) -> tuple[int, str]:
    try:
        text, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, text


def metrics(folder: Path, name: str = "loss") -> list[float]:
    """Of the lines that have it: each step's, but for the probe."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [record[name] for record in records if name in record]
    assert found, f"{folder}: no {name}"
    return found


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    """With every term that needs sums over processes."""
    objective = replace(
        tiny_recipe.objective, target_norm="batch", variance_weight=1.0, covariance_weight=0.04
    )
    return replace(tiny_recipe, objective=objective)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one(recipe: Recipe, tmp_path: Path, strategy: str) -> None:
    """The same batch over 2 processes: losses to 1e-4; and the run goes on, on one process, from there.

    torchrun starts those of DDP, the command itself those of FSDP. The list and the count of broken files are
    those of one process; the probe is scored before FSDP shares weights out.
    """
    audio = sorted(Path(recipe.data.source).iterdir())
    for path in audio[:5]:
        path.write_bytes(b"")
    table = tmp_path / "probe.csv"
    rows = [f"{path},{number % 2}" for number, path in enumerate(audio[5:])]
    table.write_text("\n".join(["path,label", *rows]))
    run = replace(recipe.run, out=str(tmp_path / "one"), probe=ProbeConfig(table=str(table), every=100))
    recipe = replace(recipe, run=run, data=replace(recipe.data, skip_broken=True))
    pretrain(recipe)
    line = command(recipe, tmp_path, "two", f"run.strategy={strategy}")
    line = [*TORCHRUN, *line[1:]] if strategy == "ddp" else [*line, "run.devices=2"]
    code, text = finish(start(line))
    assert code == 0, text
    assert "on 2 x cpu" in text
    one, two = (set((tmp_path / name / "broken.txt").read_text().splitlines()) for name in ("one", "two"))
    assert two == one and len(one) == 5
    assert metrics(tmp_path / "two", "broken")[-1] == 5
    assert f"5 files could not be used; {tmp_path / 'two' / 'broken.txt'} lists them" in text
    scores = metrics(tmp_path / "two", "probe")
    assert len(scores) == 2 and scores[0] == metrics(tmp_path / "one", "probe")[0]

    assert len(metrics(tmp_path / "two")) == recipe.optim.steps
    assert metrics(tmp_path / "two") == pytest.approx(metrics(tmp_path / "one"), rel=1e-4)
    for name in ("target_std", "visible", "targets", "grad_norm"):
        ours, theirs = metrics(tmp_path / "two", name), metrics(tmp_path / "one", name)
        assert ours == pytest.approx(theirs, rel=2e-2), name
    saved = [
        checkpoint.load(tmp_path / name / "checkpoints" / "step-00000004.safetensors")
        for name in ("one", "two")
    ]
    assert saved[0].tensors.keys() == saved[1].tensors.keys()
    for name, value in saved[0].tensors.items():
        torch.testing.assert_close(saved[1].tensors[name], value, atol=1e-4, rtol=1e-3, msg=name)

    (tmp_path / "two" / "checkpoints" / "step-00000006.safetensors").unlink()
    (tmp_path / "two" / "encoder.safetensors").unlink()
    pretrain(replace(recipe, run=replace(recipe.run, out=str(tmp_path / "two"))))
    assert metrics(tmp_path / "two") == pytest.approx(metrics(tmp_path / "one"), rel=1e-4)


def test_micro_batches_give_the_same_step(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Without terms over the batch, the gradient of parts is that of the whole."""
    for name, parts in (("whole", 1), ("parts", 2)):
        pretrain(
            replace(
                tiny_recipe,
                optim=replace(tiny_recipe.optim, accumulate=parts),
                run=replace(tiny_recipe.run, out=str(tmp_path / name)),
            )
        )
    assert metrics(tmp_path / "parts") == pytest.approx(metrics(tmp_path / "whole"), rel=1e-5)


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(3600):  # on a machine that does much else
        if path.exists() and path.stat().st_size:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"{path} was never written")


def _children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the other process in /proc")
def test_a_killed_process_ends_the_run_with_a_message(recipe: Recipe, tmp_path: Path) -> None:
    """Not a hang: the one that is left says what happened and how to go on."""
    line = command(recipe, tmp_path, "killed", "run.devices=2", "optim.steps=100000")
    process = start(line)
    _wait_for(tmp_path / "killed" / "metrics.jsonl", process)
    workers = [
        pid for pid in _children(process.pid) if b"ajepa.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    code, text = finish(process, 60)
    assert code not in {0, None}
    assert "another process of this run has ended" in text


OWN_FAULT = """
import sys
from ajepa.cli import main
from ajepa.training import guard, loop

original = loop.set_schedules
def faulty(optimizer, optim, step):
    if step == 2:
        guard.PATIENCE_SECONDS = 2.0
        raise RuntimeError("a defect of the loop: gloo, NCCL")
    return original(optimizer, optim, step)
loop.set_schedules = faulty
sys.exit(main())
"""


def test_a_defect_is_shown_whatever_words_are_in_it(recipe: Recipe, tmp_path: Path) -> None:
    """No process was lost: the first that ends shows its own error, not that another has ended."""
    script = tmp_path / "faulty.py"
    script.write_text(OWN_FAULT)
    line = command(recipe, tmp_path, "faulty", "run.devices=2")
    at = line.index("-m")
    code, text = finish(start([*line[:at], str(script), *line[at + 2 :]]))
    assert code not in {0, None}
    assert "RuntimeError: a defect of the loop" in text


# Lightning looks every 5 s whether a process has ended, to end the others too.
SLOW_DISK = """
import sys, time
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from ajepa.checkpoints import native as checkpoint

assert _ChildProcessObserver.__init__.__defaults__ == (5,)
_ChildProcessObserver.__init__.__defaults__ = (0.5,)
save = checkpoint.save
def slow(path, saved):
    time.sleep(2.0 if saved.step else 0.0)
    return save(path, saved)
checkpoint.save = slow

from ajepa.cli import main
sys.exit(main())
"""


def test_ctrl_c_stops_all_processes_after_the_same_step(recipe: Recipe, tmp_path: Path) -> None:
    """The process that writes, to a slow disk, is not killed for the sake of those with nothing to do."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW_DISK)
    line = command(recipe, tmp_path, "stopped", "run.devices=2", "optim.steps=100000")
    at = line.index("-m")
    process = start([*line[:at], str(script), *line[at + 2 :], "run.checkpoint_every=100000"])
    _wait_for(tmp_path / "stopped" / "metrics.jsonl", process)
    os.killpg(process.pid, signal.SIGINT)
    code, text = finish(process, 60)
    assert code == 130, text
    assert "the same command goes on" in text
    step = int(text.split("stopped after step ")[1].split(";")[0])
    assert checkpoint.load(tmp_path / "stopped" / "checkpoints" / f"step-{step:08d}.safetensors").step == step
