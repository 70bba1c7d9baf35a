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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ajepa.errors import AjepaError

if TYPE_CHECKING:
    import numpy as np

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


def printable(name: object) -> str:
    """A path or name as text that can be stored and shown: bytes that are not UTF-8 become escapes."""
    return str(name).encode(errors="backslashreplace").decode()


def not_utf8(error: UnicodeEncodeError) -> str:
    """What to say of a path whose bytes are no text, where only text can be stored."""
    line = error.object[error.object.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
    return f"{printable(line)[:300]}: not UTF-8; rename the file or folder"


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
