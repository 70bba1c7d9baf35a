"""Checks before a run starts or continues, and the record of each start."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ajepa import files
from ajepa.data import open_clips
from ajepa.data.clips import Clips
from ajepa.recipes import Recipe, RecipeError, dump_recipe

from .folder import checkpoint_of
from .provenance import describe_run


def prepare(recipe: Recipe) -> tuple[Clips, Recipe, dict[str, Any]]:
    """The run's clips, the recipe with `epochs` turned into steps, and the data's fingerprint.

    Raises:
        RecipeError: no source or no folder is named, the folder cannot be written, or it holds a run of
            another recipe or on other data.
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
    recipe = replace(recipe, optim=recipe.optim.in_steps(len(clips)))
    info = {"data": clips.fingerprint()}
    checkpoint_of(recipe, info)  # before processes start; checked again when the folder is claimed
    out = Path(recipe.run.out)
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RecipeError(f"run.out {out} cannot be written: {error}") from error
    return clips, recipe, info


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
