"""Files and folders that appear whole or not at all, in places that are checked before the work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ajepa.errors import AjepaError


class PlaceError(AjepaError, ValueError):
    """A file cannot be written to the given place; the message names the option and the place."""


def check_place(path: Path, option: str) -> None:
    """Check that a file can be written to `path`: fail before hours of work, not after.

    Args:
        path: the file; its folders need not exist yet.
        option: the option that named it, such as "--out", for the message.

    Raises:
        PlaceError: `path` is a folder, or its place is not writable.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PlaceError(
            f"{option} {path}: cannot be written; name a file in a folder that can be written to"
        )


def own_partial(path: Path, kind: str = "partial") -> Path:
    """A hidden name next to `path` for this process alone: other machines may write to the same folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a failed write, such as on a full disk, say which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise type(error)(error.errno, error.strerror or "", str(path)) from error
        raise


@contextmanager
def in_place_of(path: Path, kind: str = "partial") -> Iterator[Path]:
    """A file to write that replaces `path` when the context exits without an error.

    Readers see the old file or the whole new one. Missing folders are made.

    Args:
        kind: suffix of the name while it is written, for writers that look at it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = own_partial(path, kind)
    try:
        with naming(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # gone already after a success


@contextmanager
def folder_in_place_of(folder: Path) -> Iterator[Path]:
    """A new folder to fill that replaces `folder` when the context exits without an error."""
    folder = folder.resolve()
    partial, replaced = own_partial(folder), own_partial(folder, "replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already after a success


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


def write(path: Path, content: str | bytes) -> None:
    """Write text, in UTF-8, or bytes; see `in_place_of`."""
    with in_place_of(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: object) -> None:
    """`content` as JSON."""
    write(path, json.dumps(content, indent=1) + "\n")
