"""That pre-training learns something: a small encoder beats its own random initialisation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ajepa
from ajepa.audio import load
from ajepa.data.synthetic import write_esc50, write_unlabelled
from ajepa.recipes import load_recipe


def accuracy(model: ajepa.AudioEncoder, folder: Path) -> float:
    """Linear probe of the sound classes, 5 folds."""
    rows = list(csv.DictReader((folder / "meta" / "esc50.csv").open()))
    waveform_BS = torch.stack([load(folder / "audio" / row["filename"]) for row in rows])
    with torch.no_grad():
        clips = torch.cat([model(part_BS).clip for part_BS in waveform_BS.split(30)]).numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return float(cross_val_score(probe, clips, [row["category"] for row in rows], cv=5).mean())


@pytest.mark.slow
def test_pre_training_beats_the_random_twin(tmp_path: Path) -> None:
    write_unlabelled(tmp_path / "unlabelled", clips=150, seconds=5.0, seed=2)
    write_esc50(
        tmp_path / "esc50", clips_per_class=30, seconds=3.0, seed=1
    )  # 300: a step of 0.05 is 15 clips
    recipe = load_recipe(
        "ajepa-demo",
        [
            *("encoder.width=96", "encoder.depth=2", "encoder.heads=3"),
            *("objective.target_layers=2", "objective.predictor.width=96", "objective.predictor.depth=1"),
            *("optim.steps=400", "optim.warmup_steps=50", "optim.batch_size=16", "optim.lr=3e-3"),
            *("data.crop_seconds=1.28", f"data.source={tmp_path / 'unlabelled'}"),
            *("run.accelerator=cpu", "run.precision=32-true", f"run.out={tmp_path / 'run'}"),
        ],
    )
    trained = ajepa.load_model(ajepa.pretrain(recipe))
    twin = ajepa.load_model(tmp_path / "run" / "checkpoints" / "step-00000000.safetensors")
    scores = accuracy(twin, tmp_path / "esc50"), accuracy(trained, tmp_path / "esc50")
    assert scores[1] > scores[0] + 0.05
