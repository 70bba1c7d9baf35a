"""Torch files of other projects, read without running pickled code."""

from __future__ import annotations

import pickle
import zipfile
from argparse import Namespace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ajepa.errors import AjepaError

# Audio-MAE stores its options (a Namespace), which may contain a path. Neither runs code.
ALLOWED = {"argparse.Namespace": Namespace, "pathlib.PosixPath": PurePosixPath}


class UnpickleError(AjepaError, ValueError):
    """A torch file cannot be read safely; the message names the file and the remedy."""


def is_torch_file(path: Path) -> bool:
    """Whether the file starts like a zip archive, the format of torch.save since 2020."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load_torch(path: Path) -> Any:
    """The object in a torch file, on the CPU, its tensors mapped from the file.

    Raises:
        UnpickleError: the file holds a pickled class other than tensors, containers and `ALLOWED`, or is
            damaged.
    """
    remedy = "load it where you trust it and save only its state dict"
    try:
        foreign = set(get_unsafe_globals_in_checkpoint(path)) - set(ALLOWED)
        if foreign:
            raise UnpickleError(
                f"{path}: holds pickled objects of {', '.join(sorted(foreign))}, which could run code; only "
                f"tensors, plain containers and {', '.join(ALLOWED)} are read; {remedy}"
            )
        with safe_globals([(value, name) for name, value in ALLOWED.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnpickleError(f"{path}: not read ({str(error).splitlines()[0]}); {remedy}") from error
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, UnpickleError):
            raise
        raise UnpickleError(f"{path}: a damaged torch file ({error}); is the copy complete?") from error
