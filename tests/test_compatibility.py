"""What earlier versions wrote is still read: recipes, checkpoints, encoders, classifiers, result records."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ajepa import load_classifier, load_model
from ajepa.recipes import load_recipe

FIXTURES = Path(__file__).parent / "fixtures"
SYSTEMS = ("a-jepa", "audio-mae", "audio-jepa")


def two_tones() -> torch.Tensor:
    """Waveforms [2, 24000] at 16 kHz, the input of `embeddings.json`."""
    seconds_S = torch.arange(24_000) / 16_000
    steady_S = 0.3 * torch.sin(2 * torch.pi * 440 * seconds_S)
    rising_S = 0.2 * torch.sin(2 * torch.pi * (300 + 200 * seconds_S) * seconds_S)
    return torch.stack([steady_S, rising_S])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("kind", ["encoder", "checkpoint"])
def test_weights_give_the_same_embeddings(system: str, kind: str) -> None:
    expected = torch.tensor(json.loads((FIXTURES / "embeddings.json").read_text())[system])
    model = load_model(FIXTURES / f"{system}.{kind}.safetensors")
    with torch.no_grad():
        clip_BD = model(two_tones()).clip
    torch.testing.assert_close(clip_BD[:, : expected.shape[1]], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_recipes_keep_their_keys_and_values(system: str) -> None:
    import yaml

    path = FIXTURES / f"{system}.recipe.yaml"

    def holds(found: object, old: object, key: str) -> None:
        if isinstance(old, dict):
            assert isinstance(found, dict), key
            for name, value in old.items():
                assert name in found, f"{key}.{name}"
                holds(found[name], value, f"{key}.{name}")
        else:
            assert (list(found) if isinstance(found, tuple) else found) == old, key

    holds(load_recipe(str(path)).as_dict(), yaml.safe_load(path.read_text()), system)


@pytest.mark.parametrize("system", SYSTEMS)
def test_state_dict_keys(system: str) -> None:
    """A training checkpoint of 0.3.0 holds exactly the objective's tensors, by name and shape."""
    recipe = load_recipe(str(FIXTURES / f"{system}.recipe.yaml"))
    state = recipe.objective.build(recipe.encoder, 2).state_dict()
    with safe_open(str(FIXTURES / f"{system}.checkpoint.safetensors"), "pt") as file:
        saved = {
            name.removeprefix("objective."): tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 (not a dictionary)
            if name.startswith("objective.")
        }
    assert saved == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_a_classifier_gives_the_same_answers() -> None:
    classifier = load_classifier(FIXTURES / "classifier")
    assert classifier.labels == ("high", "low")
    with torch.no_grad():
        logits_BY = classifier(two_tones())
    expected = torch.tensor([[-13.516992, 13.516994], [-10.520898, 10.520905]])
    torch.testing.assert_close(logits_BY, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ajepa", "load_model"),
        ("ajepa", "load_classifier"),
        ("ajepa", "AudioEncoder"),
        ("ajepa.hear_module", "load_model"),
        ("ajepa.hear_module", "get_scene_embeddings"),
        ("ajepa.hear_module", "get_timestamp_embeddings"),
        ("ajepa.s3prl_upstream", "UpstreamExpert"),
        ("ajepa.eval.xares", "encoder_class"),
        ("ajepa.eval.logmel", "load_model"),
    ],
)
def test_names_that_others_import(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)
