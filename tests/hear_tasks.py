"""What the tests of HEAR task folders share: making small sources, and checking what was written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import soundfile


def write_rows(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def tones(folder: Path, names: list[str], seconds: float = 0.2, rate: int = 16000) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        wave = 0.5 * np.sin(2 * np.pi * 200 * (index + 1) * np.arange(int(seconds * rate)) / rate)
        soundfile.write(folder / name, wave, rate)


def shorten_training(folder: Path, epochs: int, every: int = 1) -> None:
    """Let heareval train its networks for a few epochs, and validate only `every` so many."""
    file = folder / "task_metadata.json"
    metadata = json.loads(file.read_text())
    grid = {"lr": [0.01], "max_epochs": [epochs], "patience": [epochs], "check_val_every_n_epoch": [every]}
    metadata["evaluation_params"] = {"task_specific_param_grid": grid}
    file.write_text(json.dumps(metadata))


def check_task(folder: Path, sample_rate: int = 16000) -> dict:
    """What heareval asserts of a task folder; returns the metadata with the labels of each split."""
    metadata = json.loads((folder / "task_metadata.json").read_text())
    with (folder / "labelvocabulary.csv").open() as file:
        vocabulary = list(csv.DictReader(file))
    labels = [row["label"] for row in vocabulary]
    assert [row["idx"] for row in vocabulary] == [str(i) for i in range(len(labels))]
    assert labels == sorted(set(labels))
    assert folder.name == "-".join(metadata[key] for key in ("task_name", "version", "mode"))
    assert metadata["embedding_type"] == "scene"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["task_metadata.json", "labelvocabulary.csv", str(sample_rate)]
        + [f"{split}.json" for split in metadata["splits"]]
    )
    metadata["labels"] = {}
    for split in metadata["splits"]:
        content = json.loads((folder / f"{split}.json").read_text())
        audio = folder / str(sample_rate) / split
        assert set(content) == {path.name for path in audio.iterdir()}
        assert len(content) == metadata["clips"][split] > 0
        for name, clip_labels in content.items():
            assert set(clip_labels) <= set(labels)
            assert metadata["prediction_type"] == "multilabel" or len(clip_labels) == 1
            info = soundfile.info(audio / name)
            assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_16", 1)
            assert info.samplerate == sample_rate
            if metadata["sample_duration"] is not None:
                assert info.frames == round(metadata["sample_duration"] * sample_rate)
        metadata["labels"][split] = content
    return metadata


def pcm(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]
