"""The bridge to the stock HEAR toolkit: its hook, and its cures one at a time."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ajepa import harness
from ajepa.harness import hear, hook, manage
from ajepa.harness.manage import HOOK_NAME, PTH_NAME
from ajepa.harness.pickles import load_tensors
from tests.pickles import MakesFolder
from tests.toolkits import enabled_site, needs_heareval, python

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
        "print(len(finders), {'heareval', 'hearvalidator'} <= finders[0].bridged_packages, "
        "[m for m in ('torch', 'ajepa', 'heareval', 'importlib.metadata') if m in sys.modules])"
    )
    done = python("-c", code, cwd=tmp_path, path=[site_dir])
    assert done.stdout.strip() == "1 True []"
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
    with pytest.raises(harness.HarnessError, match="no bridge named 'tensorflow'; choose from hear"):
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


@needs_heareval
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


@needs_heareval
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


@needs_heareval
def test_pickled_labels_run_no_code(bridged: None, tmp_path: Path) -> None:
    """heareval reads the labels of a folder of embeddings, which may be a stranger's."""

    predictions = importlib.import_module("heareval.predictions.task_predictions")
    path = tmp_path / "test.target-labels.pkl"
    for content, words in (
        (pickle.dumps([["a"], MakesFolder(tmp_path / "opened")]), "which could run code"),
        (pickle.dumps([["a"]])[:-3], "no readable pickle"),
        (b"", "no readable pickle"),
    ):
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(harness.HarnessError, match=f"test.target.*{words}"):
            predictions.pickle.load(file)
    assert not (tmp_path / "opened").exists()
    labels = [["dog", "cat"], [], ["3"]]
    with path.open("wb") as file:
        predictions.pickle.dump(labels, file)
    with path.open("rb") as file:
        assert predictions.pickle.load(file) == labels


def test_pickled_tensors_run_no_code(tmp_path: Path) -> None:
    """What heareval keeps of its predictions: tensors in a dictionary, and nothing else."""

    path = tmp_path / "fold00.predictions.pkl"
    kept = {"target": torch.eye(3), "prediction": torch.rand(3, 3)[:, 1:], "events": [("a", 1.0)]}
    path.write_bytes(pickle.dumps(kept))
    with path.open("rb") as file:
        read = load_tensors(file)
    assert read["events"] == kept["events"]
    assert all(torch.equal(read[name], kept[name]) for name in ("target", "prediction"))
    storage = pickle.dumps((torch.zeros(1), MakesFolder(tmp_path / "opened")))
    inside = pickle.dumps(RunsCode(pickle.dumps(MakesFolder(tmp_path / "opened"))))
    for content in (storage, inside, storage[:-3]):
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(harness.HarnessError, match=r"fold00\.predictions\.pkl"):
            load_tensors(file)
    assert not (tmp_path / "opened").exists()


class RunsCode:
    """A storage whose bytes are a pickle of something else."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch.storage._load_from_bytes, (self.content,))


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
