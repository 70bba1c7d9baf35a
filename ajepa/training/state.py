"""A run's checkpoints: written whole, read back to go on, pruned; and the finished encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ajepa import checkpoint
from ajepa.checkpoint import Checkpoint
from ajepa.features import LogMel
from ajepa.recipe import Recipe


def checkpoint_path(out: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return out / "checkpoints" / f"step-{step:08d}.safetensors"


def latest_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the highest step in a run's folder."""
    return max((out / "checkpoints").glob("step-*.safetensors"), default=None)


def write_checkpoint(
    recipe: Recipe,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    front_end: LogMel,
    step: int,
    info: dict[str, Any],
) -> Path:
    """Weights of the objective, front end and optimiser state, under names that a test pins."""
    tensors = {f"objective.{name}": value for name, value in objective.state_dict().items()}
    tensors |= {f"features.{name}": value for name, value in front_end.state_dict().items()}
    for name, parameter in objective.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    path = checkpoint_path(Path(recipe.run.out), step)
    return checkpoint.save(path, Checkpoint(tensors, recipe.as_dict(), step, info))


def resume(path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore weights and optimiser state in place, on the parameters' device; returns the step."""
    saved = checkpoint.load(path)
    weights = {
        k.removeprefix("objective."): v for k, v in saved.tensors.items() if k.startswith("objective.")
    }
    objective.load_state_dict(weights)
    for name, parameter in objective.named_parameters():
        state = {
            key: saved.tensors[f"optimizer.{key}.{name}"].to(parameter.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.{key}.{name}" in saved.tensors
        }
        if state:
            optimizer.state[parameter] = state
    return saved.step


def prune_checkpoints(out: Path, keep: int, keep_every: int) -> None:
    """Delete all but the first checkpoint (the random twin), the last `keep`, multiples of `keep_every`."""
    for path in sorted((out / "checkpoints").glob("step-*.safetensors"))[1:-keep]:
        step = int(path.stem.removeprefix("step-"))
        if not (keep_every and step % keep_every == 0):
            path.unlink()


def export_encoder(
    recipe: Recipe, objective: Any, front_end: LogMel, step: int, info: dict[str, Any]
) -> Path:
    """The encoder that evaluation uses, with its front end, as one small file."""
    encoder: nn.Module = getattr(objective, objective.evaluated)
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    tensors |= {f"features.{name}": value for name, value in front_end.state_dict().items()}
    path = Path(recipe.run.out) / "encoder.safetensors"
    return checkpoint.save(path, Checkpoint(tensors, recipe.as_dict(), step, info))
