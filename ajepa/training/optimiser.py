"""The optimiser and its schedules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ajepa.recipes.parts import OptimConfig
from ajepa.schedules import cosine


def make_optimizer(objective: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW in two groups: no weight decay on biases, norms and other 1-D parameters."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "decays": True},
        {"params": [p for p in trained if p.ndim <= 1], "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)


def set_schedules(optimizer: Any, optim: OptimConfig, step: int) -> float:
    """Set this step's learning rate and weight decay; returns the rate."""
    rate, decay = optim.rate(step), cosine(step, optim.scheduled, *optim.weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = rate
        if group["decays"]:
            group["weight_decay"] = decay
    return rate
