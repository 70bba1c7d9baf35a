"""Continuing a run: weights and the optimiser's state from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ajepa.checkpoints import native as checkpoint


def restore_weights(path: Path, objective: nn.Module) -> int:
    """Restore the weights in place, before FSDP shards them; returns the step."""
    saved = checkpoint.load(path, prefixes=("objective.",))
    objective.load_state_dict({k.removeprefix("objective."): v for k, v in saved.tensors.items()})
    return saved.step


def restore_optimizer(path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimiser's state on the parameters' devices; each process restores its part."""
    saved = checkpoint.load(path, prefixes=("optimizer.",)).tensors
    for name, parameter in objective.named_parameters():
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = saved.get(f"optimizer.{key}.{name}")
            if value is None:
                continue
            value = value.to(parameter.device)
            if isinstance(parameter, DTensor) and value.ndim:
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            state[key] = value
        if state:
            optimizer.state[parameter] = state
