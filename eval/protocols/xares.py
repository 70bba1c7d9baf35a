"""Stock X-ARES as a protocol: its embeddings and its heads.

X-ARES runs in the cell's folder, with links to the tars, because it names results by the encoder's class
alone, and takes the head of a killed run for a trained one. Finished seeds are read again. The embeddings,
which can be large, are removed after the last seed.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ajepa.contents import read_json
from ajepa.eval.digest import digest
from ajepa.eval.models.text import absolute
from ajepa.eval.progress import say
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.result import Result
from ajepa.eval.toolkits.commands import kept, run_module, run_stock, versions
from ajepa.eval.toolkits.xares.encoder import FREQUENCIES, write_encoder
from ajepa.eval.toolkits.xares.sets import READY
from ajepa.files import write, write_json

from .base import Bench, ProtocolError, Seeded, TaskEntry

KEPT = ("clips", "splits", "groups", "truth", "answers", "items", "mlp_score", "knn_score", "seconds")
SEED = 42  # X-ARES's
AUDIO = {".flac", ".mp3", ".sox", ".wav", ".m4a", ".ogg", ".wma"}  # that X-ARES takes from tars
CHOSEN_ON_TEST = "X-ARES chooses the epoch of each fold on the fold that it scores"
PADDED = "X-ARES pads the clips of a batch with silence, which counts in their mean over time"


@dataclass(frozen=True)
class Xares(Seeded):
    """Settings of X-ARES. A task's folder is that of its tars, and has X-ARES's name for the task.

    Attributes:
        frequency: as for `ajepa.eval.xares.XaresEncoder`.
        epochs, lr: for the head; 0 takes the task's own (10 and 1e-3 for most).
        seeds: each trains heads.
    """

    seeds: tuple[int, ...] = (SEED,)
    frequency: str = "concatenate"
    epochs: int = 0
    lr: float = 0.0

    reads: ClassVar[str] = "xares"
    example: ClassVar[str] = "{xares: env/esc50}; `ajepa data xares` makes one"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(frequency=FREQUENCIES)
        if min(self.epochs, self.lr) < 0:
            raise ProtocolError(f"epochs {self.epochs} and lr {self.lr} must be 0 (the task's) or above")

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """The tars, the settings and X-ARES's version."""
        tars = entry.folder("xares")
        _task_file(tars.name)
        if not (tars / READY).is_file():
            raise EvaluationError(
                f"{tars}: no {READY} in it; `ajepa data xares` makes the folder of esc50, speechcommandsv1 "
                "and voxceleb1, and X-ARES's own command downloads any (--to-stage 0)"
            )
        return (self.protocol, _fingerprint(tars), self.settings(), versions("xares"))

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Embed the clips, and train and test heads for each seed."""
        tars = entry.folder("xares")
        clips = sum(_clips(path) for path in sorted(tars.glob("*.tar")))
        runs = [self._run(bench, tars, clips, folder, seed) for seed in self.seeds]
        shutil.rmtree(folder / "env" / tars.name / "embeddings", ignore_errors=True)
        items = runs[0]["items"]
        found = self.result(
            bench,
            runs,
            ("xares", "torchaudio", "webdataset"),
            sum(items.values()),
            source=bench.source,
            task=tars.name,
            clips=clips,
            clips_by_split=items,
            weights=bench.fingerprint,
            task_hash=_fingerprint(tars),
            notes=(PADDED, *([CHOSEN_ON_TEST] if len(set(runs[0]["splits"])) > 1 else [])),
            details={
                "pool": self.frequency,
                "knn_score": sum(run["knn_score"] for run in runs) / len(runs),
                "config": self.settings(),
            },
        )
        for run, score in zip(runs, found.record.by_seed, strict=True):
            if abs(run["mlp_score"] - score) > 1e-4:
                raise EvaluationError(f"{folder}: X-ARES says {run['mlp_score']}, its heads' answers {score}")
        return [found]

    def _run(self, bench: Bench, tars: Path, clips: int, folder: Path, seed: int) -> dict[str, Any]:
        """Run X-ARES once, and embed if needed: its scores and its heads' answers."""
        done = folder / f"seed-{seed}.json"
        if found := kept(done, KEPT):
            return found
        device = bench.conditions.toolkit_device
        env = folder / "env" / tars.name
        shutil.rmtree(env / "checkpoints", ignore_errors=True)
        env.mkdir(parents=True, exist_ok=True)
        for path in (*tars.glob("*.tar"), tars / READY):
            (env / path.name).unlink(missing_ok=True)  # the same tars may have been elsewhere
            (env / path.name).symlink_to(path)
        encoder, class_name = write_encoder(
            absolute(bench.source), folder, name=bench.name, frequency=self.frequency
        )
        task_file = folder / f"seed_{seed}_task.py"
        write(task_file, self._task(_task_file(tars.name), seed))
        log = folder / f"seed-{seed}.log"
        say(f"{bench.name}, seed {seed}: X-ARES on {tars.name}; {log}")
        command = ["--max-jobs", "0", encoder.name, task_file.name]
        seconds = run_stock("xares.run", command, folder, log, device)
        scores = {
            name: env / "checkpoints" / class_name / f"{name}.txt" for name in ("mlp_score", "knn_score")
        }
        if missing := [path.name for path in scores.values() if not path.is_file()]:
            raise EvaluationError(f"X-ARES left no {' and no '.join(missing)}; {log} says why")
        report_file = folder / f"seed-{seed}.answers"
        run_module(
            "ajepa.eval.toolkits.xares.answers",
            [class_name, task_file.name, str(report_file)],
            folder,
            folder / f"seed-{seed}.answers.log",
            device,
        )
        answered = read_json(report_file, ("items", "crop_seconds"))
        report_file.unlink()
        # X-ARES leaves out what it cannot decode, with a warning; that would be another task.
        total = sum(answered["items"].values())
        if total < clips or (answered["crop_seconds"] is None and total != clips):
            raise EvaluationError(
                f"{tars}: {clips:,} clips, of which X-ARES embedded {total:,}; {log} has its warnings"
            )
        run = {
            **answered,
            **{name: float(path.read_text().split()[0]) for name, path in scores.items()},
            "seconds": seconds,
        }
        write_json(done, run)
        return run

    def _task(self, file: str, seed: int) -> str:
        """The task's file: X-ARES's own, with our settings."""
        lines = [f"    config.seed = {seed}"]
        if self.epochs:
            lines.append(f"    config.epochs = {self.epochs}")
        if self.lr:
            lines.append(f"    config.learning_rate = {self.lr}")
        settings = "\n".join(lines)
        return (
            "from xares.utils import attr_from_py_path\n\n\n"
            "def cell_config(encoder):\n"
            f"    config = attr_from_py_path({file!r}, endswith='_config')(encoder)\n"
            f"{settings}\n"
            "    return config\n"
        )


def _task_file(task: str) -> str:
    """The file of one of X-ARES's tasks. Raises EvaluationError for a task that it lacks."""
    files = task_files()
    if task not in files:
        raise EvaluationError(
            f"no task {task!r}; those of X-ARES that are scored by the accuracy of clips are "
            f"{', '.join(files)}. For others run its own command with the file that "
            "`python -m ajepa.eval.xares` writes"
        )
    return files[task]


def task_files() -> dict[str, str]:
    """X-ARES's tasks that are scored by the accuracy of clips: name -> file, as its command takes it.

    The files are parsed, because importing them would load all of X-ARES.

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


def _clips(tar: Path) -> int:
    """Audio files in a tar."""
    try:
        with tarfile.open(tar) as members:
            return sum(Path(name).suffix.lower() in AUDIO for name in members.getnames())
    except tarfile.TarError as error:
        raise EvaluationError(f"{tar}: damaged, or not a tar; make or fetch it again") from error


def _fingerprint(tars: Path) -> str:
    """Hash of the tars' names and bytes."""
    paths = sorted(tars.glob("*.tar"))
    return digest(part for path in paths for part in (f"{path.name} {path.stat().st_size}\n", path))
