"""The stock HEAR toolkit's own commands, each in its own process, cured by the bridge."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.toolkits import enabled_site, needs_heareval, python

pytestmark = [needs_heareval, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_RATE = 16000

# A working HEAR API module: the mean log-spectrum in 64 bands, a frame every 20 ms.
ENCODER = """
import torch

class LogSpectrum(torch.nn.Module):
    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 64

    def forward(self, audio_BS):
        frames_BTS = torch.nn.functional.pad(audio_BS, (160, 160)).unfold(1, 320, 320)
        power_BTF = torch.fft.rfft(frames_BTS * torch.hann_window(320)).abs().square()[..., :128]
        return power_BTF.unflatten(-1, (64, 2)).mean(-1).add(1e-4).log10()

def load_model(path=""):
    return LogSpectrum()

def get_timestamp_embeddings(audio_BS, model):
    embeddings_BTD = model(audio_BS)
    frames = embeddings_BTD.shape[1]
    return embeddings_BTD, (20.0 * torch.arange(frames)).expand(len(audio_BS), frames)

def get_scene_embeddings(audio_BS, model):
    return model(audio_BS).mean(1)
"""
PITCHES_HZ = {"low": 440.0, "middle": 1320.0, "high": 3300.0}
# Enough steps for a task this small; the file is the toolkit's own place for such settings.
PARAM_GRID = {"lr": [0.02], "max_epochs": [30], "patience": [20], "check_val_every_n_epoch": [3]}


def tone(label: str, seconds: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * PITCHES_HZ[label] * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)


def write_task(
    folder: Path, metadata: dict[str, Any], splits: dict[str, dict[str, tuple[np.ndarray, Any]]]
) -> None:
    """Write a task as hear-preprocess does: split -> file name -> (waveform, labels)."""
    folder.mkdir(parents=True)
    metadata = {
        "task_name": folder.name,
        "splits": list(splits),
        "evaluation_params": {"task_specific_param_grid": PARAM_GRID},
        **metadata,
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    vocabulary = "".join(f"{index},{label}\n" for index, label in enumerate(PITCHES_HZ))
    (folder / "labelvocabulary.csv").write_text("idx,label\n" + vocabulary)
    for split, clips in splits.items():
        audio = folder / str(SAMPLE_RATE) / split
        audio.mkdir(parents=True)
        for name, (waveform_S, _) in clips.items():
            soundfile.write(audio / name, waveform_S, SAMPLE_RATE)
        (folder / f"{split}.json").write_text(
            json.dumps({name: labels for name, (_, labels) in clips.items()})
        )


def write_scene_folds(folder: Path, noise: np.random.Generator) -> None:
    def fold(name: str) -> dict[str, tuple[np.ndarray, Any]]:
        return {
            f"{name}-{label}-{take}.wav": (tone(label, 0.5) + 0.1 * noise.standard_normal(8000), [label])
            for label in PITCHES_HZ
            for take in range(3)
        }

    metadata = {
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "new_split_kfold",
        "sample_duration": 0.5,
        "evaluation": ["top1_acc"],
    }
    write_task(folder, metadata, {name: fold(name) for name in ("fold00", "fold01", "fold02")})


def write_multilabel(folder: Path, noise: np.random.Generator) -> None:
    def split(name: str) -> dict[str, tuple[np.ndarray, Any]]:
        clips: dict[str, tuple[np.ndarray, Any]] = {}
        for subset in range(8):  # every subset of the three labels, the empty one included
            labels = [label for index, label in enumerate(PITCHES_HZ) if subset >> index & 1]
            waveform_S = sum((tone(label, 0.5) for label in labels), 0.02 * noise.standard_normal(8000))
            clips[f"{name}-{subset}.wav"] = (waveform_S, labels)
        return clips

    metadata = {
        "embedding_type": "scene",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": 0.5,
        "evaluation": ["mAP", "d_prime", "aucroc"],
    }
    write_task(folder, metadata, {name: split(name) for name in ("train", "valid", "test")})


def write_events(folder: Path, noise: np.random.Generator) -> None:
    def split(name: str) -> dict[str, tuple[np.ndarray, Any]]:
        clips: dict[str, tuple[np.ndarray, Any]] = {}
        for take in range(3):
            waveform_S, events = 0.01 * noise.standard_normal(3 * SAMPLE_RATE), []
            for index, label in enumerate(PITCHES_HZ):
                start = index + 0.1 * take
                first = int(start * SAMPLE_RATE)
                waveform_S[first : first + SAMPLE_RATE // 2] += tone(label, 0.5)
                events.append({"label": label, "start": 1000 * start, "end": 1000 * (start + 0.5)})
            clips[f"{name}-{take}.wav"] = (waveform_S, events)
        return clips

    metadata = {
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": 3.0,
        "evaluation": ["event_onset_200ms_fms", "segment_1s_er"],
    }
    write_task(folder, metadata, {name: split(name) for name in ("train", "valid", "test")})


TASKS = {"scene-folds": write_scene_folds, "multilabel": write_multilabel, "events": write_events}


@pytest.fixture(scope="module", params=["tiny_encoder", "ajepa.hear_module"])
def scores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Task -> what heareval's two commands, literal and untouched, wrote to test.predicted-scores.json."""
    folder = tmp_path_factory.mktemp("hear")
    noise = np.random.default_rng(0)
    for name, write in TASKS.items():
        write(folder / "tasks" / name, noise)
    (folder / "tiny_encoder.py").write_text(ENCODER)
    path = [enabled_site(folder), folder, REPOSITORY]
    embed = [request.param, "--tasks-dir", "tasks", "--embeddings-dir", "embeddings"]
    python("-m", "heareval.embeddings.runner", *embed, cwd=folder, path=path)
    embedded = [f"embeddings/{request.param}/{name}" for name in TASKS]
    python(
        *("-m", "heareval.predictions.runner", *embedded, "--grid", "faster", "--grid-points", "1"),
        cwd=folder,
        path=path,
    )
    return {
        task.rpartition("/")[2]: json.loads((folder / task / "test.predicted-scores.json").read_text())
        for task in embedded
    }


def test_scene_task_with_folds(scores: dict[str, Any]) -> None:
    result = scores["scene-folds"]
    assert {"fold00", "fold01", "fold02", "aggregated_scores"} <= set(result)
    assert result["aggregated_scores"]["test_top1_acc_mean"] > 0.9


def test_multilabel_task(scores: dict[str, Any]) -> None:
    result = scores["multilabel"]["test"]
    assert result["test_score"] == result["test_mAP"] > 0.9
    assert {"test_d_prime", "test_aucroc"} <= set(result)


def test_event_task(scores: dict[str, Any]) -> None:
    result = scores["events"]
    assert result["test"]["test_event_onset_200ms_fms_f_measure"] > 0.8
    assert result["test"]["test_segment_1s_er_error_rate"] < 0.3
    assert dict(result["postprocessing"]).keys() == {"median_filter_ms", "min_duration"}


def test_validator_accepts_a_sound_module_and_refuses_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "wrong_size.py").write_text(ENCODER.replace("_size = 64", "_size = 65"))
    path = [enabled_site(tmp_path), tmp_path, REPOSITORY]
    for module in ("ajepa.hear_module", "ajepa.eval.logmel"):
        done = python("-m", "hearvalidator.validate", module, cwd=tmp_path, path=path)
        assert "Looks good!" in done.stdout
    done = python("-m", "hearvalidator.validate", "wrong_size", cwd=tmp_path, path=path, check=False)
    assert done.returncode != 0
    assert "ModelError" in done.stderr


def test_run_cures_one_process_and_imports_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "tiny_encoder.py").write_text(ENCODER)
    code = (
        "import sys; sys.path.remove('')\n"  # as under the console script `ajepa`
        "from ajepa.harness import run\n"
        "run('hearvalidator.validate', ['tiny_encoder', '--device', 'cpu'])"
    )
    done = python("-c", code, cwd=tmp_path, path=[REPOSITORY])
    assert "Looks good!" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_without_the_hook_nothing_is_cured(tmp_path: Path) -> None:
    """-S reads no .pth file, so that a hook enabled in this environment does not act."""
    path = [Path(sysconfig.get_path("purelib")), REPOSITORY]
    done = python("-S", "-m", "hearvalidator.validate", "json", cwd=tmp_path, path=path, check=False)
    assert "No module named 'tensorflow'" in done.stderr
