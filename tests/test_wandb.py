"""Weights & Biases, by its own client, offline."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ajepa.recipes import Recipe, RecipeError, dump_recipe
from ajepa.training.loop import pretrain


def test_a_continued_run_is_one_run_there(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, wandb="ajepa-tests"))
    out = pretrain(recipe).parent
    (out / "encoder.safetensors").unlink()
    (out / "checkpoints" / "step-00000006.safetensors").unlink()
    pretrain(recipe)
    identity = (out / "wandb.id").read_text()
    logs = list((out / "wandb").rglob(f"*-{identity}/run-{identity}.wandb"))
    assert len(logs) == 2  # two processes' worth of the one run, which `wandb sync` joins
    assert all(b"target_std" in log.read_bytes() for log in logs)


def test_without_a_login(tiny_recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, wandb="ajepa-tests"))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "ajepa.cli", "pretrain", str(tmp_path / "recipe.yaml")],
        env={**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "run.wandb is 'ajepa-tests': " in done.stderr
    assert done.stderr.endswith("; `wandb login`, or set WANDB_MODE=offline\n")


def test_asked_for_and_not_installed(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, wandb="ajepa-tests"))
    with pytest.raises(RecipeError, match="pip install wandb"):
        pretrain(recipe)
    assert not Path(recipe.run.out, "wandb.id").exists()
