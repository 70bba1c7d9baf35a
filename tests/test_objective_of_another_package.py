"""An objective that another installed package adds goes through everything that ours go through."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ajepa
from ajepa.cli import main
from ajepa.model.loading import ModelError
from ajepa.objectives.systems import OBJECTIVES, objective_config, objective_names
from ajepa.pictures.curves import panels
from ajepa.recipes import Recipe, RecipeError, dump_recipe, load_recipe

PACKAGE = Path(__file__).parent / "fixtures" / "toy_package"  # as pip leaves one: a module, its metadata


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PACKAGE))
    yield
    sys.modules.pop("ajepa_toy", None)


@pytest.fixture
def toy_recipe(installed: None, tiny_recipe: Recipe, tmp_path: Path) -> Path:
    """Its recipe's file, of a run of six steps."""
    path = tmp_path / "toy.yaml"
    path.write_text(dump_recipe(replace(tiny_recipe, objective=objective_config("toy")())))
    return path


def metrics(out: Path) -> dict[int, dict[str, float]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return {row.pop("step"): row for row in map(json.loads, lines)}


def test_names(installed: None) -> None:
    assert objective_names() == [*OBJECTIVES, "toy", "toy-lost"]
    found = panels()
    assert {"head_norm", "ema_gap", "loss", "rankme"} <= found.keys()
    assert found["head_norm"] == ("length of the head's weights", "It grows while the head learns.")
    assert found["pixel_error"] == ("pixel error", "")


def test_not_installed_here(tiny_recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"'toy', must be one of a-jepa, .* once that package is installed"):
        load_recipe("ajepa-demo", ["objective.system=toy"])


def test_an_entry_point_that_leads_nowhere(installed: None) -> None:
    with pytest.raises(RecipeError, match=r"ajepa_toy:NoSuchConfig cannot be imported"):
        load_recipe("ajepa-demo", ["objective.system=toy-lost"])


def test_recipe_checks_its_keys_and_its_encoder(toy_recipe: Path) -> None:
    recipe = load_recipe(str(toy_recipe), ["objective.rate=0.25"])
    assert recipe.objective.system == "toy" and recipe.objective.rate == 0.25  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="momentum"):
        load_recipe(str(toy_recipe), ["objective.momentum=[0.9, 1.0]"])
    with pytest.raises(RecipeError, match="Toy takes"):
        load_recipe(str(toy_recipe), ["encoder.patch=[8, 16]"])


def test_pretrain_resume_load_embed_and_curves(toy_recipe: Path, audio_folder: Path, tmp_path: Path) -> None:
    whole = ajepa.pretrain(load_recipe(str(toy_recipe), [f"run.out={tmp_path / 'whole'}"]))
    logged = metrics(whole.parent)
    assert logged[6]["pixel_error"] < logged[1]["pixel_error"]
    assert [step for step, row in logged.items() if "head_norm" in row] == [2, 4, 6]

    # The same run, taken up again after its second checkpoint.
    halved = tmp_path / "halved"
    recipe = load_recipe(str(toy_recipe), [f"run.out={halved}"])
    ajepa.pretrain(recipe)
    for left in ("encoder.safetensors", "checkpoints/step-00000006.safetensors"):
        (halved / left).unlink()
    assert ajepa.pretrain(recipe).read_bytes()  # it goes on from step 4
    assert [start["step"] for start in json.loads((halved / "run.json").read_text())] == [0, 4]

    wave_BS = 0.1 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clips = {name: ajepa.load_model(tmp_path / name)(wave_BS).clip for name in ("whole", "halved")}
        checkpoints = tmp_path / "whole" / "checkpoints"
        for weights in (None, "slow", "encoder"):
            last = checkpoints / "step-00000006.safetensors"
            clips[f"{weights}"] = ajepa.load_model(last, weights=weights)(wave_BS).clip
    assert torch.equal(clips["whole"], clips["halved"])
    assert torch.equal(clips["whole"], clips["None"]) and torch.equal(clips["None"], clips["slow"])
    assert not torch.equal(clips["slow"], clips["encoder"])
    with pytest.raises(ModelError, match="Toy has no encoder 'target_encoder'; choose slow or encoder"):
        ajepa.load_model(last, weights="target_encoder")

    out = tmp_path / "embeddings.npz"
    assert main(["embed", str(audio_folder), "--model", str(whole), "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["clip"].shape == (12, clips["whole"].shape[1]) and np.isfinite(arrays["clip"]).all()
    picture = tmp_path / "curves.png"
    assert main(["curves", str(tmp_path / "whole"), str(halved), "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_curves_name_its_metrics(installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "head_norm": 2.0}\n')
    assert main(["curves", str(tmp_path), "--out", str(tmp_path / "curves.png")]) == 0
    assert "head_norm" in capsys.readouterr().out


def test_masks_of_an_objective_that_hides_nothing(
    toy_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["masks", str(toy_recipe)]) == 2
    assert "Toy hides no patches" in capsys.readouterr().err
