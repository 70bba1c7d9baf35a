"""Pickles that toolkits write and read: only plain data are taken from them, so that none can run code."""

import io
import pickle
from collections import OrderedDict
from typing import IO, Any, NoReturn

from .errors import HarnessError


class _Plain(pickle.Unpickler):
    """Text, numbers and containers; every class and function is refused before it is imported."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise HarnessError(
            f"holds a pickled {module_name}.{global_name}, which could run code; only text, numbers and "
            "lists are read"
        )


class _Tensors(_Plain):
    """Tensors too, whose values are read as weights are."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        match module_name, global_name:
            case "torch._utils", "_rebuild_tensor_v2":
                from torch._utils import _rebuild_tensor_v2

                return _rebuild_tensor_v2
            case "torch.storage", "_load_from_bytes":
                return _load_storage
            case "collections", "OrderedDict":
                return OrderedDict
        return super().find_class(module_name, global_name)


def _load_storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), weights_only=True)


def load_plain(file: IO[bytes]) -> Any:
    """The content of an open pickle file: text, numbers and containers.

    Raises:
        HarnessError: the file is damaged, or holds more than plain data.
    """
    return _loaded(_Plain, file)


def load_tensors(file: IO[bytes]) -> Any:
    """The content of an open pickle file: text, numbers, containers and tensors.

    Raises:
        HarnessError: the file is damaged, or holds more than these.
    """
    return _loaded(_Tensors, file)


def _loaded(reader: type[_Plain], file: IO[bytes]) -> Any:
    name = getattr(file, "name", "a pickle")
    try:
        return reader(file).load()
    except HarnessError as error:
        raise HarnessError(f"{name}: {error}; make it again with the toolkit") from None
    except Exception as error:  # of a damaged pickle: any of Python's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HarnessError(
            f"{name}: no readable pickle ({reason}); make it again with the toolkit"
        ) from error
