"""Weights & Biases, by its own client, offline."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ajepa.recipes import Recipe, RecipeError
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


def test_asked_for_and_not_installed(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, wandb="ajepa-tests"))
    with pytest.raises(RecipeError, match="pip install wandb"):
        pretrain(recipe)
    assert not Path(recipe.run.out, "wandb.id").exists()
