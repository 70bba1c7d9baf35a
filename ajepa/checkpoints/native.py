"""Checkpoints: one safetensors file with weights, and in its header the recipe, the step and the format."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ajepa.errors import AjepaError
from ajepa.files import PlaceError, in_place_of

FORMAT = "ajepa-1"
FLOATS = ("F32", "BF16", "F16", "F64")


class CheckpointError(AjepaError, ValueError):
    """A file is not a checkpoint that this version can read; the message names the file and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file.

    Attributes:
        tensors: name to tensor, on the CPU.
        recipe: the full recipe as nested dictionaries.
        step: optimiser steps done.
        info: such as package version, git commit and data fingerprint.
        shapes: of all tensors in the file by name, read or not; empty before it is written.
        checksum: of all tensors, as the file says it.
    """

    tensors: dict[str, Tensor]
    recipe: dict[str, Any]
    step: int
    info: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    checksum: str = ""


def save(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write atomically: readers of `path` see the old file or the whole new one.

    Raises:
        CheckpointError: the disk is full or the folder is not writable; an older file is not changed.
    """
    path = Path(path)
    header = {
        "format": "pt",  # by which transformers knows that these are torch's tensors
        "ajepa_format": FORMAT,
        "recipe": json.dumps(checkpoint.recipe),
        "step": str(checkpoint.step),
        "info": json.dumps(checkpoint.info),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header["checksum"] = _checksum(tensors)
    try:
        with in_place_of(path) as partial:
            save_file(tensors, partial, metadata=header)
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # on the disk before it replaces the old file
    except PlaceError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}); free space or choose another folder"
        ) from error
    return path


def verify(path: Path) -> None:
    """Compare all tensors with the checksum that was written with them; files of version 0.3 have none.

    Raises:
        CheckpointError: the file is damaged.
    """
    saved = load(path)
    if saved.checksum and saved.checksum != _checksum(saved.tensors):
        raise CheckpointError(f"{path}: its weights do not match their checksum; the file is damaged")


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the tensors' names and bytes: against damage, not against forgery."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        if tensors[name].numel():
            total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return f"crc32:{total:08x}"


def load(path: str | Path, prefixes: tuple[str, ...] = ("",)) -> Checkpoint:
    """Read the header and the tensors whose names start with one of `prefixes`; () reads none.

    Raises:
        CheckpointError: not a safetensors file, not one of ours, or of a format this version cannot read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            found = header.get("ajepa_format") or header.get("format", "no format entry")  # until 0.3
            if found != FORMAT:
                raise CheckpointError(
                    f"{path}: {found} in its header, expected {FORMAT}; not a checkpoint of ajepa"
                )
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            for name, part in slices.items():
                if part.get_dtype() not in FLOATS:
                    raise CheckpointError(f"{path}: {name} is of type {part.get_dtype()}, must be a float")
            tensors = {name: file.get_tensor(name) for name in shapes if name.startswith(prefixes)}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); is the copy complete?"
        ) from error
    recipe, step, info = (_entry(path, header, key) for key in ("recipe", "step", "info"))
    if not isinstance(recipe, dict) or not isinstance(info, dict) or type(step) is not int or step < 0:
        raise CheckpointError(
            f"{path}: recipe and info in its header must be mappings, step a whole number; not a checkpoint "
            "of ajepa"
        )
    return Checkpoint(tensors, recipe, step, info, shapes, header.get("checksum", ""))


def _entry(path: Path, header: dict[str, str], key: str) -> Any:
    if key not in header:
        raise CheckpointError(f"{path}: no {key} in its header; not a checkpoint of ajepa")
    try:
        return json.loads(header[key])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {key} in its header is no JSON ({error})") from error
