"""A trained encoder as the teacher that stays as it is (`objective.teacher`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ajepa import load_model
from ajepa.recipes import Recipe, RecipeError, dump_recipe, load_recipe
from ajepa.training.loop import pretrain


@pytest.fixture
def recipe_file(tiny_recipe: Recipe, tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe))
    return str(path)


def taught(recipe_file: str, tmp_path: Path, name: str, *settings: str) -> Recipe:
    teacher = [f"objective.teacher={tmp_path / 'run'}", "objective.evaluated=context"]
    return load_recipe(recipe_file, [*teacher, f"run.out={tmp_path / name}", *settings])


def test_the_teacher_stays_and_the_context_encoder_learns(recipe_file: str, tmp_path: Path) -> None:
    pretrain(load_recipe(recipe_file))
    teacher = load_model(tmp_path / "run").encoder.state_dict()
    encoder = pretrain(taught(recipe_file, tmp_path, "student"))
    start = tmp_path / "student" / "checkpoints" / "step-00000000.safetensors"
    kept = {
        "at the start": load_model(start, weights="target"),
        "at the end": load_model(encoder.parent, weights="target"),
    }
    for when, model in kept.items():
        found = model.encoder.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in teacher.items()), when
    first = load_model(start, weights="context").encoder.state_dict()
    last = load_model(encoder).encoder.state_dict()
    weight = "blocks.0.attn.qkv.weight"
    assert not torch.equal(first[weight], teacher[weight]), "new weights"
    assert not torch.equal(last[weight], first[weight]), "which learn"


def test_a_run_goes_on_without_its_teacher(recipe_file: str, tmp_path: Path) -> None:
    """The checkpoint holds the teacher; a stopped run ends as one that was not stopped."""
    pretrain(load_recipe(recipe_file))
    whole = load_model(pretrain(taught(recipe_file, tmp_path, "whole"))).encoder.state_dict()
    recipe = taught(recipe_file, tmp_path, "parts")
    pretrain(recipe)
    (tmp_path / "parts" / "encoder.safetensors").unlink()
    checkpoints = sorted((tmp_path / "parts" / "checkpoints").glob("step-*.safetensors"))
    assert len(checkpoints) > 2
    checkpoints[-1].unlink()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    again = load_model(pretrain(recipe)).encoder.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_a_teacher_of_other_sizes_is_named(recipe_file: str, tmp_path: Path) -> None:
    recipe = taught(recipe_file, tmp_path, "student", "objective.teacher=default")
    with pytest.raises(RecipeError, match=r"^objective\.teacher default: .*give the encoder the same sizes"):
        pretrain(recipe)
    with pytest.raises(RecipeError, match=r"^objective\.teacher .*nowhere"):
        pretrain(taught(recipe_file, tmp_path, "student", f"objective.teacher={tmp_path / 'nowhere'}"))


def test_the_teacher_itself_is_not_what_a_run_makes(recipe_file: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"objective\.teacher .*add objective\.evaluated=context"):
        taught(recipe_file, tmp_path, "student", "objective.evaluated=target")
