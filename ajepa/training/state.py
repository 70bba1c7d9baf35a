"""A run's checkpoints: written whole and pruned; and the finished encoder."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.layout import ENCODER, checkpoint_path, checkpoint_paths, checkpoint_step, encoder_file
from ajepa.checkpoints.native import Checkpoint
from ajepa.nn.encoder import Encoder
from ajepa.recipes import Recipe, RecipeError
from ajepa.recipes.parts import ProbeConfig

from .run import Run


def first_checkpoint(out: Path) -> Path:
    """The weights that a run begins with: its random twin.

    Raises:
        RecipeError: they were deleted.
    """
    path = checkpoint_path(out, 0)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; the same command with another --run.out makes it again")
    return path


def check_space(objective: nn.Module, recipe: Recipe) -> None:
    """Check before a run starts that the disk has room for all checkpoints that exist at one time.

    These are the first, the last `run.keep` and the one that is being written, multiples of
    `run.keep_every`, and the one before the rate falls; existing checkpoints count as free space.

    Raises:
        RecipeError: the disk is too full.
    """
    out, run, steps = Path(recipe.run.out), recipe.run, recipe.optim.steps
    weights = sum(p.numel() * p.element_size() for p in objective.parameters())
    moments = sum(2 * p.numel() * p.element_size() for p in objective.parameters() if p.requires_grad)
    kept = math.lcm(run.keep_every, run.checkpoint_every)
    count = run.keep + 1 + (steps // kept if kept else 0) + (recipe.optim.decay_start is not None)
    count = min(math.ceil(steps / run.checkpoint_every) + 1, count)
    there = sum(path.stat().st_size for path in checkpoint_paths(out))
    needed, free = weights + count * (weights + moments) - there, shutil.disk_usage(out).free
    if free < needed:
        raise RecipeError(
            f"run.out {out}: {free / 2**20:.0f} MiB are free, this run's checkpoints will take "
            f"{needed / 2**20:.0f} (run.keep {run.keep}, run.keep_every {run.keep_every}); free space or "
            "choose another folder"
        )


def write_checkpoint(run: Run, step: int) -> Path:
    """Weights of the objective, front end and optimiser state, under names that a test pins.

    All processes must call it, since FSDP's parts are gathered; the first one writes.
    """
    tensors = {f"objective.{name}": value for name, value in run.objective.state_dict().items()}
    tensors |= {f"features.{name}": value for name, value in run.front_end.state_dict().items()}
    for name, parameter in run.objective.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    path = checkpoint_path(run.out, step)
    _save(run, path, tensors, step, run.info)
    return path


def _save(run: Run, path: Path, tensors: dict[str, Tensor], step: int, info: dict[str, Any]) -> None:
    whole = {}
    for name, value in tensors.items():
        gathered = value.full_tensor() if isinstance(value, DTensor) else value
        if run.first_process:
            whole[name] = gathered.detach().cpu()  # one by one: the device never holds all of them whole
    if run.first_process:
        checkpoint.save(path, Checkpoint(whole, run.recipe.as_dict(), step, info))


def prune_checkpoints(recipe: Recipe) -> None:
    """Delete all but the first checkpoint (the random twin), the last `run.keep`, multiples of
    `run.keep_every`, and the one before the rate falls, from which the run can be extended."""
    run = recipe.run
    for path in checkpoint_paths(Path(run.out))[1 : -run.keep]:
        step = checkpoint_step(path)
        if step != recipe.optim.decay_start and not (run.keep_every and step % run.keep_every == 0):
            path.unlink()


def export_encoders(run: Run, step: int) -> Path:
    """All of a finished run's encoders; returns the file of the evaluated one, which comes last.

    All processes must call it.
    """
    for name, attribute in list(run.recipe.objective.encoders.items())[1:]:
        encoder = getattr(run.objective, attribute)
        export_encoder(run, encoder, step, encoder_file(name), {"encoder": name})
    return export_encoder(run, run.evaluated, step)


def export_encoder(
    run: Run, encoder: Encoder, step: int, file: str = ENCODER, more: Mapping[str, Any] = MappingProxyType({})
) -> Path:
    """An encoder with its front end, as one small file. All processes must call it.

    Args:
        more: entries of the file's info in addition to the run's.
    """
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    tensors |= {f"features.{name}": value for name, value in run.front_end.state_dict().items()}
    path = run.out / file
    _save(run, path, tensors, step, run.info | dict(more))
    return path


class BestEncoder:
    """best.safetensors: the encoder that scored best at the online probe, with its score.

    Scores of different probes are not compared: if a resumed run has another one, its first score is kept.
    """

    NAME = "best.safetensors"

    def __init__(self, out: Path, probe: ProbeConfig) -> None:
        path = out / self.NAME
        self.probe = asdict(probe) | {"every": None}  # when it looks does not matter
        self.score = -1.0
        if path.is_file():
            try:
                info = checkpoint.load(path, prefixes=()).info
                if info.get("probe_of", self.probe) == self.probe:
                    self.score = float(info["probe"])
            except (checkpoint.CheckpointError, KeyError, TypeError, ValueError):
                print(f"{path}: damaged, the next encoder takes its place", file=sys.stderr)

    def offer(self, score: float, run: Run, step: int) -> None:
        """Keep this step's encoder if none was better."""
        if score > self.score:
            self.score = score
            more = {"probe": score, "probe_of": self.probe}
            export_encoder(run, run.evaluated, step, self.NAME, more)
