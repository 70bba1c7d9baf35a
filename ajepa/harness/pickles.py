"""Pickles that toolkits write and read: only plain data are taken from them, so that none can run code."""

import pickle
from typing import IO, Any, NoReturn

from .errors import HarnessError


class _Plain(pickle.Unpickler):
    """Text, numbers and containers; every class and function is refused before it is imported."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise HarnessError(
            f"holds a pickled {module_name}.{global_name}, which could run code; only text, numbers and "
            "lists are read"
        )


def load_plain(file: IO[bytes]) -> Any:
    """The content of an open pickle file.

    Raises:
        HarnessError: the file is damaged, or holds more than plain data.
    """
    name = getattr(file, "name", "a pickle")
    try:
        return _Plain(file).load()
    except HarnessError as error:
        raise HarnessError(f"{name}: {error}; make it again with the toolkit") from None
    except Exception as error:  # of a damaged pickle: any of Python's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HarnessError(
            f"{name}: no readable pickle ({reason}); make it again with the toolkit"
        ) from error
