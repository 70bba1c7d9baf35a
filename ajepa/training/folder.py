"""A run's folder: which run it holds, and that one start at a time works in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.layout import checkpoint_path, finished_encoder, latest_checkpoint
from ajepa.recipes import Recipe, RecipeError, recipe_from_dict

from .fabric import Fabric
from .state import BestEncoder

# What a run must keep to be one run; the rest (devices, logging, workers) may change from start to start.
FIXED_PARTS = ("front_end", "encoder", "objective", "optim")
FIXED_KEYS = {"data": ("crop_seconds", "gain_db"), "run": ("seed", "precision")}

# Loader processes of a killed run hold its lock until they notice that it is gone, which takes up to 5 s.
PATIENCE_SECONDS = 10.0

# Files of an earlier run that a new start does not overwrite.
LEFT_BEHIND = (BestEncoder.NAME, "metrics.jsonl", "broken.txt", "wandb.id")


@contextmanager
def claimed(fabric: Fabric, recipe: Recipe, info: dict[str, Any]) -> Iterator[Path | None]:
    """Hold the run's folder, tidied, until the block is left; yields the checkpoint to resume.

    The first process does it for all and sends them what it found: None where a run begins. Files that a
    killed process left half written are removed here, where no other process can be writing them.

    Raises:
        RecipeError: another start holds the folder, or it holds a run of another recipe or on other data.
    """
    lock = FileLock(Path(recipe.run.out) / ".lock")
    try:
        found = fabric.broadcast(_take(lock, recipe, info) if fabric.is_global_zero else None)
        if isinstance(found, RecipeError):
            raise found
        yield found
    finally:
        lock.release()


def _take(lock: FileLock, recipe: Recipe, info: dict[str, Any]) -> Path | RecipeError | None:
    """Lock and tidy; an error is returned and not raised, since the other processes wait for it."""
    out = Path(recipe.run.out)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
        last = checkpoint_of(recipe, info)
    except Timeout:
        return RecipeError(
            f"run.out {out}: another process trains in this folder; wait for it, or take another --run.out. "
            f"If there is none, not on another machine either, remove {lock.lock_file}"
        )
    except RecipeError as error:
        return error
    for folder in (out, out / "checkpoints"):
        for half_written in folder.glob(".*.partial"):
            half_written.unlink(missing_ok=True)
    if last is None and finished_encoder(out) is None:
        _forget(recipe, info)
    return last


def checkpoint_of(recipe: Recipe, info: dict[str, Any]) -> Path | None:
    """The checkpoint from which this recipe on this data continues; None where it begins.

    It also begins in the folder of a run with another recipe or other data that ended before its second
    checkpoint: nothing was learnt there, and the recipe or the data are often why it ended.

    Raises:
        RecipeError: the folder holds a run of another recipe or on other data.
    """
    out = Path(recipe.run.out)
    last = latest_checkpoint(out)
    held = finished_encoder(out) or last  # a finished run's checkpoints may have been deleted
    if held is None:
        return None
    changed = _differences(recipe, info, checkpoint.load(held, prefixes=()))
    if not changed:
        return last
    if held == checkpoint_path(out, 0):
        return None
    raise RecipeError(
        f"{out}: holds a run with other values of {', '.join(changed)}; "
        "take its recipe.yaml and its data to go on with it, or another --run.out"
    )


def _forget(recipe: Recipe, info: dict[str, Any]) -> None:
    """Remove what an earlier run left in the folder of one that begins."""
    out = Path(recipe.run.out)
    first = latest_checkpoint(out)
    if first is not None:
        changed = ", ".join(_differences(recipe, info, checkpoint.load(first, prefixes=())))
        print(
            f"{out}: the run there ended before its second checkpoint and had other values of {changed}; "
            "starting over in its place",
            file=sys.stderr,
        )
        first.unlink()
    for name in LEFT_BEHIND:
        (out / name).unlink(missing_ok=True)


def _differences(recipe: Recipe, info: dict[str, Any], saved: checkpoint.Checkpoint) -> list[str]:
    """Fixed settings that have changed, each with both values."""
    ours = json.loads(json.dumps(recipe.as_dict()))
    # Read and written again, a recipe of an older version says what its missing keys meant.
    theirs = json.loads(json.dumps(recipe_from_dict(saved.recipe).as_dict()))
    keys = {part: list(ours[part]) for part in FIXED_PARTS} | FIXED_KEYS
    if not recipe.objective.couples_clips:
        # With statistics over each micro-batch, another number of them would be another loss.
        keys["optim"] = [key for key in keys["optim"] if key != "accumulate"]
    changed = [
        f"{part}.{key} ({theirs[part].get(key)!r}, now {ours[part][key]!r})"
        for part in keys
        for key in keys[part]
        if ours[part][key] != theirs[part].get(key)
    ]
    if info["data"] != saved.info.get("data"):
        changed.append(f"data ({_count(saved.info.get('data'))}, now {_count(info['data'])}, not the same)")
    return changed


def _count(data: dict[str, Any] | None) -> str:
    if not data:
        return "unknown"
    window = f" in windows of {data['shard_window']} shards" if "shard_window" in data else ""
    return f"{data['files']} files{window}"
