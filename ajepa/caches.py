"""Folders of what can be made again: embeddings of scored models, fetched shards, s3prl's lists of files.

They are in `$XDG_CACHE_HOME/ajepa`, else in `~/.cache/ajepa`, and where there is no home directory that can
be written to, in a folder of this user among the temporary files. Embeddings are kept up to a limit, those
used last; shards up to `data.shard_cache_megabytes`.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ajepa import files
from ajepa.errors import AjepaError

KINDS = {
    "embeddings": "embeddings of scored models",
    "shards": "shards fetched from servers",
    "s3prl": "s3prl's lists of VoxCeleb1's files",
}
LIMIT = "limit.json"  # in the folder of the embeddings
LIMIT_GIGABYTES = 50.0
STARTED = time.time()
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)  # of what may be read and not changed


class CacheError(AjepaError, ValueError):
    """A cache cannot be used; the message names its folder and what to do."""


def cache_folder(kind: str) -> Path:
    """The folder of one of `KINDS`, which may not exist yet.

    Raises:
        CacheError: the folder among the temporary files belongs to another user.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # others are to be ignored, says the standard
        return base / "ajepa" / kind
    with suppress(RuntimeError):  # neither HOME nor an entry for this user
        home = Path("~/.cache").expanduser()
        if home.is_absolute() and files.can_write(home):
            return home / "ajepa" / kind
    return _temporary() / kind


def _temporary() -> Path:
    """A folder that only this user can write to."""
    folder = Path(tempfile.gettempdir(), f"ajepa-cache-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if status.st_uid != os.getuid() or folder.is_symlink() or status.st_mode & 0o022:
        raise CacheError(f"{folder}: belongs to another user; set XDG_CACHE_HOME to a folder for caches")
    return folder


class Entry(NamedTuple):
    """A file of a cache: its bytes, and when it was last used (seconds since 1970)."""

    path: Path
    size: int
    used: float


def entries(folder: Path) -> list[Entry]:
    """The files of a cache, the longest unused first, without locks and the limit."""
    found = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.suffix == ".lock" or path.name == LIMIT:
            continue
        with suppress(FileNotFoundError):  # removed by another process
            status = path.lstat()
            if not path.is_dir():
                found.append(Entry(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def limit_gigabytes(folder: Path) -> float:
    """How much embeddings may fill, as `set_limit` stored it.

    Raises:
        CacheError: the file of the limit is damaged.
    """
    path = folder / LIMIT
    if not path.is_file():
        return LIMIT_GIGABYTES
    try:
        value = json.loads(path.read_bytes())["gigabytes"]
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"gigabytes is {value!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheError(f"{path}: damaged ({error}); set it again with `ajepa cache limit`") from error
    return float(value)


def set_limit(folder: Path, gigabytes: float) -> None:
    """Store how much embeddings may fill."""
    if not 0 <= gigabytes < float("inf"):
        raise CacheError(f"the limit is {gigabytes} GB; give a number from 0")
    files.write_json(folder / LIMIT, {"gigabytes": gigabytes})


def used(path: Path) -> None:
    """Note that a file was used, so that others go first. Raises FileNotFoundError if it is gone."""
    try:
        os.utime(path)
    except OSError as error:  # of a cache that another user shares, which may be read and not changed
        if error.errno not in NOT_ALLOWED:
            raise


def make_room(folder: Path, suffix: str) -> None:
    """Remove the files longest unused until the others fit into the limit.

    Those that were used since this process began stay: in repeated passes over more than fits, each would go
    just before it is needed.

    Args:
        suffix: of the files that count.
    """
    limit = round(limit_gigabytes(folder) * 1e9)
    with FileLock(folder / "room.lock"):
        held = [entry for entry in entries(folder) if entry.path.name.endswith(suffix)]
        total, removed = sum(entry.size for entry in held), 0
        for entry in held:
            if total <= limit or entry.used >= STARTED:
                break
            entry.path.unlink(missing_ok=True)
            total, removed = total - entry.size, removed + entry.size
    if removed:
        print(
            f"note: {folder}: {removed / 1e9:.1f} GB of the longest unused files removed, to keep to "
            f"{limit / 1e9:g} GB; `ajepa cache limit` changes that",
            file=sys.stderr,
        )


def clear(folder: Path, older_than_seconds: float = 0.0) -> Iterator[Entry]:
    """Remove the files that nobody has used for so long, except those at work; yields what is removed."""
    files.remove_leftovers(folder)
    before = time.time() - older_than_seconds
    for entry in entries(folder):
        if entry.used > before and older_than_seconds:
            break
        if entry.path.name.startswith(".") or not _idle(folder, entry.path.name.partition(".")[0]):
            continue
        entry.path.unlink(missing_ok=True)
        yield entry
    for path in sorted(folder.rglob("*"), reverse=True):  # folders that are empty now, the innermost first
        with suppress(OSError):
            path.rmdir()


def _idle(folder: Path, name: str) -> bool:
    """Whether no process is at work on a file of this name."""
    lock = folder / f"{name}.lock"
    if not lock.is_file():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False
