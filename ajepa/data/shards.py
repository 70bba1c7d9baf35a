"""Tar shards with an index next to them: a clip is read by its position, nothing is unpacked.

A folder of shards holds
    shard-000000.tar ...   WebDataset tars; tars from elsewhere may have other names
    index.parquet          one row a clip: shard, name, offset, size (bytes), seconds
    shards.json            for each shard its name, size, sha256, clips and seconds; written last
The webdataset library reads the tars without the index.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from ajepa import contents, files
from ajepa.audio import AudioBytes

from .clips import Clip, DataError

LISTING, INDEX = "shards.json", "index.parquet"
VERSION = 1
SCHEMA = pa.schema(
    {
        "shard": pa.int32(),
        "name": pa.large_string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "seconds": pa.float64(),
    }
)
MAKE_AGAIN = "make the index again with `ajepa data index`"
# A listing may come from a server, and its names become file names on this machine: none is hidden or leads
# elsewhere.
_PLAIN_NAME = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_shard_name(name: str) -> bool:
    """Whether a tar of this name can be indexed and used: the one rule of both."""
    try:
        return _PLAIN_NAME.fullmatch(name) is not None and len(name.encode()) < 256
    except UnicodeEncodeError:  # a name that is not UTF-8
        return False


@dataclass(frozen=True)
class Shard:
    """One tar: `size` in bytes; `clips` clips that last `seconds` in total."""

    name: str
    size: int
    sha256: str
    clips: int
    seconds: float


@dataclass(frozen=True)
class Listing:
    """The contents of shards.json; `made_from` has the source and options of `ajepa data shard`, if any."""

    shards: tuple[Shard, ...]
    index_sha256: str
    made_from: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.index_sha256.encode())
        for shard in self.shards:
            digest.update(f"{shard.sha256}\n".encode())
        return {"files": sum(shard.clips for shard in self.shards), "sha256": digest.hexdigest()}


class Shards:
    """The clips of a folder of shards.

    Args:
        listing: from `parse_listing`.
        index: the path of index.parquet.
        locate: gives a shard's path on this machine; called when one of its clips is read.
        window: shards that the order of draws mixes at a time (`StepSampler`); part of the fingerprint, and
            about the number of shards held open.

    Raises DataError if index and listing disagree.
    """

    def __init__(
        self, listing: Listing, index: Path, locate: Callable[[Shard], Path], window: int = 8
    ) -> None:
        self.listing, self.window = listing, window
        self.shard_sizes: tuple[int, ...] = tuple(shard.clips for shard in listing.shards)
        self._starts = [0, *accumulate(self.shard_sizes)]
        table = read_index(index, listing)
        self._names = table["name"]
        self._shard, self._offset, self._size, self._seconds = (
            table[name].to_numpy() for name in ("shard", "offset", "size", "seconds")
        )
        self._locate = locate
        self._hold_open()

    def _hold_open(self) -> None:
        self._open = lru_cache(maxsize=self.window + 1)(partial(_opened, self._locate))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._hold_open()  # each process opens its own

    def __len__(self) -> int:
        return len(self._names)

    def clip(self, index: int) -> Clip:
        shard = self.listing.shards[self._shard[index]]
        name = f"{shard.name}/{self._names[index].as_py()}"
        read = partial(self._read, shard, int(self._offset[index]))
        return Clip(name, AudioBytes(name, int(self._size[index]), read), seconds=float(self._seconds[index]))

    def siblings(self, index: int) -> range:
        shard = self._shard[index]
        return range(self._starts[shard], self._starts[shard + 1])

    def seconds(self) -> np.ndarray:
        return self._seconds

    def fingerprint(self) -> dict[str, Any]:
        return self.listing.fingerprint() | {"shard_window": self.window}

    def _read(self, shard: Shard, member: int, offset: int, count: int) -> bytes:
        data = self._open(shard).read(member + offset, count)
        if len(data) != count:
            raise DataError(f"{shard.name}: ends before byte {member + offset + count}; {MAKE_AGAIN}")
        return data


def open_folder(folder: Path, window: int = 8) -> Shards:
    """Shards on a disk of this machine.

    Raises DataError for a missing or unreadable index and for a shard that is missing or of another size.
    """
    path = folder / LISTING
    try:
        listing = parse_listing(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); {MAKE_AGAIN}") from error
    for shard in listing.shards:
        file = folder / shard.name
        size = file.stat().st_size if file.is_file() else None
        if size != shard.size:
            found = "is missing" if size is None else f"has {size} bytes, the index says {shard.size}"
            raise DataError(f"{file}: {found}; copy it again, or {MAKE_AGAIN}")
    return Shards(listing, folder / INDEX, partial(_in_folder, folder), window)


def _in_folder(folder: Path, shard: Shard) -> Path:
    return folder / shard.name


def parse_listing(text: str, name: str) -> Listing:
    """The contents of a shards.json, checked; `name` is for messages."""
    try:
        values = json.loads(text)
        if values["format"] != "ajepa shards" or values["version"] != VERSION:
            raise DataError(
                f"{name}: is {values['format']!r} of version {values['version']!r}, "
                f"this release reads version {VERSION} of 'ajepa shards'; {MAKE_AGAIN}"
            )
        shards = tuple(
            Shard(**{field.name: shard[field.name] for field in fields(Shard)}) for shard in values["shards"]
        )
        listing = Listing(shards, values["index_sha256"], values["made_from"])
        right = all(is_shard_name(s.name) and _SHA256.fullmatch(s.sha256) for s in shards)
        right = right and all(type(n) is int and 0 < n < 2**62 for s in shards for n in (s.clips, s.size))
        right = right and all(s.clips <= s.size // tarfile.BLOCKSIZE for s in shards)  # each has a header
        right = right and isinstance(listing.made_from, dict)
        if not (right and shards and _SHA256.fullmatch(listing.index_sha256)):
            raise TypeError("a shard's name, checksum or size")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: not a list of shards ({error}); {MAKE_AGAIN}") from error
    return listing


def read_index(path: Path, listing: Listing) -> pa.Table:
    """index.parquet, checked against the listing: every clip is within its shard, shards are in order."""
    try:
        rows = pa.parquet.read_metadata(
            path
        ).num_rows  # before they are read: a few bytes may claim any number
        if rows != sum(entry.clips for entry in listing.shards):
            raise DataError(f"{path}: does not fit {LISTING}; {MAKE_AGAIN}")
        table = pa.parquet.read_table(path, columns=SCHEMA.names).cast(SCHEMA)
        table.validate(full=True)  # names in UTF-8
    except DataError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not readable ({' '.join(str(error).split())}); {MAKE_AGAIN}") from error
    clips = [entry.clips for entry in listing.shards]
    agrees = len(table) == sum(clips) and not any(column.null_count for column in table.columns)
    if agrees:
        shard, offset, size, seconds = (
            table[name].to_numpy() for name in ("shard", "offset", "size", "seconds")
        )
        sizes = np.array([entry.size for entry in listing.shards])
        agrees = bool((shard == np.repeat(np.arange(len(clips)), clips)).all())
        agrees = agrees and bool(((offset >= 0) & (size >= 0) & (offset <= sizes[shard] - size)).all())
        agrees = agrees and bool((np.isfinite(seconds) & (seconds > 0)).all())
    if not agrees:
        raise DataError(f"{path}: does not fit {LISTING}; {MAKE_AGAIN}")
    return table


def write_index(
    folder: Path, shards: Sequence[Shard], table: pa.Table, made_from: dict[str, Any] | None = None
) -> Listing:
    """Write index.parquet, then shards.json, each whole or not at all."""
    with files.in_place_of(folder / INDEX) as partial:
        pa.parquet.write_table(table.cast(SCHEMA), partial)
        listing = Listing(tuple(shards), contents.file_sha256(partial), made_from or {})
    values = {
        "format": "ajepa shards",
        "version": VERSION,
        **listing.fingerprint(),
        "seconds": float(pc.sum(table["seconds"]).as_py()),
        "index_sha256": listing.index_sha256,
        "made_from": listing.made_from,
        "shards": [asdict(shard) for shard in shards],
    }
    files.write_json(folder / LISTING, values)
    return listing


class _OpenShard:
    """A shard read by position, so that threads and forked processes do not disturb each other.

    It is closed with its last use: it may be deleted, or dropped here, while another thread reads it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _opened(locate: Callable[[Shard], Path], shard: Shard) -> _OpenShard:
    try:
        return _OpenShard(locate(shard))
    except OSError as error:
        raise DataError(f"{shard.name}: cannot be opened ({error}); {MAKE_AGAIN}") from error
