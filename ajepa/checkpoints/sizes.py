"""What a file's recipe says of sizes, against its tensors: before anything of that size is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ajepa.nn.encoder import EncoderConfig

from .native import CheckpointError


def check_sizes(
    path: Path, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]], prefix: str
) -> None:
    """Compare the settings of an encoder with the shapes of its tensors, which start with `prefix`.

    Raises:
        CheckpointError: a tensor is missing or has another shape; the first one is named.
    """
    width, depth, _ = config.dimensions
    expected = {
        "norm.weight": (width,),
        "patch_embed.weight": (width, config.patch[0] * config.patch[1]),
        "blocks.0.mlp.fc1.weight": (int(width * config.mlp_ratio), width),
    }
    if config.table is not None:
        expected["position_table.table"] = (config.table.time * config.table.freq, width)
    for name, shape in expected.items():
        found = shapes.get(prefix + name)
        if found != shape:
            has = "is not in the file" if found is None else f"has the shape {list(found)}"
            raise CheckpointError(f"{path}: {prefix}{name} {has}, its recipe needs {list(shape)}")
    start = f"{prefix}blocks."
    blocks = {name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)}
    if len(blocks) != depth:
        raise CheckpointError(f"{path}: has {len(blocks)} blocks, its recipe needs {depth} (encoder.depth)")


def check_network(path: Path, objective: object, part: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the settings of an objective's decoder or predictor with its tensors' shapes, if it has one.

    Raises CheckpointError.
    """
    config = getattr(objective, part, None)
    if config is None:
        return
    start = f"objective.{part}."
    width = shapes.get(f"{start}mask_token", (0,))[-1]
    blocks = {
        name.removeprefix(f"{start}blocks.").split(".")[0]
        for name in shapes
        if name.startswith(f"{start}blocks.")
    }
    if (width, len(blocks)) != (config.width, config.depth):
        raise CheckpointError(
            f"{path}: its {part} has {len(blocks)} blocks of width {width}, its recipe needs "
            f"{config.depth} of {config.width} (objective.{part})"
        )


LARGEST = 1e6  # no trained weight comes near it; embeddings would not be finite


def check_finite(path: Path, tensors: Mapping[str, Tensor], largest: float = LARGEST) -> None:
    """Raises CheckpointError for a tensor with NaN, infinity or a weight beyond `largest`."""
    for name, tensor in tensors.items():
        if tensor.numel() and not tensor.abs().max() <= largest:  # NaN is neither
            extreme = f"weights beyond {largest:g}" if tensor.isfinite().all() else "NaN or infinite weights"
            raise CheckpointError(f"{path}: {name} has {extreme}; take an earlier checkpoint")
