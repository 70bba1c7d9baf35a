"""Shared fixtures. Real audio is looked for beside the checkout, or where AJEPA_SHARED says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.encoder import EncoderConfig
from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig
from ajepa.objectives.a_jepa import AJEPAConfig
from ajepa.predictor import PredictorConfig
from ajepa.recipe import DataConfig, OptimConfig, Recipe, RunConfig

pytest.register_assert_rewrite("tests.hear_tasks", "tests.hear_toolkit")  # failures show their values

TINY = EncoderConfig(size="ti", width=32, depth=2, heads=2)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("AJEPA_SHARED", Path(__file__).parents[1].parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real audio: {folder} does not exist (AJEPA_SHARED names another place)")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    """Twelve files of 0.4 to 3 s: tones in noise."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        time = np.arange(int(16_000 * rng.uniform(0.4, 3.0))) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000) * time)
        soundfile.write(folder / f"{number:02d}.wav", tone + 0.01 * rng.standard_normal(len(time)), 16_000)
    return folder


@pytest.fixture
def tiny_recipe(audio_folder: Path, tmp_path: Path) -> Recipe:
    """A run of a second or two."""
    return Recipe(
        name="tiny",
        front_end=LogMelConfig(),
        encoder=TINY,
        objective=AJEPAConfig(
            masking=MaskingConfig(masks_per_clip=2),
            predictor=PredictorConfig(kind="global", depth=1, width=32, heads=2),
        ),
        data=DataConfig(source=str(audio_folder), crop_seconds=1.28),
        optim=OptimConfig(steps=6, batch_size=4, lr=1e-3, warmup_steps=2),
        run=RunConfig(
            out=str(tmp_path / "run"), log_every=1, health_every=2, checkpoint_every=2, accelerator="cpu"
        ),
    )
