"""The whole job at a size that a laptop does in minutes: audio, pre-training, HEAR scores, a table."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ajepa.data import synthetic
from ajepa.hear_module import tasks
from ajepa.recipes import load_recipe
from ajepa.training.loop import pretrain

from .compare.config import Comparison
from .compare.run import evaluate
from .results.errors import EvaluationError
from .results.record import Record
from .results.table import by_task

RECIPE = "ajepa-demo"
TWIN, TRAINED = "random twin", "A-JEPA"
SPEAKERS = 200  # heareval trains on batches of 1,024 clips: these give it three steps an epoch


def demo(out: Path, data: Path | None = None) -> None:
    """Pre-train a small A-JEPA and score it beside its random twin and log-mel statistics.

    Finished parts are not done again: a demo that was stopped goes on.

    Args:
        out: everything is written below it.
        data: a folder of audio to pre-train on; None for synthetic audio. The scores are always those of
            synthetic sounds and words that pre-training has not seen.
    """
    out = out.resolve()
    unlabelled = data.resolve() if data else out / "audio" / "unlabelled"
    _say(f"1/4  synthetic audio in {out / 'audio'}")
    tasks_dir = out / "tasks"
    for layout, write, convert in (
        ("esc50", synthetic.write_esc50, tasks.from_esc50),
        (
            "speech_commands",
            partial(synthetic.write_speech_commands, speakers=SPEAKERS),
            tasks.from_speech_commands,
        ),
    ):
        source, done = out / "audio" / layout, out / "audio" / f".{layout}.done"
        if not done.exists():
            write(source, seed=1)
            convert(source, tasks_dir, force=True)
            done.touch()
    if not data and not (out / "audio" / ".unlabelled.done").exists():
        synthetic.write_unlabelled(unlabelled, seed=2)
        (out / "audio" / ".unlabelled.done").touch()

    run = out / (f"pretrain-{data.resolve().name}" if data else "pretrain")
    recipe = load_recipe(RECIPE)
    recipe = replace(
        recipe,
        data=replace(recipe.data, source=str(unlabelled), skip_broken=True),
        run=replace(recipe.run, out=str(run)),
    )
    _say(f"2/4  pre-training on {unlabelled}")
    encoder = pretrain(recipe)

    _say("3/4  HEAR: embeddings and predictions with the stock toolkit, for three models")
    start = run / "checkpoints" / "step-00000000.safetensors"
    folders = sorted(path.parent for path in tasks_dir.glob("*/task_metadata.json"))
    comparison = Comparison(
        models={"log-mel statistics": "logmel", TWIN: str(start), TRAINED: str(encoder)},
        tasks={folder.name: {"hear": str(folder)} for folder in folders},
        protocols={"hear": {"grid_points": 1}},
    )
    records, failures = evaluate(comparison, out / "hear")
    if failures:
        raise EvaluationError(failures[0].reason)

    _say("4/4  scores (accuracy; ± standard deviation over folds)")
    print(by_task(records))
    print(f"\n{TRAINED} over its {TWIN}\n{gains(records, tasks_dir)}")
    print(
        f"\nencoder   {encoder}\n"
        f"run       {run} (recipe.yaml, metrics.jsonl, checkpoints/)\n"
        f"tasks     {tasks_dir}\n"
        f"records   {out / 'hear' / 'records.json'}\n"
        f"use it    ajepa embed FILES --model {encoder} --out embeddings.npz"
    )


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
