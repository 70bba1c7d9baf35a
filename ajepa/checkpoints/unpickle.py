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


ZIP = b"PK\x03\x04"  # the format of torch.save since 2020
OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which the format before begins


def is_torch_file(path: Path) -> bool:
    """Whether the file starts like one of torch.save."""
    with path.open("rb") as file:
        return file.read(len(OLD)).startswith((ZIP, OLD))


def load_torch(path: Path) -> Any:
    """The object in a torch file, on the CPU, its tensors mapped from the file.

    Raises:
        UnpickleError: the file holds a pickled class other than tensors, containers and `ALLOWED`, or is
            damaged.
    """
    remedy = "load it where you trust it and save only its state dict"
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
        if is_zip:
            _check_stored(path)
        # The old format has no list of its classes: the restricted unpickler refuses the first foreign one.
        foreign = set(get_unsafe_globals_in_checkpoint(path)) - set(ALLOWED) if is_zip else set()
        if foreign:
            raise UnpickleError(
                f"{path}: holds pickled objects of {', '.join(sorted(foreign))}, which could run code; only "
                f"tensors, plain containers and {', '.join(ALLOWED)} are read; {remedy}"
            )
        with safe_globals([(value, name) for name, value in ALLOWED.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise UnpickleError(
            f"{path}: not read ({(str(error) or 'damaged').splitlines()[0]}); {remedy}"
        ) from error
    except UnpickleError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # of a damaged pickle: any of Python's
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnpickleError(f"{path}: a damaged torch file ({reason}); is the copy complete?") from error


def _check_stored(path: Path) -> None:
    """Raises UnpickleError for a compressed file, which torch never writes: it may grow to any size."""
    with zipfile.ZipFile(path) as file:
        if compressed := [one.filename for one in file.infolist() if one.compress_type != zipfile.ZIP_STORED]:
            raise UnpickleError(f"{path}: {compressed[0]} in it is compressed; save it again with torch.save")
