"""Files and folders that appear whole or not at all, in places that are checked before the work."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ajepa.errors import AjepaError

REPLACED = "replaced"  # the kind of a folder that is moved aside while a new one takes its place
ABANDONED_SECONDS = 86_400  # without a change, where a lock says nothing
# The name of a file while it is written: that of the file and the machine, the process, and a kind.
_LEFTOVER = re.compile(r"\.ajepa\.(.+)\.\d+\.([a-z0-9]+)")
_LONGEST_NAME = 120  # bytes of a file's name that are in the name of its partial one, which may have 255


class PlaceError(AjepaError, ValueError):
    """A file cannot be written to the given place; the message names the option and the place."""


def can_write(folder: Path) -> bool:
    """Whether files can be made in this folder, given as an absolute path; it need not exist yet."""
    try:
        existing = next(one for one in (folder, *folder.parents) if one.exists())
    except PermissionError:  # in a folder that this user must not look into
        return False
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def check_place(path: Path, option: str) -> None:
    """Check that a file can be written to `path`: fail before hours of work, not after.

    Args:
        path: the file; its folders need not exist yet.
        option: the option that named it, such as "--out", for the message.

    Raises:
        PlaceError: `path` is a folder, or its place is not writable.
    """
    if not can_write(path.absolute().parent) or path.is_dir():
        raise PlaceError(
            f"{option} {path}: cannot be written; name a file in a folder that can be written to"
        )


def check_folder(path: Path, option: str) -> None:
    """Check that files can be written into the folder `path`, which need not exist yet.

    Raises:
        PlaceError: it is a file, or its place is not writable.
    """
    if not can_write(path.absolute()):
        raise PlaceError(f"{option} {path}: cannot be written to; name a folder that can")


def check_utf8(path: str | Path, option: str) -> None:
    """Check a name that recipes, Parquet or TensorBoard will have to hold.

    Raises:
        PlaceError: its bytes are no UTF-8.
    """
    if (name := printable(path)) != str(path):
        raise PlaceError(f"{option} {name}: this name is not UTF-8; rename it or choose another")


def expanded(path: str | Path) -> Path:
    """A path that may begin with `~`. Raises PlaceError where no home directory is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PlaceError(f"{path}: no home directory is known here; write the path in full") from error


@contextmanager
def own_partial(path: Path, kind: str = "partial", *, folder: bool = False) -> Iterator[Path]:
    """A hidden file or folder next to `path` for this process alone, locked, and removed at the end.

    What killed processes left of the same `path` is removed first. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    partial = path.with_name(f".ajepa.{_short(path.name)}.{socket.gethostname()}.{os.getpid()}.{kind}")
    with _locked(partial, folder):
        try:
            yield partial
        finally:
            _remove(partial)  # gone already after a success


def _short(name: str) -> str:
    """A file's name, or its beginning and a hash if the partial one's name would be too long."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST_NAME:
        return name
    beginning = content[: _LONGEST_NAME - 13].decode(errors="ignore")
    return f"{beginning}-{hashlib.sha256(content).hexdigest()[:12]}"


@contextmanager
def _locked(path: Path, folder: bool) -> Iterator[None]:
    """A new file or folder whose lock this process holds, unless the file system has none."""
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        else:
            path.touch()
        try:
            handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        except FileNotFoundError:  # another process took it for a leftover
            continue
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what killed processes left unfinished in a folder.

    What a process still writes is locked by it. Locks of another machine may not be seen here: what it has
    begun is removed after a day without a change. A folder that was moved aside and not replaced is put back.

    Args:
        name: of one file; empty: of all.
    """
    here, wanted = f".{socket.gethostname()}", _short(name)
    try:
        paths = list(folder.iterdir())
    except OSError:  # no such folder, or one that may be written to and not listed
        return
    for path in paths:
        if (found := _LEFTOVER.fullmatch(path.name)) is None:
            continue
        ours = found[1].endswith(here)
        if name and not (found[1] == wanted + here if ours else found[1].startswith(f"{wanted}.")):
            continue
        with suppress(OSError):  # such as of one that another process removes at the same time
            old = time.time() - path.stat().st_mtime > ABANDONED_SECONDS
            original = folder / (name or found[1].removesuffix(here))
            _remove_unlocked(path, old, ours, original if found[2] == REPLACED else None)


def _remove_unlocked(path: Path, old: bool, ours: bool, original: Path | None) -> None:
    """Remove a leftover; put it back where it is the only copy of `original`."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks
            ours = False
        if old or ours:
            if original and not original.exists() and any(path.iterdir()):
                path.rename(original)
            else:
                _remove(path)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, reason: object, remedy: str) -> None:
    """Rename a damaged file that is not needed, and say so: it must not block what can be done without it."""
    aside = path.with_name(f"{path.name}.damaged")
    with suppress(FileNotFoundError):  # another process was faster
        path.replace(aside)
    why = " ".join(str(reason).split()).removeprefix(f"{path}: ")
    print(f"{path}: damaged ({why}); set aside as {aside.name}; {remedy}", file=sys.stderr, flush=True)


# Libraries whose errors in writing say neither the file nor, some of them, the reason.
_WRITERS = frozenset({"safetensors", "safetensors_rust", "soundfile"})


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a failed write, such as on a full disk, say which file or folder it was.

    Raises:
        PlaceError: instead of an error of safetensors or libsndfile.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise type(error)(error.errno, error.strerror or "", str(path)) from error
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _WRITERS:
            raise
        reason = " ".join(str(error).split())
        raise PlaceError(
            f"{path}: cannot be written ({reason}); free space or choose another folder"
        ) from error


@contextmanager
def in_place_of(path: Path, kind: str = "partial") -> Iterator[Path]:
    """A file to write that replaces `path` when the context exits without an error.

    Readers see the old file or the whole new one. Missing folders are made.

    Args:
        kind: suffix of the name while it is written, for writers that look at it.
    """
    with own_partial(path, kind) as partial, naming(path):
        yield partial
        partial.replace(path)


@contextmanager
def folder_in_place_of(folder: Path) -> Iterator[Path]:
    """A new folder to fill that replaces `folder` when the context exits without an error."""
    folder = folder.resolve()
    with (
        own_partial(folder, folder=True) as partial,
        own_partial(folder, REPLACED, folder=True) as replaced,
    ):
        with naming(folder):
            yield partial
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)


def printable(name: object) -> str:
    """A path or name as text that can be stored and shown: bytes that are not UTF-8 become escapes."""
    return str(name).encode(errors="backslashreplace").decode()


def not_utf8(error: UnicodeEncodeError) -> str:
    """What to say of a path whose bytes are no text, where only text can be stored."""
    line = error.object[error.object.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
    return f"{printable(line)[:300]}: not UTF-8; rename the file or folder"


def write(path: Path, content: str | bytes) -> None:
    """Write text, in UTF-8, or bytes; see `in_place_of`."""
    with in_place_of(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: object) -> None:
    """`content` as JSON."""
    write(path, json.dumps(content, indent=1) + "\n")
