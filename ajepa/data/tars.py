"""An index for tars from elsewhere, such as WebDataset shards."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ajepa.audio import AUDIO_SUFFIXES, AudioBytes, AudioError, info
from ajepa.contents import file_sha256
from ajepa.files import printable

from .clips import DataError
from .shards import SCHEMA, Listing, Shard, is_shard_name, write_index


def index_tars(folder: Path, *, workers: int = 1, skip_broken: bool = False) -> Listing:
    """Write the index of the tars in a folder (not in its subfolders), in the order of their names.

    Audio is recognised by its suffix; every header is read for the length.

    Raises:
        DataError: there are no tars, one is compressed or damaged, or it has a member that is refused: a
            link, a device, or a name that is absolute or leads out of the tar (`..`).
        AudioError: a clip cannot be used and `skip_broken` is off.
    """
    paths = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))  # macOS's ._a.tar
    for path in paths:
        if not is_shard_name(path.name):
            raise DataError(f"{str(path)!r}: a tar cannot be used under this name; rename it")
    compressed = sorted(path.name for ending in ("*.tar.*", "*.tgz") for path in folder.glob(ending))
    if compressed:
        raise DataError(
            f"{folder}: {compressed[0]} is compressed ({len(compressed)} such files); unpack the compression "
            "(gunzip, unzstd), or move them away"
        )
    if not paths:
        raise DataError(f"{folder}: no .tar files here")
    with ThreadPoolExecutor(workers) as pool:
        indexed = list(pool.map(partial(_index_tar, skip_broken=skip_broken), paths))
    kept = [(shard, rows) for shard, rows in indexed if rows]
    if not kept:
        raise DataError(
            f"{folder}: no audio in its {len(paths)} tars (looked for {' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    rows = [{"shard": place} | row for place, (_, rows) in enumerate(kept) for row in rows]
    return write_index(folder, [shard for shard, _ in kept], pa.Table.from_pylist(rows, SCHEMA))


def audio_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The audio files in a tar. Raises DataError for a damaged tar and for a member that is refused."""
    try:
        with tarfile.open(path, "r:") as tar:
            size = path.stat().st_size
            for member in tar:
                _refuse_unsafe(path, member)
                if not 0 <= member.size <= size - member.offset_data:
                    raise tarfile.ReadError(
                        f"member {member.name} has {member.size} bytes, more than are left"
                    )
                name = PurePosixPath(member.name)
                is_audio = name.suffix.lower() in AUDIO_SUFFIXES and not name.name.startswith(".")
                if member.isreg() and is_audio:
                    yield member
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not readable as an uncompressed tar ({error}); copy it or make it again"
        ) from error


def _refuse_unsafe(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        problem = "its name leads out of the tar"
    elif not (member.isdir() or member.isreg()) or member.issparse():
        problem = "it is a link, a device or a sparse file"
    elif printable(member.name) != member.name:
        problem = "its name is not UTF-8"
    else:
        return
    raise DataError(f"{path}: member {member.name!r} is refused: {problem}; make the tar again without it")


def _index_tar(path: Path, skip_broken: bool) -> tuple[Shard, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for member in audio_members(path):
            offset = member.offset_data

            def read(first: int, count: int, offset: int = offset) -> bytes:
                file.seek(offset + first)
                return file.read(count)

            try:
                seconds = info(AudioBytes(f"{path}/{member.name}", member.size, read)).seconds
            except AudioError as error:
                if not skip_broken:
                    raise
                print(f"left out: {error}", file=sys.stderr)
                continue
            rows.append({"name": member.name, "offset": offset, "size": member.size, "seconds": seconds})
    seconds = sum(row["seconds"] for row in rows)
    return Shard(path.name, path.stat().st_size, file_sha256(path), len(rows), seconds), rows
