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
from ajepa.checkpoints.layout import (
    checkpoint_path,
    checkpoint_paths,
    checkpoint_step,
    encoder_file,
    finished_encoder,
    latest_checkpoint,
)
from ajepa.recipes import Recipe, RecipeError, recipe_from_dict
from ajepa.recipes.parts import OptimConfig

from .fabric import Fabric
from .state import BestEncoder

# What a run must keep to be one run; the rest (devices, logging, workers) may change from start to start.
FIXED_PARTS = ("front_end", "encoder", "objective", "optim")
FIXED_KEYS = {"data": ("crop_seconds", "segment_seconds", "gain_db"), "run": ("seed", "precision")}
LENGTH = ("steps", "decay_steps")  # may change: a run can be extended
EPOCHS = ("epochs", "warmup_epochs")  # have become steps

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
        if last is not None:
            checkpoint.verify(last)
    except Timeout:
        return RecipeError(
            f"run.out {out}: another process trains in this folder; wait for it, or take another --run.out. "
            f"If there is none, not on another machine either, remove {lock.lock_file}"
        )
    except RecipeError as error:
        return error
    except checkpoint.CheckpointError as error:
        assert last is not None
        return _damaged(last, error)
    for folder in (out, out / "checkpoints"):
        for half_written in folder.glob(".ajepa.*.partial"):
            half_written.unlink(missing_ok=True)
    _extend(recipe, last)
    if last is None and finished_encoder(out) is None:
        _forget(recipe, info)
    return last


def checkpoint_of(recipe: Recipe, info: dict[str, Any]) -> Path | None:
    """The checkpoint from which this recipe on this data continues; None if it begins.

    It also begins in the folder of a run with another recipe or other data that ended before its second
    checkpoint: nothing was learnt there, and the recipe or the data are often why it ended.

    A run of another length is extended (`ajepa.recipes.parts.OptimConfig`): it continues from its last
    checkpoint, or where the rate falls over the last steps from the last one that both lengths share.

    Raises:
        RecipeError: the folder holds a run of another recipe or on other data.
    """
    out = Path(recipe.run.out)
    last = latest_checkpoint(out)
    held = finished_encoder(out) or last  # a finished run's checkpoints may have been deleted
    if held is None:
        return None
    try:
        saved = checkpoint.load(held, prefixes=())
    except checkpoint.CheckpointError as error:
        raise _damaged(held, error) from error
    other = recipe_from_dict(saved.recipe, held)
    changed = _differences(recipe, info, other, saved.info)
    ours, theirs = recipe.optim, other.optim
    shared = _shared_steps(ours, theirs)
    if shared is None:
        changed += [
            f"optim.{key} ({getattr(theirs, key)!r}, now {getattr(ours, key)!r})"
            for key in LENGTH
            if getattr(theirs, key) != getattr(ours, key)
        ]
    if not changed:
        start = latest_checkpoint(out, shared)
        if start is None and not _same_length(ours, theirs):
            raise RecipeError(
                f"{out}: no checkpoint up to step {shared} is left, from which to extend the run; "
                "take another --run.out"
            )
        return start
    if held == checkpoint_path(out, 0):
        return None
    raise RecipeError(
        f"{out}: holds a run with other values of {', '.join(changed)}; "
        "use its recipe.yaml and its data to continue it, or another --run.out"
    )


def held_segment(out: Path) -> float | None:
    """The `data.segment_seconds` of the run that a folder holds; None if it holds none.

    Raises:
        RecipeError: its file is damaged.
    """
    held = finished_encoder(out) or latest_checkpoint(out)
    if held is None:
        return None
    try:
        saved = checkpoint.load(held, prefixes=())
    except checkpoint.CheckpointError as error:
        raise _damaged(held, error) from error
    return recipe_from_dict(saved.recipe, held).data.segment_seconds


def begins_again(out: Path) -> bool:
    """Whether all that a folder holds are the first weights of a run."""
    return finished_encoder(out) is None and latest_checkpoint(out) == checkpoint_path(out, 0)


def _damaged(path: Path, error: Exception) -> RecipeError:
    """What to do about a damaged file that a run would go on from."""
    before = [other for other in checkpoint_paths(path.parent.parent) if other < path]
    instead = f"to go on from {before[-1].name}" if path.parent.name == "checkpoints" and before else ""
    return RecipeError(f"{error}; remove it {instead or 'to go on without it'} with the same command")


def finished_run(recipe: Recipe) -> Path | None:
    """The encoder that a run of this recipe's length has left; None where steps are still to be done."""
    finished = finished_encoder(Path(recipe.run.out))
    if finished and _same_length(
        recipe.optim, recipe_from_dict(checkpoint.load(finished, ()).recipe, finished).optim
    ):
        return finished
    return None


def _same_length(one: OptimConfig, other: OptimConfig) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in LENGTH)


def _shared_steps(ours: OptimConfig, theirs: OptimConfig) -> int | None:
    """Up to which step a run of the one length can be continued as one of the other; None: at no step."""
    if _same_length(ours, theirs):
        return ours.steps
    if ours.decay_start is not None and theirs.decay_start is not None:
        return min(ours.decay_start, theirs.decay_start)
    if ours.decay_start is None and theirs.decay_start is None and ours.steps > theirs.steps:
        return theirs.steps
    return None


def _extend(recipe: Recipe, start: Path | None) -> None:
    """Where a run of another length continues: keep its encoders by their steps, drop later checkpoints."""
    out = Path(recipe.run.out)
    finished = finished_encoder(out)
    later = [path for path in checkpoint_paths(out) if start and path > start]
    if start is None or finished_run(recipe) or not (finished or later):
        return
    done = checkpoint_step(later[-1] if later else start)
    print(
        f"{out}: {done} steps are done; the run of {recipe.optim.steps} continues from step "
        f"{checkpoint_step(start)}",
        file=sys.stderr,
    )
    if finished:
        for name in [*recipe.objective.encoders][1:]:
            if (other := out / encoder_file(name)).is_file():
                other.rename(other.with_stem(f"{other.stem}-{done:08d}"))
        finished.rename(finished.with_stem(f"{finished.stem}-{done:08d}"))
    _put_aside_best(out / BestEncoder.NAME, checkpoint_step(start))
    for path in later:
        path.unlink()


def _put_aside_best(best: Path, start: int) -> None:
    """Keep the best encoder under its step if that is after `start`: it is none of this run's any more."""
    try:
        step = checkpoint.load(best, prefixes=()).step if best.is_file() else 0
    except checkpoint.CheckpointError:  # damaged: the next one takes its place
        return
    if step > start:
        best.rename(best.with_stem(f"{best.stem}-{step:08d}"))


def _forget(recipe: Recipe, info: dict[str, Any]) -> None:
    """Remove what an earlier run left in the folder of one that begins."""
    out = Path(recipe.run.out)
    first = latest_checkpoint(out)
    if first is not None:
        saved = checkpoint.load(first, prefixes=())
        changed = ", ".join(_differences(recipe, info, recipe_from_dict(saved.recipe, first), saved.info))
        was = f"had other values of {changed}" if changed else "was of another length"
        print(
            f"{out}: the run there ended before its second checkpoint and {was}; starting over in its place",
            file=sys.stderr,
        )
        first.unlink()
    for name in LEFT_BEHIND:
        (out / name).unlink(missing_ok=True)


def _differences(
    recipe: Recipe, info: dict[str, Any], other: Recipe, other_info: dict[str, Any]
) -> list[str]:
    """Fixed settings that have changed, each with both values; the length is not one of them."""
    ours, theirs = (json.loads(json.dumps(one.as_dict())) for one in (recipe, other))
    keys = {part: list(ours[part]) for part in FIXED_PARTS} | FIXED_KEYS
    # With statistics over each micro-batch, another number of them would be another loss.
    free = {*LENGTH, *EPOCHS} | (set() if recipe.objective.couples_clips else {"accumulate"})
    keys["optim"] = [key for key in keys["optim"] if key not in free]
    changed = [
        f"{part}.{key} ({theirs[part].get(key)!r}, now {ours[part][key]!r})"
        for part in keys
        for key in keys[part]
        if ours[part][key] != theirs[part].get(key)
    ]
    now, before = info["data"], other_info.get("data")
    if now != before:
        changed.append(f"data ({_count(before, now)}, now {_count(now, before)}, not the same)")
    return changed


def _count(data: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    """A set in words; the draws of an epoch only if they alone tell it from the other."""
    if not data:
        return "unknown"
    window = f" in windows of {data['shard_window']} shards" if "shard_window" in data else ""
    alike = other is not None and {**other, "draws": 0} == {**data, "draws": 0}
    draws = f", {data.get('draws', data['files'])} crops an epoch" if alike else ""
    return f"{data['files']} files{window}{draws}"
