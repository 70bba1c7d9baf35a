"""Recipes: YAML and options into typed values, and errors that name what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ajepa.contents import read_yaml
from ajepa.model.loading import load_model
from ajepa.recipes import RecipeError, dump_recipe, load_recipe, recipe_names
from ajepa.recipes.recipe import OptimConfig


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


def test_steps_on_the_command_line_take_the_place_of_epochs() -> None:
    clips = 1_000_000
    whole = load_recipe("ajepa-vit-b-as2m").optim.in_steps(clips)
    short = load_recipe("ajepa-vit-b-as2m", ["optim.steps=10"]).optim.in_steps(clips)
    assert whole.steps > 10_000 and short.steps == 10
    assert short.warmup_steps == whole.warmup_steps, "of its own"
    warm = load_recipe("ajepa-vit-b-as2m", ["--optim.warmup_steps", "3"]).optim.in_steps(clips)
    assert (warm.steps, warm.warmup_steps) == (whole.steps, 3)


def test_a_decoder_without_heads() -> None:
    with pytest.raises(RecipeError, match="heads 0"):
        load_recipe("audio-mae-small-cpu", ["objective.decoder.heads=0"])


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
        ("encoder.depth=-1", "depth -1"),
        ("objective.target_layers=99", r"objective\.target_layers is 99, encoder\.depth \d+: .*at most"),
        ("objective.predictor={width: 18, heads: 2}", "predictor width 18 must be a multiple of 4"),
        ("objective.predictor.heads=0", "heads 0: width and heads"),
        ("objective.predictor.depth=-1", "predictor width 192, depth -1"),
        ("encoder.depth=0", "depth 0"),
        ("encoder.heads=0", "heads 0"),
        ("optim.lr=-1", r"optim\.lr is -1"),
        ("optim.epochs=-3", r"optim\.epochs is -3"),
        ("encoder.table={time: 8, freq: 3}", r"encoder\.table\.freq is 3.* are 8: they must agree"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        load_recipe("ajepa-small-cpu", [override])


def test_unknown_recipes_list_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="ajepa-small-cpu"):
        load_recipe("nonsense")


def test_the_papers_recipes_say_what_the_paper_says() -> None:
    """arXiv 2311.15830, sections 3 and 4.1."""
    for size in ("s", "b", "l"):
        recipe = load_recipe(f"ajepa-vit-{size}-as2m")
        assert recipe.encoder.size == size
        assert recipe.encoder.patch == (16, 16)
        masking = recipe.objective.masking
        assert (masking.block.targets, masking.block.scale) == (4, (0.15, 0.2))
        assert masking.block.aspect == (0.75, 1.5)
        assert (masking.time_frequency.targets, masking.time_frequency.scale) == (3, (0.05, 0.075))
        assert masking.context_scale == (0.85, 1.0)
        assert (masking.kind, masking.progress, masking.c0) == ("curriculum", "sqrt", 0.01)
        predictor = recipe.objective.predictor
        assert (predictor.kind, predictor.depth, predictor.width) == ("local", 16, 512)
        assert (recipe.objective.loss, recipe.objective.target_norm) == ("l2", "layer")
        assert (recipe.optim.epochs, recipe.optim.batch_size, recipe.optim.lr) == (24, 512, 2e-4)
        assert recipe.data.gain_db == 6.0


@pytest.mark.parametrize("name", recipe_names())
def test_an_encoder_takes_a_training_crop_at_once(name: str) -> None:
    recipe = load_recipe(name)
    hop = recipe.encoder.patch[0] * recipe.front_end.step_seconds
    assert recipe.chunk_seconds / hop == pytest.approx(recipe.crop_grid.time)
    if name == "ajepa-demo":  # 1.04 s are six patches and a half
        assert load_model(name).chunk_patches == recipe.crop_grid.time == 7


def test_epochs_become_steps_of_this_data_set() -> None:
    optim = OptimConfig(epochs=24, batch_size=512, warmup_epochs=2.4).in_steps(2_000_000)
    assert (optim.steps, optim.warmup_steps) == (93_750, 9_375)
    assert OptimConfig(steps=7, warmup_steps=3).in_steps(100) == OptimConfig(steps=7, warmup_steps=3)


def test_a_key_that_is_given_twice_is_an_error(tmp_path: Path) -> None:
    """YAML's own loader keeps the last one: half an hour later the run is found to be another one."""
    path = tmp_path / "mine.yaml"
    path.write_text("optim:\n  lr: 0.001\n  steps: 10\n  lr: 0.01\n")
    with pytest.raises(RecipeError, match=r"mine.yaml: lines 2 and 4: the key lr is given twice; remove one"):
        load_recipe(str(path))
    path.write_text("a: &a {optim: {lr: 0.001}}\nb: {<<: *a, optim: {lr: 0.01}}\n")
    assert read_yaml(path)["b"] == {"optim": {"lr": 0.01}}, "a key that a merge brings may be overridden"


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("audio-mae-small-cpu", "objective.stretching.share=0.5", "share: recipes of audio-mae have no such"),
        ("ajepa-small-cpu", "objective.masking.kin=block", "kin: recipes of a-jepa have no such key"),
        (
            "ajepa-small-cpu",
            "optim.step=3",
            "optim.step: recipes have no such key (did you mean optim.steps?)",
        ),
        ("ajepa-small-cpu", "optim.steps=1.5", "optim.steps is 1.5; give a whole number"),
        ("ajepa-small-cpu", "optim.lr=", "optim.lr is empty; give a number"),
        ("ajepa-small-cpu", "objective.stretching.share=nan", "share is nan; give a number"),
        ("ajepa-small-cpu", "data.segment_seconds=x", "data.segment_seconds is x; give a number or null"),
        ("ajepa-small-cpu", "data.skip_broken=3", "data.skip_broken is 3; give true or false"),
        ("ajepa-small-cpu", "run.precision=half", "run.precision is half; choose 32-true or bf16-mixed"),
        ("ajepa-small-cpu", "encoder.patch=[1,2,3]", "encoder.patch is [1, 2, 3]; give a list of 2 values"),
        ("ajepa-small-cpu", "optim.lr=.nan", "optim.lr is nan, must be a finite number"),
        ("ajepa-small-cpu", "optim.epochs=.inf", "optim.epochs is inf, must be a finite number"),
        ("ajepa-small-cpu", "data.gain_db=.nan", "data.gain_db is nan, must be a finite number"),
        ("ajepa-small-cpu", "optim.weight_decay=[0.1,.nan]", "optim.weight_decay is nan, must be a finite"),
        ("ajepa-small-cpu", "optim.weight_decay=[-1,1]", "optim.weight_decay is [-1.0, 1.0], must be at"),
        ("ajepa-small-cpu", "optim.betas=[1.5,0.9]", "optim.betas is [1.5, 0.9], both must be in 0..1"),
        ("ajepa-small-cpu", "optim.min_lr=-1", "optim.min_lr is -1.0, must be at least 0"),
        ("ajepa-small-cpu", "encoder.mlp_ratio=-1", "encoder mlp_ratio -1.0: the MLPs' hidden width must"),
        ("ajepa-small-cpu", "encoder.mlp_ratio=.nan", "encoder mlp_ratio nan: the MLPs' hidden width must"),
        ("ajepa-small-cpu", "objective.predictor.mlp_ratio=0", "predictor mlp_ratio 0.0: the MLPs' hidden"),
        ("audio-mae-small-cpu", "objective.decoder.mlp_ratio=.inf", "decoder mlp_ratio inf: the MLPs'"),
        ("ajepa-small-cpu", "objective.masking=3", "is 3; it has keys of its own, such as objective.masking"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(recipe: str, override: str, message: str) -> None:
    """In one line, with the whole key; the beginning of a key's name does not stand for it."""
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(recipe, [override])


def test_epochs_that_are_shorter_than_the_fall_are_refused() -> None:
    """The rate would be falling from the start."""
    optim = OptimConfig(epochs=1, decay_steps=5_000, batch_size=10)
    with pytest.raises(ValueError, match=r"optim.decay_steps is 5000, must be at most optim.steps 1000"):
        optim.in_steps(10_000)
    assert OptimConfig(epochs=1.1, batch_size=10).in_steps(100).steps == 11, "and not a hair's breadth more"
