"""The stock HEAR toolkit, unmodified, as a protocol: embeddings, then the predictions of its MLP.

heareval's two commands run in their own processes. What its heads answered to each test clip is kept next to
the record. Where the score is their accuracy it has an interval, from a bootstrap over clips: a task's folder
does not say which clips are of one source. Other scores have a spread over folds alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import torch

from ajepa.contents import read_json
from ajepa.eval.digest import digest
from ajepa.eval.hear import SUFFIX
from ajepa.eval.models.baselines import LogMelBaseline
from ajepa.eval.models.open import EncoderModel
from ajepa.eval.models.text import HEAR, absolute, hear_parts, is_file
from ajepa.eval.results.kept import answers_table
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import deviation, summary
from ajepa.eval.toolkits.commands import run_stock, versions
from ajepa.eval.toolkits.hear_answers import hear_answers, scored_answers
from ajepa.files import write

from .base import Bench, Protocol, ProtocolError, TaskEntry

METADATA = "task_metadata.json"
GRIDS = ("default", "fast", "faster")
SEED = 42  # heareval seeds everything with it


@dataclass(frozen=True)
class Hear(Protocol):
    """HEAR's downstream training.

    Attributes:
        grid, grid_points: heareval's grid of hyper-parameters, and the number of its points to try.
    """

    grid: str = "default"
    grid_points: int = 8

    reads: ClassVar[str] = "hear"
    example: ClassVar[str] = "{hear: tasks/esc10-v2.0.0-full}; `ajepa data hear-task` makes one"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(grid=GRIDS)

    def refusal(self, bench: Bench, entry: TaskEntry) -> str:
        """Also refuses a task without audio at the model's sample rate."""
        folder, rate = entry.folder("hear"), getattr(bench.model().module, "sample_rate", None)
        if (refused := super().refusal(bench, entry)) or (folder / str(rate)).is_dir():
            return refused
        return (
            f"{folder}: no audio at the {rate} Hz of {bench.name}; `ajepa data hear-task ... --sample-rate "
            f"{rate} --out OTHER_FOLDER` makes the task at that rate"
        )

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """Names, sizes and dates of the files of the task's folder, the grid and the toolkit."""
        folder = entry.folder("hear")
        if not (folder / METADATA).is_file():
            raise ProtocolError(f"{folder}: no HEAR task in it; `ajepa data hear-task` makes one")
        read_json(folder / METADATA, ("splits", "evaluation"))  # before the embeddings are computed
        listed = [
            (_name(path, folder), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(folder)
        ]
        return (self.protocol, self.grid, self.grid_points, listed, versions("heareval"))

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Run the two commands."""
        task = entry.folder("hear")
        folder.mkdir(parents=True, exist_ok=True)
        device = bench.conditions.device
        module, weights = _module(bench, folder)
        embed = [
            module,
            *(["--model", weights] if weights else []),
            "--tasks-dir",
            str(task.parent),
            "--task",
            task.name,
        ]
        # Relative: heareval mirrors the path of the embeddings under its logs.
        embedded = Path("embeddings", module, task.name)
        predict = [str(embedded), "--grid", self.grid, "--grid-points", str(self.grid_points)]
        embed_seconds = _run("embeddings", [*embed, "--embeddings-dir", "embeddings"], folder, device)
        seconds = _run("predictions", predict, folder, device)

        metadata = read_json(task / METADATA, ("splits", "evaluation"))
        results = read_json(folder / embedded / "test.predicted-scores.json", ("hparams",))
        profile = read_json(folder / embedded / "profile.embeddings.json", ("time_elapsed",))
        folds = {key: value["test_score"] for key, value in results.items() if _is_split(value)}
        counts = {split: len(read_json(task / f"{split}.json")) for split in metadata["splits"]}
        clips = sum(counts.values())
        record = Record(
            model=bench.name,
            source=bench.source,
            task=task.name,
            protocol="hear",
            protocol_kind="hear",
            metric=metadata["evaluation"][0],
            score=fmean(folds.values()),
            spread=deviation(list(folds.values())),
            folds=folds,
            seeds=(SEED,),
            clips=clips,
            clips_by_split=counts,
            seconds=seconds,
            clips_per_s=clips / profile["time_elapsed"],
            weights=bench.fingerprint,
            task_hash=digest(part for path in _files(task) for part in (f"{_name(path, task)}\n", path)),
            versions=versions("heareval", "torch", "lightning", "numpy"),
            details={
                "grid": self.grid,
                "grid_points": self.grid_points,
                "hparams": results["hparams"],
                "embed_seconds": embed_seconds,
            },
        )
        rate = int(bench.model().module.sample_rate)
        rows = hear_answers(task, folder / embedded, rate, SEED)
        if rows is None:
            return [Result(record, torch.empty(0))]
        answers = answers_table(rows)
        if (splits := scored_answers(rows, folds)) is None:
            return [Result(record, torch.empty(0), answers=answers)]
        fields, draws_S = summary([splits], ", of the toolkit's answers")
        record = replace(record, interval=fields["interval"], interval_method=fields["interval_method"])
        return [Result(record, draws_S, answers=answers)]


def _module(bench: Bench, folder: Path) -> tuple[str, str]:
    """The module with the HEAR API that heareval imports, and the value of its --model, a file."""
    source, model = bench.source, bench.model().module
    if isinstance(model, LogMelBaseline):
        return "ajepa.eval.logmel", ""
    if isinstance(model, EncoderModel):
        return "ajepa.hear_module", absolute(source)
    if source.startswith(HEAR):
        name, weights = hear_parts(absolute(source))
        if not is_file(name) and (not weights or Path(weights).exists()):
            return name, weights
    file = folder / f"encoder{SUFFIX}"
    write(file, absolute(source))
    return "ajepa.eval.hear", str(file.resolve())


def _is_split(value: object) -> bool:
    return isinstance(value, dict) and "test_score" in value and "validation_score" in value


def _run(step: str, arguments: list[str], folder: Path, device: str | None) -> float:
    return run_stock(f"heareval.{step}.runner", arguments, folder, folder / f"{step}.log", device)


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
