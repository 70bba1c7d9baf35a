"""Processes, devices, sharding and compilation: the layout of an objective on the hardware."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from ajepa.memory import keep_freed_memory
from ajepa.nn.blocks import Attention
from ajepa.nn.decoder import WindowAttention
from ajepa.objectives.base import Objective
from ajepa.recipes import RecipeError
from ajepa.recipes.parts import RunConfig

from .fabric import DDPStrategy, Fabric, ModelParallelStrategy

# How long a process waits for the others before it gives up: longer than writing any checkpoint.
PATIENCE = timedelta(minutes=15)


def make_fabric(run: RunConfig) -> Fabric:
    """Fabric as the recipe says; under torchrun with its numbers of processes and nodes.

    Raises:
        RecipeError: there are no such devices, or FSDP is asked for with one process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        run = replace(run, devices=local, nodes=world // local)
    world = run.devices * run.nodes
    strategy: Any = "auto"
    if run.strategy == "fsdp":
        if world < 2:
            raise RecipeError(
                "run.strategy is fsdp, which shards a model: set run.devices or run.nodes above 1"
            )
        strategy = ModelParallelStrategy(
            shard, data_parallel_size=world, tensor_parallel_size=1, timeout=PATIENCE
        )
    elif world > 1:
        strategy = DDPStrategy(timeout=PATIENCE, gradient_as_bucket_view=True)
    try:
        return Fabric(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.nodes,
            strategy=strategy,
            precision=run.precision,
        )
    except (ValueError, RuntimeError) as error:
        raise RecipeError(
            f"run.accelerator {run.accelerator}, run.devices {run.devices}, run.nodes {run.nodes}: {error}"
        ) from error


def shard(objective: Objective, mesh: Any) -> Objective:
    """FSDP: every block is gathered when it is needed, and every network separately for the probe."""
    from torch.distributed.fsdp import fully_shard

    for network in objective.networks():
        blocks: Any = network.blocks
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


def lay_out(objective: Objective, run: RunConfig, device: torch.device) -> bool:
    """Prepare an objective's blocks for recipe and hardware, before Fabric wraps it.

    Returns:
        Whether the blocks are compiled.
    """
    if run.activation_checkpointing:
        checkpoint_activations(objective)
    if device.type == "cpu":
        keep_freed_memory()
        if run.precision == "bf16-mixed":
            plain_attention(objective)
    return compile_blocks(objective, run.compile, device)


def plain_attention(objective: nn.Module) -> None:
    """Attention by matrix products and a softmax instead of torch's fused kernel.

    In bfloat16 on a CPU the fused kernel is slower at all lengths of pre-training, above all in the backward
    pass: 8 times for windows of 16 tokens, 4 times for contexts of 128 (docs/performance.md).
    """
    for module in objective.modules():
        if isinstance(module, (Attention, WindowAttention)):
            module.fused = False


def checkpoint_activations(objective: Objective) -> None:
    """Let all trained networks compute their blocks' activations again in the backward pass."""
    networks: list[Any] = objective.networks()
    for network in networks:
        if any(p.requires_grad for p in network.parameters()):
            network.checkpoint_activations = True


def compile_blocks(objective: Objective, choice: str, device: torch.device) -> bool:
    """torch.compile for each Transformer block; returns whether it is on.

    Block by block: all blocks of a network share one compiled graph, so that it takes seconds and not
    minutes. "auto" compiles on CUDA devices; if the compiler does not work, this is reported and the blocks
    are not compiled. With "on" its error is raised.
    """
    if choice == "off" or (choice == "auto" and device.type != "cuda"):
        return False
    networks: list[Any] = objective.networks()
    blocks = [block for network in networks for block in network.blocks]
    if choice == "auto":
        try:
            _try_compiler(device)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(f"torch.compile does not work here, continuing without it: {reason}", file=sys.stderr)
            return False
    for block in blocks:
        block.compile(dynamic=False)
    return True


def _try_compiler(device: torch.device) -> None:
    """Compile, run and differentiate a small network, which fails without a compiler or Triton."""
    layer = torch.compile(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()).to(device))
    layer(torch.ones(2, 16, device=device)).sum().backward()
