"""Files that appear whole or not at all, in places that were looked at before the work."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ajepa.errors import AjepaError


class PlaceError(AjepaError, ValueError):
    """A file cannot be written where it was asked for; the message names the option and the place."""


def check_place(path: Path, option: str) -> None:
    """Look whether a file can be written at `path`: told before hours of work, not after.

    Args:
        path: of the file; folders above it may be missing still.
        option: that named it, such as "--out", for the message.

    Raises:
        PlaceError: a folder stands there, or nothing can be written where it would stand.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PlaceError(
            f"{option} {path}: cannot be written; name a file in a folder that can be written to"
        )


def own_partial(path: Path, kind: str = "partial") -> Path:
    """A hidden name beside `path`, this process's own: another machine may write the same shared folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


@contextmanager
def in_place_of(path: Path, kind: str = "partial") -> Iterator[Path]:
    """A file to write that takes the place of `path` once the region ends without an error.

    Whoever looks sees the old file or the whole new one. Folders above it are made.

    Args:
        kind: how the file's name ends while it is written, for writers that look at it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = own_partial(path, kind)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # gone already if all went well


def write(path: Path, content: str | bytes) -> None:
    """Write text, in UTF-8, or bytes; see `in_place_of`."""
    with in_place_of(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: object) -> None:
    """`content` as JSON."""
    write(path, json.dumps(content, indent=1) + "\n")
