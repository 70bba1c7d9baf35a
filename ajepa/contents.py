"""What a file holds: JSON, YAML and arrays, read with errors that name the file, and checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ajepa.errors import AjepaError

if TYPE_CHECKING:
    import numpy as np


class ArrayError(AjepaError, ValueError):
    """A file is no array of numbers; the message names it."""


def read_array(path: Path) -> np.ndarray:
    """An array of floating-point numbers from an NPY file, never a pickle.

    Raises:
        ArrayError: the file is damaged or holds something else.
        FileNotFoundError: there is no such file.
    """
    import numpy as np

    try:
        # Mapped first: nothing is allocated by what the header says.
        array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise
    except Exception as error:  # of a damaged header: any of Python's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArrayError(f"{path}: no readable array ({reason})") from error
    if array.dtype.kind != "f":
        raise ArrayError(f"{path}: an array of {array.dtype}, not of floating-point numbers")
    return array


class ContentError(AjepaError, ValueError):
    """A file does not hold what its name promises; the message names the file and what is wrong."""


def read_json(path: Path, needed: Sequence[str] = ()) -> Any:
    """The content of a JSON file; with `needed` a mapping that has these keys.

    Raises:
        ContentError: it is not there, is damaged, or lacks a key.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ContentError(f"{path}: not readable as JSON ({' '.join(str(error).split())})") from error
    if needed:
        lacking = [key for key in needed if not isinstance(content, dict) or key not in content]
        if lacking:
            raise ContentError(f"{path}: lacks {', '.join(lacking)}")
    return content


MOST_VALUES = 100_000


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ContentError: it is not there, is damaged, has the same key twice, or has more than `MOST_VALUES`
            values: anchors that multiply can make any number of them from a few lines.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice: YAML's own loader keeps the last value and says nothing."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[Any, int] = {}
            for key, _ in node.value:
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if not isinstance(key.value, str):  # a list, say: refused later, and its text may be endless
                    continue
                if name in lines:
                    where = f"lines {lines[name]} and {line}" if line != lines[name] else f"line {line}"
                    raise ContentError(f"{path}: {where}: the key {key.value} is given twice; remove one")
                lines[name] = line
            return node

    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader)  # a SafeLoader
    except ContentError:
        raise
    except Exception as error:  # of a wrong tag, for example: any of Python's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ContentError(f"{path}: not readable as YAML ({reason})") from error
    waiting, seen = [content], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise ContentError(f"{path}: more than {MOST_VALUES:,} values; take its anchors out")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
    return content


def file_sha256(path: Path) -> str:
    """The checksum of a file's bytes."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """The checksum of the bytes from a file's position to its end."""
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
