"""A second encoder that follows the first: its moving average, the teacher of joint-embedding methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the average: theta' <- m theta' + (1 - m) theta, parameters only.

    Raises:
        RuntimeError: the parameters of the two modules differ in their names.
    """
    targets, sources = (dict(module.named_parameters()) for module in (average, model))
    if targets.keys() != sources.keys():
        raise RuntimeError(f"target encoder and encoder differ in {sorted(targets.keys() ^ sources.keys())}")
    torch._foreach_lerp_(
        [_local_part(p) for p in targets.values()],
        [_local_part(p) for p in sources.values()],
        1.0 - momentum,
    )


@torch.no_grad()
def parameter_gap(one: nn.Module, other: nn.Module) -> float:
    """Distance of two models' parameters relative to the norm of the first's; 0 for equal ones."""
    ours, theirs = ([_whole(p) for p in module.parameters()] for module in (one, other))
    difference = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs)))
    return float(difference.norm() / torch.stack(torch._foreach_norm(ours)).norm().clamp_min(1e-12))


def _local_part(parameter: Tensor) -> Tensor:
    """This process's part of a parameter that FSDP shards; else the parameter itself."""
    shared: Any = parameter
    return shared.to_local() if hasattr(shared, "to_local") else parameter


def _whole(parameter: Tensor) -> Tensor:
    """A parameter that FSDP shards, gathered from all processes; else the parameter itself."""
    shared: Any = parameter
    return shared.full_tensor() if hasattr(shared, "full_tensor") else parameter
