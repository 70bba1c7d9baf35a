"""What is checked before a run starts or goes on, and what is written of each start."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ajepa import checkpoint
from ajepa.data import open_clips
from ajepa.data.clips import Clips
from ajepa.recipe import Recipe, RecipeError, dump_recipe, recipe_from_dict
from ajepa.training.provenance import describe_run
from ajepa.training.state import latest_checkpoint

# What a run must keep to be one run; the rest (devices, logging, workers) may change from start to start.
FIXED_PARTS = ("front_end", "encoder", "objective", "optim")
FIXED_KEYS = {"data": ("crop_seconds", "gain_db"), "run": ("seed", "precision")}


def prepare(recipe: Recipe) -> tuple[Clips, Recipe, dict[str, Any]]:
    """The run's clips, the recipe with `epochs` turned into steps, and the data's fingerprint.

    Raises:
        RecipeError: source or folder are not named, the folder cannot be written, or it holds a run of
            another recipe or on other data.
        AudioError: there is no audio.
        DataError: a manifest or the index of shards cannot be used or fetched.
    """
    if not recipe.data.source:
        raise RecipeError("data.source is empty: name a folder of audio, such as --data.source my_audio/")
    if not recipe.run.out:
        raise RecipeError("run.out is empty: name the run's folder, such as --run.out runs/first")
    data = recipe.data
    clips = open_clips(
        data.source,
        shard_window=data.shard_window,
        shard_cache=data.shard_cache,
        shard_cache_megabytes=data.shard_cache_megabytes,
    )
    recipe = replace(recipe, optim=recipe.optim.in_steps(len(clips)))
    info = {"data": clips.fingerprint()}
    out = Path(recipe.run.out)
    existing = latest_checkpoint(out)
    if existing:
        _check_same_run(recipe, info, checkpoint.load(existing, prefixes=()))
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RecipeError(f"run.out {out} cannot be written: {error}") from error
    for leftover in (out / "checkpoints").glob(".step-*"):  # of a process that was killed while it wrote
        leftover.unlink(missing_ok=True)
    return clips, recipe, info


def _check_same_run(recipe: Recipe, info: dict[str, Any], saved: checkpoint.Checkpoint) -> None:
    ours = json.loads(json.dumps(recipe.as_dict()))
    # Read and written again, a recipe of an older version says what its missing keys meant.
    theirs = json.loads(json.dumps(recipe_from_dict(saved.recipe).as_dict()))
    keys = {part: tuple(ours[part]) for part in FIXED_PARTS} | FIXED_KEYS
    changed = [
        f"{part}.{key} ({theirs[part].get(key)!r}, now {ours[part][key]!r})"
        for part in keys
        for key in keys[part]
        if ours[part][key] != theirs[part].get(key)
    ]
    if info["data"] != saved.info.get("data"):
        changed.append(f"data ({_count(saved.info.get('data'))}, now {_count(info['data'])}, not the same)")
    if changed:
        raise RecipeError(
            f"{recipe.run.out}: holds a run with other values of {', '.join(changed)}; "
            "take its recipe.yaml and its data to go on with it, or another --run.out"
        )


def _count(data: dict[str, Any] | None) -> str:
    if not data:
        return "unknown"
    window = f" in windows of {data['shard_window']} shards" if "shard_window" in data else ""
    return f"{data['files']} files{window}"


def record_start(recipe: Recipe, info: dict[str, Any], device: torch.device, step: int) -> None:
    """Write recipe.yaml, and add this start to run.json; `info` gains software and hardware."""
    out = Path(recipe.run.out)
    info.update(describe_run(device))
    (out / "recipe.yaml").write_text(dump_recipe(recipe))
    record = out / "run.json"
    starts = json.loads(record.read_text()) if step and record.is_file() else []
    record.write_text(json.dumps([*starts, {"step": step} | info], indent=1) + "\n")
