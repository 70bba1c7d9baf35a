"""Checks before a run starts or continues, and the record of each start."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ajepa import files
from ajepa.data import open_clips
from ajepa.data.clips import Clips
from ajepa.data.lengths import TrainingSet, clip_seconds, draws_of, keep_seconds, kept_seconds
from ajepa.recipes import Recipe, RecipeError, dump_recipe

from .folder import begins_again, checkpoint_of, held_segment
from .provenance import describe_run

LENGTHS = "lengths.npz"  # in a run's folder: what the files' headers say


def prepare(recipe: Recipe) -> tuple[TrainingSet, Recipe, dict[str, Any]]:
    """The run's clips, the recipe as it runs, and the data's fingerprint.

    In that recipe `epochs` are turned into steps, and `data.segment_seconds` is a number: where it was none,
    the one that the run in the folder has, else that of a crop.

    Raises:
        RecipeError: no source or no folder is named, the folder cannot be written, is in that of the data, or
            holds a run of another recipe or on other data.
        AudioError: there is no audio.
        DataError: a manifest or the index of shards cannot be used or fetched.
        PlaceError: one of the two names is not UTF-8.
    """
    if not recipe.data.source:
        raise RecipeError("data.source is empty: name a folder of audio, such as --data.source my_audio/")
    if not recipe.run.out:
        raise RecipeError("run.out is empty: name the run's folder, such as --run.out runs/first")
    files.check_utf8(recipe.data.source, "data.source")
    files.check_utf8(recipe.run.out, "run.out")
    data = recipe.data
    clips = open_clips(
        data.source,
        shard_window=data.shard_window,
        shard_cache=data.shard_cache,
        shard_cache_megabytes=data.shard_cache_megabytes,
    )
    out, held = Path(recipe.run.out), held_segment(Path(recipe.run.out))
    if held is None:
        _check_apart(out, data.source)
    segment = data.segment_seconds
    if segment is None:
        segment = data.usual_segment if held is None else held
    found = _planned(recipe, clips, segment)
    # Before processes start; checked again when the folder is claimed.
    if checkpoint_of(*found[1:]) is None and data.segment_seconds is None and begins_again(out):
        found = _planned(recipe, clips, data.usual_segment)
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RecipeError(f"run.out {out} cannot be written: {error}") from error
    training_set, _, info = found
    if training_set.seconds is not None and np.isnan(clips.seconds()).any():
        sha256 = info["data"]["sha256"]
        if kept_seconds(out / LENGTHS, sha256, len(clips)) is None:
            keep_seconds(out / LENGTHS, sha256, training_set.seconds)
    return found


def _planned(recipe: Recipe, clips: Clips, segment: float) -> tuple[TrainingSet, Recipe, dict[str, Any]]:
    """The set with the draws of an epoch, the recipe with them, and the data's fingerprint."""
    data = clips.fingerprint()
    training_set = TrainingSet(clips)
    if segment:
        kept = kept_seconds(Path(recipe.run.out) / LENGTHS, data["sha256"], len(clips))
        with tqdm(desc="lengths of files", unit="file", disable=None, leave=False) as bar:
            seconds = clip_seconds(clips, kept, bar.update)
        training_set = TrainingSet(clips, seconds, draws_of(seconds, segment))
        data["draws"] = training_set.draws
    try:
        optim = recipe.optim.in_steps(training_set.draws)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    recipe = replace(recipe, data=replace(recipe.data, segment_seconds=segment), optim=optim)
    return training_set, recipe, {"data": data}


def _check_apart(out: Path, source: str) -> None:
    """Raises RecipeError for a run's folder within that of its data."""
    folder = Path(source)
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        where = "is the folder of the data" if out.resolve() == folder.resolve() else "is inside it"
        raise RecipeError(
            f"run.out {out}: {where} (data.source {source}); name a folder elsewhere, such as runs/first"
        )


def record_start(
    recipe: Recipe, info: dict[str, Any], device: torch.device, step: int, *, begins: bool
) -> None:
    """Write recipe.yaml, and add this start to run.json; `info` gains software and hardware.

    Args:
        begins: a run begins here; an existing run.json belongs to an earlier run and is replaced.
    """
    out, optim = Path(recipe.run.out), recipe.optim
    if optim.warmup_steps >= optim.steps:
        print(
            f"optim.warmup_steps {optim.warmup_steps} is not below optim.steps {optim.steps}: the rate never "
            f"reaches optim.lr {optim.lr:g}",
            file=sys.stderr,
        )
    info.update(describe_run(device))
    files.write(out / "recipe.yaml", dump_recipe(recipe))
    record = out / "run.json"
    starts = [] if begins else _starts(record)
    files.write_json(record, [*starts, {"step": step} | info])


def _starts(record: Path) -> list[Any]:
    """The earlier starts of a run. A damaged record is set aside: it must not block a sound checkpoint."""
    if not record.is_file():
        return []
    try:
        starts = json.loads(record.read_bytes())
    except (ValueError, RecursionError):
        starts = None
    if isinstance(starts, list):
        return starts
    files.set_aside(record, "no list of starts", "the run goes on")
    return []


def check_shared_memory(recipe: Recipe, processes: int, folder: Path = Path("/dev/shm")) -> None:
    """Check that loader processes can hand over their batches: each has two of them there at a time.

    In a container the folder is often 64 MB; a full one ends in a wait without end or in a bus error.

    Args:
        processes: of the run on this machine.

    Raises:
        RecipeError: there is too little room.
    """
    workers, batch = recipe.data.workers, recipe.optim.batch_size * recipe.crop_samples * 4
    if not workers or not folder.is_dir():
        return
    needed, free = 2 * workers * batch, shutil.disk_usage(folder).free
    if free < needed:
        raise RecipeError(
            f"data.workers {workers}: {folder} has {free / 2**20:.0f} MiB free, batches of "
            f"{batch / processes / 2**20:.0f} MiB from {workers * processes} loader processes take "
            f"{needed / 2**20:.0f}; give the container more (docker run --shm-size 8g), or lower "
            "data.workers or optim.batch_size"
        )
