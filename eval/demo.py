"""The whole job at a size that a laptop does in minutes: audio, pre-training, HEAR scores, a table."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ajepa.data import synthetic
from ajepa.hear_module import tasks
from ajepa.recipes import load_recipe
from ajepa.training.loop import pretrain

from .compare.config import Comparison
from .compare.engines import Processes
from .compare.run import compare
from .report import write_report
from .results.errors import EvaluationError
from .results.record import Record
from .results.table import by_task

RECIPE = "ajepa-demo"
TWIN, TRAINED = "random twin", "A-JEPA"


@dataclass(frozen=True)
class Size:
    """How much audio the demo makes, and settings of its recipe."""

    sounds: int = 40  # clips of each of ten kinds
    # Each says ten words twice. heareval trains on batches of 1,024 clips: three steps an epoch.
    speakers: int = 100
    unlabelled: int = 400  # clips of 10 s
    settings: tuple[str, ...] = ()
    jobs: int = min(os.cpu_count() or 1, 4)  # processes at a time that make audio or run the toolkit


def demo(out: Path, data: Path | None = None, size: Size | None = None) -> None:
    """Pre-train a small A-JEPA and score it beside its random twin and log-mel statistics.

    Finished parts are not done again: a demo that was stopped continues.

    Args:
        out: everything is written below it.
        data: a folder of audio to pre-train on; None for synthetic audio. The scores are always those of
            synthetic sounds and words that pre-training has not seen.
        size: of the sets and of the training; None for one that takes some minutes.

    Raises:
        EvaluationError: the HEAR toolkit is missing, or failed.
    """
    out, size = out.resolve(), size or Size()
    unlabelled = data.resolve() if data else out / "audio" / "unlabelled"
    _say(f"1/4  synthetic audio in {out / 'audio'}")
    tasks_dir = out / "tasks"
    _make_audio(out / "audio", tasks_dir, size, with_unlabelled=data is None)

    folders = sorted(path.parent for path in tasks_dir.glob("*/task_metadata.json"))
    scored = partial(_score, {folder.name: {"hear": str(folder)} for folder in folders}, out / "hear")
    run = out / (f"pretrain-{data.resolve().name}" if data else "pretrain")
    recipe = load_recipe(RECIPE, size.settings)
    recipe = replace(
        recipe,
        data=replace(recipe.data, source=str(unlabelled), skip_broken=True),
        run=replace(recipe.run, out=str(run)),
    )
    start = pretrain(recipe, untrained=True)
    models = {"log-mel statistics": "logmel", TWIN: str(start)}
    if size.jobs > 1:
        _say(f"2/4  pre-training on {unlabelled}; next to it HEAR's scores of what needs no training")
        # Small products gain little from a second thread: it does better on the toolkit's own training.
        with _processes(1) as pool, _fewer_threads():
            untrained = pool.submit(scored, models)
            encoder = pretrain(recipe)
            untrained.result()
    else:
        _say(f"2/4  pre-training on {unlabelled}")
        encoder = pretrain(recipe)

    _say("3/4  HEAR: embeddings and predictions with the stock toolkit, for three models")
    records = scored(models | {TRAINED: str(encoder)}, size.jobs)

    _say("4/4  scores (accuracy; ± standard deviation over folds)")
    print(by_task(records))
    print(f"\n{TRAINED} over its {TWIN}\n{gains(records, tasks_dir)}")
    page = out / "report.html"
    write_report([f"{RECIPE}={run}", str(out / "hear")], page, say=lambda line: None)
    print(
        f"\nreport    {page} (open it in a browser)\n"
        f"encoder   {encoder}\n"
        f"run       {run} (recipe.yaml, metrics.jsonl, checkpoints/)\n"
        f"tasks     {tasks_dir}\n"
        f"records   {out / 'hear' / 'records.json'}\n"
        f"use it    ajepa embed FILES --model {encoder} --out embeddings.npz"
    )


def _score(
    tasks: dict[str, dict[str, str]], out: Path, models: dict[str, str], jobs: int = 1
) -> list[Record]:
    """HEAR's scores of models. Raises EvaluationError: one of them failed."""
    comparison = Comparison(models=dict(models), tasks=dict(tasks), protocols={"hear": {"grid_points": 1}})
    engine = Processes(jobs) if jobs > 1 else None
    records, failures = compare(comparison, out, engine=engine, threads=1)
    if failures:
        raise EvaluationError(failures[0].reason)
    return records


def _processes(count: int) -> ProcessPoolExecutor:
    # A forked process would inherit threads in an unknown state.
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


@contextmanager
def _fewer_threads() -> Iterator[None]:
    """One thread of torch's less, for a process that works next to this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make_audio(audio: Path, tasks_dir: Path, size: Size, with_unlabelled: bool) -> None:
    """The sets that are not there yet, several at a time."""
    parts: dict[str, Callable[[], object]] = {
        "speech_commands": partial(_make_words, audio / "speech_commands", tasks_dir, size.speakers),
        "esc50": partial(_make_sounds, audio / "esc50", tasks_dir, size.sounds),
    }
    if with_unlabelled:
        folder = audio / "unlabelled"
        parts["unlabelled"] = partial(synthetic.write_unlabelled, folder, clips=size.unlabelled, seed=2)
    with _processes(size.jobs) as pool:
        making = {
            pool.submit(make): audio / f".{name}.done"
            for name, make in parts.items()
            if not (audio / f".{name}.done").exists()
        }
        for made in as_completed(making):
            made.result()
            making[made].touch()


def _make_sounds(source: Path, tasks_dir: Path, clips: int) -> None:
    synthetic.write_esc50(source, clips_per_class=clips, seed=1)
    tasks.from_esc50(source, tasks_dir, force=True)


def _make_words(source: Path, tasks_dir: Path, speakers: int) -> None:
    synthetic.write_speech_commands(source, speakers=speakers, seed=1)
    tasks.from_speech_commands(source, tasks_dir, force=True)


def gains(records: Sequence[Record], tasks_dir: Path) -> str:
    """What pre-training gained on each task: a line of score difference, its standard error and test clips.

    The standard error is that of two accuracies on n clips each, independent of each other. That the clips
    are the same for both models makes the true one smaller, that several are of one speaker larger.
    """
    scores = {(record.model, record.task): record.score for record in records}
    lines = []
    for task in dict.fromkeys(record.task for record in records):
        clips = scored_clips(tasks_dir / task)
        twin, trained = scores[TWIN, task], scores[TRAINED, task]
        error = math.sqrt((twin * (1 - twin) + trained * (1 - trained)) / clips)
        lines.append(f"  {trained - twin:+.3f} (standard error {error:.3f}, {clips} test clips)  {task}")
    return "\n".join(lines)


def scored_clips(task: Path) -> int:
    """Clips that are scored: the test split, or with folds every clip once."""
    splits = json.loads((task / "task_metadata.json").read_text())["splits"]
    scored = ["test"] if "test" in splits else splits
    return sum(len(json.loads((task / f"{split}.json").read_text())) for split in scored)


def _say(line: str) -> None:
    print(f"\n{line}", file=sys.stderr, flush=True)
