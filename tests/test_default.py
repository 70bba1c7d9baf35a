"""The encoder that comes with the package: small, described by its card, and better than chance made it."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import ajepa
import ajepa.hear_module
from ajepa.checkpoints import native as checkpoint
from ajepa.eval.models.open import open_model
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks import open_task
from ajepa.model.fingerprint import fingerprint
from ajepa.model.loading import bundled
from ajepa.recipes import load_recipe, recipe_from_dict
from tests.probing import probed

RECIPE = "ajepa-denoise-small-cpu"
RECORDS = Path(__file__).parents[1] / "docs" / "results" / "default_2026-11-30.json"


def test_no_source_is_the_encoder_that_comes_with_the_package() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ajepa.load_model()
        hear = ajepa.hear_module.load_model()
        named = ajepa.load_model("default")
    assert bundled().stat().st_size < 12e6
    assert fingerprint(named) == fingerprint(model)
    assert model.source is not None and model.source.recipe == RECIPE
    assert model.embedding_layers == (3, 6) and model.pooling == "mean+std"
    assert hear.scene_embedding_size == model.clip_size == 2 * hear.timestamp_embedding_size == 1536
    with torch.no_grad():
        assert model(0.1 * torch.randn(1, 16_000)).clip.shape == (1, model.clip_size)


def test_its_recipe_is_the_package_s() -> None:
    """But for places, how often it was saved, and the seed: the command of the card makes it again."""
    saved = recipe_from_dict(checkpoint.load(bundled(), prefixes=()).recipe)
    packaged = load_recipe(RECIPE)
    for part in ("front_end", "encoder", "objective", "optim"):
        assert asdict(getattr(saved, part)) == asdict(getattr(packaged, part)), part
    assert saved.data.crop_seconds == packaged.data.crop_seconds
    assert saved.run.precision == packaged.run.precision


def test_its_card_is_its_own() -> None:
    card = (bundled().parent / "README.md").read_text()
    model = ajepa.load_model()
    assert fingerprint(model) in card
    assert f"{model.clip_size:,} for a whole clip" in card
    ours = [
        record
        for record in read_records(RECORDS)
        if record.weights == fingerprint(model) and record.protocol in ("linear", "linear, mean+std")
    ]
    assert len(ours) == 12, "six sets by both readings"
    for record in ours:
        assert record.interval is not None
        low, high = record.interval
        assert f"{record.score:.3f} ({low:.3f} to {high:.3f})" in card, record.task


def test_it_knows_more_words_than_its_twin(shared: Path, tmp_path: Path) -> None:
    task = open_task("speech_commands_v2", shared / "data" / "speech_commands_v0.02")
    models = [open_model("default"), open_model(f"twin={RECIPE}")]
    default, twin = probed(models, task, Probing(time="mean+std"), tmp_path, baseline="twin")
    assert default.baseline is not None
    assert default.baseline.interval[0] > 0, f"{default.score:.3f} and {twin.score:.3f}"


@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
def test_pooling_can_be_chosen(pooling: str) -> None:
    model = ajepa.load_model(pooling=pooling)  # type: ignore[arg-type]
    assert model.clip_size == model.embedding_size * (2 if pooling == "mean+std" else 1)
