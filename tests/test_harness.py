"""The bridge to the stock HEAR toolkit: its hook, its cures, and the toolkit's own commands."""

import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ajepa import harness
from ajepa.harness import hear, hook, manage
from ajepa.harness.manage import HOOK_NAME, PTH_NAME

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_RATE = 16000

needs_toolkit = pytest.mark.skipif(
    importlib.util.find_spec("heareval") is None or importlib.util.find_spec("hearvalidator") is None,
    reason="the HEAR toolkit is not installed; `ajepa harness enable hear` installs it",
)


def python(*args: str, cwd: Path, path: list[Path], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `path` as PYTHONPATH, on one thread and without a GPU."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{args}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def enabled_site(folder: Path) -> Path:
    """A folder that, on PYTHONPATH, gives an interpreter the hook as site-packages would."""
    site_dir = folder / "site"
    site_dir.mkdir()
    harness.enable("hear", install=False, site_dir=site_dir)
    (site_dir / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(site_dir)!r})\n")
    return site_dir


# -- the hook --


def test_enable_twice_and_disable_leave_nothing_behind(tmp_path: Path) -> None:
    first = harness.enable("hear", install=False, site_dir=tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(written) == {PTH_NAME, HOOK_NAME}
    assert any(str(tmp_path / PTH_NAME) in line for line in first)
    assert harness.enable("hear", install=False, site_dir=tmp_path) == first
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == written
    assert "hear: enabled" in harness.status(site_dir=tmp_path)

    assert "removed" in harness.disable("hear", site_dir=tmp_path)[0]
    assert list(tmp_path.iterdir()) == []
    assert "nothing to do" in harness.disable("hear", site_dir=tmp_path)[0]
    assert "hear: not enabled" in harness.status(site_dir=tmp_path)


def test_pth_file_is_comments_and_one_import_line(tmp_path: Path) -> None:
    harness.enable("hear", install=False, site_dir=tmp_path)
    lines = (tmp_path / PTH_NAME).read_text().splitlines()
    code = [line for line in lines if not line.startswith("#")]
    assert len(code) == 1
    assert code[0].startswith("import ")  # `site` executes such lines and takes any other for a path


def test_start_up_is_silent_and_imports_neither_torch_nor_ajepa(tmp_path: Path) -> None:
    site_dir = enabled_site(tmp_path)
    code = (
        "import sys\n"
        "finders = [f for f in sys.meta_path if hasattr(f, 'bridged_packages')]\n"
        "print(len(finders), sorted(finders[0].bridged_packages), "
        "[m for m in ('torch', 'ajepa', 'heareval', 'importlib.metadata') if m in sys.modules])"
    )
    done = python("-c", code, cwd=tmp_path, path=[site_dir])
    assert done.stdout.strip() == "1 ['heareval', 'hearvalidator'] []"
    assert done.stderr == ""


def test_forgotten_hook_is_silent_until_the_toolkit_is_imported(tmp_path: Path) -> None:
    """ajepa uninstalled, hook left behind: with -I -S there is the standard library alone."""
    harness.enable("hear", install=False, site_dir=tmp_path)
    toolkit = tmp_path / "elsewhere" / "heareval"
    toolkit.mkdir(parents=True)
    (toolkit / "__init__.py").write_text("")
    (toolkit / "score.py").write_text("perfect = 1.0\n")
    start = f"import site, sys; site.addsitedir({str(tmp_path)!r}); sys.path.append({str(toolkit.parent)!r})"
    done = python("-I", "-S", "-c", start, cwd=tmp_path, path=[])
    assert done.stdout + done.stderr == ""
    use = f"{start}; import heareval.score; print(heareval.score.perfect)"
    done = python("-I", "-S", "-c", use, cwd=tmp_path, path=[])
    assert done.stdout.strip() == "1.0"
    assert done.stderr.count("ajepa is not installed") == 1
    assert "Traceback" not in done.stderr


def test_status_tells_an_outdated_hook(tmp_path: Path) -> None:
    harness.enable("hear", install=False, site_dir=tmp_path)
    (tmp_path / HOOK_NAME).write_text("def install(*packages): pass\n")
    assert "enable NAME" in harness.status(site_dir=tmp_path)[0]
    harness.enable("hear", install=False, site_dir=tmp_path)
    assert "enable NAME" not in harness.status(site_dir=tmp_path)[0]


def test_status_shows_a_second_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    harness.enable("hear", install=False, site_dir=other)
    monkeypatch.setattr("site.getusersitepackages", lambda: str(other))
    lines = harness.status(site_dir=here)
    assert "absent" in lines[0]
    assert any(line.startswith("another hook") and str(other / PTH_NAME) in line for line in lines)


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(harness.HarnessError, match="no bridge named 'tensorflow'; there is hear"):
        harness.enable("tensorflow", site_dir=tmp_path)
    with pytest.raises(harness.HarnessError, match="python -m venv"):
        harness.enable("hear", install=False, site_dir=tmp_path / "absent")
    with pytest.raises(harness.HarnessError, match=r"no bridge for json\.tool"):
        harness.run("json.tool", [])
    (tmp_path / PTH_NAME).mkdir()  # a folder in the way: even root cannot write there
    with pytest.raises(harness.HarnessError, match="cannot write"):
        harness.enable("hear", install=False, site_dir=tmp_path)


def test_requirements_are_those_of_the_extra() -> None:
    names = {line.split(">")[0].split("<")[0] for line in harness.BRIDGES["hear"].extra_requirements()}
    assert {"click", "sed_eval", "pytorch-lightning"} <= names
    assert "torch" not in names  # pip must not touch what ajepa already runs on


def test_pip_is_not_called_when_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manage, "_is_met", lambda requirement: True)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    assert "already installed" in harness.enable("hear", site_dir=tmp_path)[0]


def test_pip_installs_what_is_missing_and_the_toolkit_without_its_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command[3:])
        return subprocess.CompletedProcess(command, returncode=len(commands) - 1)  # the second one fails

    monkeypatch.setattr(
        manage, "_is_met", lambda requirement: "click" not in requirement and "hear" not in requirement
    )
    monkeypatch.setattr(subprocess, "run", record)
    with pytest.raises(harness.HarnessError, match="pip failed"):
        harness.enable("hear", site_dir=tmp_path)
    assert commands == [["install", "click"], ["install", "--no-deps", *harness.BRIDGES["hear"].toolkit]]
    assert list(tmp_path.iterdir()) == []  # no hook without the toolkit


# -- the cures, one at a time --


@pytest.fixture
def bridged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The finder at work in this process; afterwards it is gone, and so are the toolkit's modules."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]

    packages = harness.BRIDGES["hear"].packages
    forget()
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    hook.install(*packages)
    yield
    forget()


@needs_toolkit
def test_gpu_name_that_is_a_str(bridged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """heareval asks pynvml for the name on GPU machines; since 11.5 it is a str."""
    pynvml: Any = ModuleType("pynvml")
    pynvml.NVMLError = RuntimeError
    pynvml.nvmlInit = lambda: None
    pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
    pynvml.nvmlDeviceGetMemoryInfo = lambda handle: None
    pynvml.nvmlDeviceGetName = lambda handle: "NVIDIA H100"
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    gpu_max_mem = importlib.import_module("heareval.gpu_max_mem")
    assert gpu_max_mem.device_name() == "NVIDIA H100"
    assert pynvml.nvmlDeviceGetName(0) == "NVIDIA H100"  # pynvml itself is left alone


@needs_toolkit
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_tensorflow_stand_in_does_not_outlive_the_import(bridged: None) -> None:
    validate = importlib.import_module("hearvalidator.validate")
    assert not isinstance(np.zeros(1), validate.tf.Module)
    assert validate.tf.test.is_gpu_available(cuda_only=False, min_cuda_compute_capability=None)
    assert importlib.util.find_spec("tensorflow") is None


def test_own_checkpoints_load_and_no_others(tmp_path: Path) -> None:
    def load(path: Path) -> int:
        return torch.load(path)["epoch"]

    module: Any = ModuleType("task_predictions")
    with hear.loadable_checkpoints(module):  # what follows the import sees the names that the module defined
        module.PARAM_GRID = {"hidden_norm": [torch.nn.BatchNorm1d], "lr": [1e-3]}
        module.task_predictions_train = module.task_predictions_test = load
    own, foreign = tmp_path / "own.ckpt", tmp_path / "foreign.ckpt"
    torch.save({"epoch": 3, "hyper_parameters": {"hidden_norm": torch.nn.BatchNorm1d}}, own)
    torch.save({"epoch": 3, "hyper_parameters": {"run": subprocess.run}}, foreign)
    for function in (module.task_predictions_train, module.task_predictions_test):
        assert function(own) == 3
        with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
            function(foreign)
    with pytest.raises(pickle.UnpicklingError, match="BatchNorm1d"):
        torch.load(own)  # outside heareval nothing has changed


@pytest.mark.parametrize("gpus, place", [(None, "cpu"), (0, "cpu"), ([], "cpu"), ([0], "gpu"), (2, "gpu")])
def test_gpus_are_translated(gpus: Any, place: str) -> None:
    class Trainer:
        def __init__(self, accelerator: str, devices: Any, max_epochs: int):
            self.seen = (accelerator, devices, max_epochs)

    lightning: Any = ModuleType("pytorch_lightning")
    lightning.Trainer, lightning.seed_everything = Trainer, len
    module: Any = ModuleType("task_predictions")
    module.pl = lightning
    with hear.trainer_with_gpus(module):
        pass
    trainer = module.pl.Trainer(gpus=gpus, max_epochs=7)
    assert trainer.seen == (place, gpus if place == "gpu" else 1, 7)
    assert module.pl.seed_everything is len  # everything else of Lightning is still there
    assert lightning.Trainer is Trainer  # and Lightning is as it was


# -- the toolkit's own commands --

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


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Task -> what heareval's two commands, literal and untouched, wrote to test.predicted-scores.json."""
    folder = tmp_path_factory.mktemp("hear")
    noise = np.random.default_rng(0)
    for name, write in TASKS.items():
        write(folder / "tasks" / name, noise)
    (folder / "tiny_encoder.py").write_text(ENCODER)
    path = [enabled_site(folder), folder, REPOSITORY]
    embed = ["tiny_encoder", "--tasks-dir", "tasks", "--embeddings-dir", "embeddings"]
    python("-m", "heareval.embeddings.runner", *embed, cwd=folder, path=path)
    embedded = [f"embeddings/tiny_encoder/{name}" for name in TASKS]
    python(
        *("-m", "heareval.predictions.runner", *embedded, "--grid", "faster", "--grid-points", "1"),
        cwd=folder,
        path=path,
    )
    return {
        task.rpartition("/")[2]: json.loads((folder / task / "test.predicted-scores.json").read_text())
        for task in embedded
    }


@needs_toolkit
@pytest.mark.slow
def test_scene_task_with_folds(scores: dict[str, Any]) -> None:
    result = scores["scene-folds"]
    assert {"fold00", "fold01", "fold02", "aggregated_scores"} <= set(result)
    assert result["aggregated_scores"]["test_top1_acc_mean"] > 0.9


@needs_toolkit
@pytest.mark.slow
def test_multilabel_task(scores: dict[str, Any]) -> None:
    result = scores["multilabel"]["test"]
    assert result["test_score"] == result["test_mAP"] > 0.9
    assert {"test_d_prime", "test_aucroc"} <= set(result)


@needs_toolkit
@pytest.mark.slow
def test_event_task(scores: dict[str, Any]) -> None:
    result = scores["events"]
    assert result["test"]["test_event_onset_200ms_fms_f_measure"] > 0.8
    assert result["test"]["test_segment_1s_er_error_rate"] < 0.3
    assert dict(result["postprocessing"]).keys() == {"median_filter_ms", "min_duration"}


@needs_toolkit
@pytest.mark.slow
def test_validator_accepts_a_sound_module_and_refuses_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "tiny_encoder.py").write_text(ENCODER)
    (tmp_path / "wrong_size.py").write_text(ENCODER.replace("_size = 64", "_size = 65"))
    path = [enabled_site(tmp_path), tmp_path, REPOSITORY]
    done = python("-m", "hearvalidator.validate", "tiny_encoder", cwd=tmp_path, path=path)
    assert "Looks good!" in done.stdout
    done = python("-m", "hearvalidator.validate", "wrong_size", cwd=tmp_path, path=path, check=False)
    assert done.returncode != 0
    assert "ModelError" in done.stderr


@needs_toolkit
@pytest.mark.slow
def test_run_cures_one_process_and_imports_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "tiny_encoder.py").write_text(ENCODER)
    code = (
        "import sys; sys.path.remove('')\n"  # as under the console script `ajepa`
        "from ajepa.harness import run\n"
        "run('hearvalidator.validate', ['tiny_encoder', '--device', 'cpu'])"
    )
    done = python("-c", code, cwd=tmp_path, path=[REPOSITORY])
    assert "Looks good!" in done.stdout


@needs_toolkit
@pytest.mark.slow
@pytest.mark.skipif(
    hook.active_finder() is not None or importlib.util.find_spec("tensorflow") is not None,
    reason="the hook is enabled in this environment, or TensorFlow is installed",
)
def test_without_the_hook_nothing_is_cured(tmp_path: Path) -> None:
    done = python("-m", "hearvalidator.validate", "json", cwd=tmp_path, path=[REPOSITORY], check=False)
    assert "No module named 'tensorflow'" in done.stderr
