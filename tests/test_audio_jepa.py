"""Audio-JEPA: its masks, targets and loss, its recipes, and the choice among the objectives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

import ajepa
from ajepa.features import InputConfig
from ajepa.masking import sample_masks
from ajepa.nn.positions import TableConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.a_jepa import AJEPAConfig
from ajepa.objectives.audio_jepa import AudioJEPA, AudioJEPAConfig
from ajepa.objectives.audio_mae import AudioMAEConfig
from ajepa.recipes import Recipe, RecipeError, dump_recipe, load_recipe, recipe_from_dict
from tests.conftest import TINY

CONFIG = AudioJEPAConfig(predictor=PredictorConfig(kind="targets", depth=1, width=32, heads=2))


def objective() -> AudioJEPA:
    torch.manual_seed(0)
    return AudioJEPA(CONFIG, TINY, 100)


def test_loss_is_the_cosine_to_standardised_targets(generator: torch.Generator) -> None:
    """Against the formula; every patch is context or target, 40 to 60 % are targets."""
    system, batch, state = objective(), torch.randn(4, 128, 128), generator.get_state()
    loss = system(batch, 10, generator)
    patches, grid = system.encoder.patchify(batch)
    masks = sample_masks(CONFIG.masking, grid, 4, 10, 100, generator.set_state(state))
    full = system.target_encoder(patches, system.target_encoder.positions(grid, patches))[0]
    cosines = []
    for clip in range(4):
        hidden = masks.target_BMN[clip, 0]
        assert 0.38 <= float(hidden.float().mean()) <= 0.62
        context, targets = (~hidden).nonzero().T, hidden.nonzero().T
        positions = system.encoder.positions(grid, patches)[context]
        encoded = system.encoder(patches[clip][context], positions)[0]
        valid, real = torch.ones_like(context).bool(), torch.ones_like(targets).bool()
        predicted = system.predictor(encoded, context, valid, grid, (targets, real))[0]
        target = full[clip, targets[0]]
        target = (target - target.mean(1, True)) / (target.var(1, keepdim=True) + 1e-6).sqrt()
        cosines.append(functional.cosine_similarity(predicted, target, dim=1))
    torch.testing.assert_close(loss.value, (2 - 2 * torch.cat(cosines)).mean(), atol=1e-5, rtol=0)


def test_momentum_goes_along_a_cosine() -> None:
    system = objective()
    assert system.momentum(0) == pytest.approx(0.996)
    assert system.momentum(25) < 0.996 + 0.25 * 0.004
    assert system.momentum(100) == pytest.approx(1.0)
    assert system.after_step(50) == {"momentum": pytest.approx(0.998)}


def test_published_recipe_makes_the_released_input() -> None:
    """256 frames of 128 mels for 10 s, at 32 kHz and at 16 kHz; what the paper says of the rest."""
    for rate in (32_000, 16_000):
        recipe = load_recipe("audio-jepa-vit-b-as2m", [f"front_end.sample_rate={rate}"])
        assert recipe.front_end.frames(recipe.crop_samples) == 256
        assert recipe.front_end.hop == 10 * rate // 256
    config = recipe.objective
    assert isinstance(config, AudioJEPAConfig)
    assert (config.predictor.kind, config.predictor.depth, config.predictor.width) == ("targets", 6, 384)
    assert config.masking.random_targets == (0.4, 0.6)
    assert (recipe.optim.steps, recipe.optim.batch_size, recipe.optim.lr) == (100_000, 256, 1e-3)


def test_training_runs_and_loads(tiny_recipe: Recipe) -> None:
    inputs = replace(TINY.inputs, level="peak", fill="zero")
    recipe = replace(tiny_recipe, objective=CONFIG, encoder=replace(TINY, inputs=inputs))
    out = ajepa.pretrain(recipe).parent
    model = ajepa.load_model(out)
    assert model.encoder.config.inputs.level == "peak"
    wave = 0.1 * torch.randn(1, 20_000)
    torch.testing.assert_close(model(wave).clip, model(0.1 * wave).clip, atol=1e-4, rtol=0)
    assert not torch.equal(model(wave).clip, ajepa.load_model(out, weights="encoder")(wave).clip)


def test_each_recipe_holds_its_own_objective(tmp_path: Path) -> None:
    kinds = {"audio-mae": AudioMAEConfig, "audio-jepa": AudioJEPAConfig, "ajepa": AJEPAConfig}
    for name in ("audio-mae-small-cpu", "audio-jepa-small-cpu", "ajepa-small-cpu", "ajepa-small-cpu-random"):
        kind = next(kinds[prefix] for prefix in kinds if name.startswith(prefix))
        assert type(load_recipe(name).objective) is kind
    with pytest.raises(RecipeError, match="target_layers"):
        load_recipe("audio-mae-small-cpu", ["objective.target_layers=3"])
    with pytest.raises(RecipeError, match=r"objective\.system is 'mae'"):
        load_recipe("ajepa-small-cpu", ["objective.system=mae"])
    bare = tmp_path / "bare.yaml"
    bare.write_text("name: bare\n")
    for options in (["objective.system=audio-jepa"], ["--objective.system", "audio-jepa"]):
        assert load_recipe(str(bare), options).objective == AudioJEPAConfig()


def test_checkpoints_of_before_there_was_a_choice_are_a_jepas() -> None:
    recipe = load_recipe("ajepa-small-cpu")
    values = yaml.safe_load(dump_recipe(recipe))
    del values["objective"]["system"], values["encoder"]["inputs"], values["encoder"]["table"]
    assert recipe_from_dict(values) == recipe


def test_recipes_can_hold_what_official_weights_need() -> None:
    recipe = load_recipe("audio-mae-small-cpu")
    assert isinstance(recipe.objective, AudioMAEConfig)
    table = TableConfig(64, 8, transposed=True)
    encoder = replace(recipe.encoder, table=table, inputs=InputConfig("peak", "zero", 8))
    decoder = replace(recipe.objective.decoder, table=table)
    recipe = replace(recipe, encoder=encoder, objective=replace(recipe.objective, decoder=decoder))
    assert recipe_from_dict(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(("name", "kind"), [("block", "block"), ("inverse", "inverse"), ("random", "random")])
def test_ablations_differ_in_their_masks_alone(name: str, kind: str) -> None:
    base, ablation = load_recipe("ajepa-small-cpu"), load_recipe(f"ajepa-small-cpu-{name}")
    masking = replace(base.objective.masking, kind=kind)
    assert ablation == replace(base, name=ablation.name, objective=replace(base.objective, masking=masking))
