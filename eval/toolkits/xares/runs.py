"""Score encoders with stock X-ARES: its embeddings, its heads, one JSON record for each model and task.

X-ARES runs in a folder of its own for each (model, task, settings), a cell, with links to the tars: it keeps
results by the encoder's class alone, and takes a head that a killed run left for a trained one. A finished
cell is read; its embeddings, which can be large, are removed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.provenance import provenance
from ajepa.eval.results.result import Result
from ajepa.eval.toolkits.commands import alone_in, check_names, run_module, run_stock, versions
from ajepa.eval.toolkits.stock import Answers, Checkpoint, score_cells
from ajepa.files import write, write_json

from .encoder import FREQUENCIES, write_encoder
from .sets import READY

SEED = 42  # X-ARES's
AUDIO = {".flac", ".mp3", ".sox", ".wav", ".m4a", ".ogg", ".wma"}  # that X-ARES takes from tars
CHOSEN_ON_TEST = "X-ARES chooses the epoch of each fold on the fold that it scores"
PADDED = "X-ARES pads the clips of a batch with silence, which counts in their mean over time"


@dataclass(frozen=True)
class XaresSettings:
    """Settings of X-ARES.

    Args:
        frequency: as of `ajepa.eval.xares.XaresEncoder`.
        epochs, lr: of the head; 0 takes the task's own (10 and 1e-3 of most).
    """

    frequency: str = "concatenate"
    epochs: int = 0
    lr: float = 0.0

    def __post_init__(self) -> None:
        if self.frequency not in FREQUENCIES:
            raise EvaluationError(f"frequency is {self.frequency!r}; choose {' or '.join(FREQUENCIES)}")
        if min(self.epochs, self.lr) < 0:
            raise EvaluationError(f"epochs {self.epochs} and lr {self.lr} must be 0 (the task's) or above")


def task_files() -> dict[str, str]:
    """X-ARES's tasks that are scored by the accuracy of clips: name -> file, as its command takes it.

    They are read, not imported: that would load all of X-ARES.

    Raises:
        EvaluationError: X-ARES is not installed.
    """
    try:
        spec = importlib.util.find_spec("xares.run")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise EvaluationError("X-ARES is not installed; `ajepa harness enable xares` installs it")
    found = {}
    for path in sorted(Path(spec.origin).parent.with_name("tasks").glob("*_task.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "TaskConfig"
            ):
                given = {part.arg: getattr(part.value, "value", None) for part in node.keywords}
                if given.get("task_type", "clip") == "clip" and given.get("metric", "accuracy") == "accuracy":
                    found[str(given["name"])] = f"tasks/{path.name}"
    return found


def evaluate_xares(
    models: Sequence[Checkpoint],
    task: str,
    data: str | Path,
    out: str | Path,
    settings: XaresSettings,
    *,
    seeds: Sequence[int] = (SEED,),
    baseline: str | None = None,
    device: str | None = None,
    report: Callable[[str], Any] = lambda line: None,
) -> list[dict[str, Any]]:
    """One record for each model.

    Args:
        models: encoders, with names that differ.
        task: X-ARES's name, such as esc50, speechcommandsv1, voxceleb1.
        data: the folder that X-ARES calls `env`.
        out: folder of the cells.
        seeds: each trains heads of its own.
        baseline: name of the model that the others are compared with, clip by clip.
        device: where X-ARES computes; None takes a GPU where there is one.
        report: gets a line before each step.

    Raises:
        EvaluationError: X-ARES or the tars are not there, names that are alike, or X-ARES failed.
    """
    files = task_files()
    if task not in files:
        raise EvaluationError(
            f"no task {task!r}; those of X-ARES that are scored by the accuracy of clips are "
            f"{', '.join(files)}. For others run its own command with the file that "
            "`python -m ajepa.eval.xares` writes"
        )
    tars = Path(data).resolve() / task
    if not (tars / READY).is_file():
        raise EvaluationError(
            f"{tars}: no {READY} in it; `ajepa data xares` makes the folder of esc50, speechcommandsv1 and "
            "voxceleb1, and X-ARES's own command downloads any (--to-stage 0)"
        )
    check_names([model.name for model in models], baseline)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tars_hash, clips = _fingerprint(tars), {path.name: _clips(path) for path in sorted(tars.glob("*.tar"))}
    out = Path(out).resolve()
    cells = (
        _Cell(model, task, files[task], tars, tars_hash, clips, out, settings, device) for model in models
    )
    return score_cells(cells, seeds, baseline, report)


@dataclass(frozen=True)
class _Cell:
    """One model on one task with one setting. `clips`: audio files in each tar."""

    model: Checkpoint
    task: str
    task_file: str
    tars: Path
    tars_hash: str
    clips: dict[str, int]
    out: Path
    settings: XaresSettings
    device: str

    def result(self, seeds: Sequence[int], report: Callable[[str], Any]) -> Result:
        weights = self.model.weights()
        parts = (weights, self.tars_hash, asdict(self.settings), versions("xares"))
        key = hashlib.sha256(f"{parts}".encode()).hexdigest()[:8]
        cell = self.out / self.task / f"{self.model.name}-{key}"
        with alone_in(cell):
            runs = [self._run(cell, seed, report) for seed in seeds]
            shutil.rmtree(cell / "env" / self.task / "embeddings", ignore_errors=True)
        first = runs[0]
        if any(run["clips"] != first["clips"] for run in runs):
            raise EvaluationError(
                f"{cell}: seeds were scored on other clips; remove the folder and run again"
            )
        answers = Answers(
            first["clips"], first["splits"], first["groups"], first["truth"], [run["answers"] for run in runs]
        )
        summary, draws_S = answers.summary()
        for run, score in zip(runs, summary["by_seed"], strict=True):
            if abs(run["mlp_score"] - score) > 1e-4:
                raise EvaluationError(f"{cell}: X-ARES says {run['mlp_score']}, its heads' answers {score}")
        seconds = sum(run["seconds"] for run in runs)
        record = {
            "model": self.model.name,
            "source": self.model.source,
            "task": self.task,
            "protocol": "xares",
            "metric": "accuracy",
            **summary,
            "seeds": list(seeds),
            "knn_score": sum(run["knn_score"] for run in runs) / len(runs),
            "layer": "last",
            "pool": self.settings.frequency,
            "config": asdict(self.settings),
            "probe_seconds": seconds,
            "clips_per_s": sum(first["items"].values()) * len(runs) / seconds,
            "clips": sum(self.clips.values()),
            "clips_by_split": first["items"],
            "classes": len(set(answers.truth)),
            "notes": [PADDED, *([CHOSEN_ON_TEST] if len(set(answers.splits)) > 1 else [])],
            "weights": weights,
            "task_hash": self.tars_hash,
            **provenance(torch.device(self.device)),
        }
        record["versions"] |= versions("xares", "torchaudio", "webdataset")
        write_json(cell / "record.json", record)
        return Result(record, draws_S)

    def _run(self, cell: Path, seed: int, report: Callable[[str], Any]) -> dict[str, Any]:
        """X-ARES once, embeddings included where there are none yet: its scores and its heads' answers."""
        done = cell / f"seed-{seed}.json"
        if done.is_file():
            return json.loads(done.read_text())
        env = cell / "env" / self.task
        shutil.rmtree(env / "checkpoints", ignore_errors=True)
        env.mkdir(parents=True, exist_ok=True)
        for path in (*self.tars.glob("*.tar"), self.tars / READY):
            (env / path.name).unlink(missing_ok=True)  # the same tars may have lain elsewhere
            (env / path.name).symlink_to(path)
        encoder = write_encoder(
            self.model.source, cell, name=self.model.name, frequency=self.settings.frequency
        )
        task_file = cell / f"seed_{seed}_task.py"
        write(task_file, self._task(seed))
        log = cell / f"seed-{seed}.log"
        report(f"{self.model.name}, seed {seed}: X-ARES on {self.task}; {log}")
        seconds = run_stock(
            "xares.run", ["--max-jobs", "0", encoder.name, task_file.name], cell, log, self.device
        )
        class_name = encoder.read_text().split(" = ")[0].splitlines()[-1]
        scores = {
            name: env / "checkpoints" / class_name / f"{name}.txt" for name in ("mlp_score", "knn_score")
        }
        if missing := [path.name for path in scores.values() if not path.is_file()]:
            raise EvaluationError(f"X-ARES left no {' and no '.join(missing)}; {log} says why")
        report_file = cell / f"seed-{seed}.answers"
        run_module(
            "ajepa.eval.toolkits.xares.answers",
            [class_name, task_file.name, str(report_file)],
            cell,
            cell / f"seed-{seed}.answers.log",
            self.device,
        )
        answered = json.loads(report_file.read_text())
        report_file.unlink()
        self._check_items(answered["items"], answered["crop_seconds"], log)
        run = {
            **answered,
            **{name: float(path.read_text().split()[0]) for name, path in scores.items()},
            "seconds": seconds,
        }
        write_json(done, run)
        return run

    def _task(self, seed: int) -> str:
        """A task's file: X-ARES's own with the settings."""
        lines = [f"    config.seed = {seed}"]
        if self.settings.epochs:
            lines.append(f"    config.epochs = {self.settings.epochs}")
        if self.settings.lr:
            lines.append(f"    config.learning_rate = {self.settings.lr}")
        settings = "\n".join(lines)
        return (
            "from xares.utils import attr_from_py_path\n\n\n"
            "def cell_config(encoder):\n"
            f"    config = attr_from_py_path({self.task_file!r}, endswith='_config')(encoder)\n"
            f"{settings}\n"
            "    return config\n"
        )

    def _check_items(self, items: dict[str, int], crop_seconds: float | None, log: Path) -> None:
        """X-ARES leaves out what it cannot decode, with a warning; that would be another task."""
        total, clips = sum(items.values()), sum(self.clips.values())
        if total < clips or (crop_seconds is None and total != clips):
            raise EvaluationError(
                f"{self.tars}: {clips:,} clips, of which X-ARES embedded {total:,}; {log} has its warnings"
            )


def _clips(tar: Path) -> int:
    """Audio files in a tar."""
    try:
        with tarfile.open(tar) as members:
            return sum(Path(name).suffix.lower() in AUDIO for name in members.getnames())
    except tarfile.TarError as error:
        raise EvaluationError(f"{tar}: damaged, or no tar ({error}); make or fetch it again") from error


def _fingerprint(tars: Path) -> str:
    """Hash of the tars' names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(tars.glob("*.tar")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]
