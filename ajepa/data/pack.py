"""Write tar shards with their index from a folder or a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from ajepa import files

from .clips import Clips, DataError
from .encode import COPY, Encoded, Packing, encode_clip
from .shards import LISTING, SCHEMA, Listing, Shard, parse_listing, write_index
from .threads import in_order

_TAR_BLOCK = tarfile.BLOCKSIZE
_PROGRESS, _BROKEN = ".progress", "broken.txt"


def write_shards(
    clips: Clips,
    out: Path,
    packing: Packing | None = None,
    *,
    workers: int = 1,
    skip_broken: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> Listing:
    """Encode clips into `out`; a call that was stopped is continued by the next one.

    Members are `000000012.flac`, numbered by the clip's position in the source, and `000000012.json` with
    path, duration and labels. Clips left out with `skip_broken` are listed in broken.txt. The result does not
    depend on `workers` or on interruptions.

    Args:
        workers: threads that decode and encode, which both release Python's lock.
        report: called with the number of clips done, in order.

    Raises:
        DataError: `out` holds shards of another source or other options, or another process writes there.
        AudioError: a clip cannot be used and `skip_broken` is off.
    """
    files.check_utf8(out, "--out")
    packing = packing or Packing()
    made_from = {"source": clips.fingerprint(), **asdict(packing)}
    if packing.format == COPY:
        made_from.pop("sample_rate")
    progress = out / _PROGRESS
    done = _finished(out, made_from)
    if done:
        shutil.rmtree(progress, ignore_errors=True)  # of a process that was killed just before its end
        return done
    progress.mkdir(parents=True, exist_ok=True)
    lock = FileLock(progress / "lock", timeout=0)
    try:
        with lock:
            listing = _write(clips, out, packing, made_from, workers, skip_broken, report)
    except Timeout as error:
        raise DataError(
            f"{out}: another process is writing shards here; wait for it or choose another folder"
        ) from error
    shutil.rmtree(progress, ignore_errors=True)
    return listing


def _finished(out: Path, made_from: dict[str, Any]) -> Listing | None:
    if not (out / LISTING).is_file():
        if not (out / _PROGRESS).is_dir() and out.is_dir() and any(out.glob("*.tar")):
            raise DataError(f"{out}: holds tars from elsewhere; choose another folder")
        return None
    listing = parse_listing((out / LISTING).read_text(encoding="utf-8"), str(out / LISTING))
    if listing.made_from != json.loads(json.dumps(made_from)):
        raise DataError(f"{out}: holds shards of another source or other options; choose another folder")
    return listing


def _write(
    clips: Clips,
    out: Path,
    packing: Packing,
    made_from: dict[str, Any],
    workers: int,
    skip_broken: bool,
    report: Callable[[int], None],
) -> Listing:
    plan = out / _PROGRESS / "plan.json"
    if plan.is_file() and _read_plan(plan) != json.loads(json.dumps(made_from)):
        raise DataError(
            f"{out}: holds unfinished shards of another source or other options; choose another folder, or "
            "remove this one"
        )
    files.write(plan, json.dumps(made_from))
    parts = list(_finished_parts(out))
    done = parts[-1].stop if parts else 0
    report(done)
    encode = partial(encode_clip, packing=packing)
    writer = _TarWriter(out, len(parts))
    broken: list[str] = []
    with closing(in_order(encode, map(clips.clip, range(done, len(clips))), workers)) as encoded:
        for index, item in enumerate(encoded, start=done):
            if item.error is not None:
                if not skip_broken:
                    raise item.error
                broken.append(str(item.error))
            else:
                if writer.rows and writer.size_with(item) > packing.shard_megabytes * 2**20:
                    parts.append(writer.finish(index, broken))
                    writer, broken = _TarWriter(out, len(parts)), []
                writer.add(f"{index:09d}", item)
            report(index + 1)
    if writer.rows:
        parts.append(writer.finish(len(clips), broken))
        broken = []
    if not parts:
        raise DataError(f"{out}: none of {len(clips)} clips can be used; the first error: {broken[0]}")
    broken = [reason for part in parts for reason in part.broken] + broken
    if broken:
        files.write(
            out / _BROKEN, files.printable("".join(f"{' '.join(reason.split())}\n" for reason in broken))
        )
    table = pa.concat_tables([part.table for part in parts])
    return write_index(out, [part.shard for part in parts], table, made_from)


def _read_plan(plan: Path) -> Any:
    try:
        return json.loads(plan.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{plan}: damaged ({error}); remove it, if the source and the options are the same"
        ) from error


def _finished_parts(out: Path) -> Iterator[_Part]:
    """The notes of the complete shards, up to the first incomplete one."""
    for number in range(10**9):
        note = out / _PROGRESS / f"{number:06d}.json"
        tar = out / f"shard-{number:06d}.tar"
        if not note.is_file() or not tar.is_file():
            return
        try:
            part = _Part.from_json(note.read_text(encoding="utf-8"))
        except (ValueError, TypeError, KeyError) as error:
            files.set_aside(note, error, f"{tar.name} and those after it are made again")
            return
        if tar.stat().st_size != part.shard.size:
            return
        yield part


@dataclass(frozen=True)
class _Part:
    """A finished shard: its rows of the index, and the errors of clips left out before clip `stop`."""

    stop: int
    shard: Shard
    table: pa.Table
    broken: list[str]

    def as_json(self) -> str:
        values = {"stop": self.stop, "shard": asdict(self.shard), "broken": self.broken}
        return json.dumps(values | {"columns": self.table.to_pydict()})

    @classmethod
    def from_json(cls, text: str) -> _Part:
        values = json.loads(text)
        table = pa.Table.from_pydict(values["columns"], SCHEMA)
        return cls(values["stop"], Shard(**values["shard"]), table, values["broken"])


class _TarWriter:
    """Writes one shard, under another name until it is complete. The bytes depend on the clips alone."""

    def __init__(self, out: Path, number: int) -> None:
        self.out, self.number, self.name = out, number, f"shard-{number:06d}.tar"
        self.partial = out / f".{self.name}.partial"
        self.rows: list[dict[str, Any]] = []
        self._file = self.partial.open("wb")
        self._digest, self._size = hashlib.sha256(), 0

    def size_with(self, item: Encoded) -> int:
        """Bytes of the finished shard if `item` is its last."""
        members = sum(_TAR_BLOCK + len(data) + _padding(data) for data in (item.audio, item.about))
        return self._size + members + 2 * _TAR_BLOCK

    def add(self, key: str, item: Encoded) -> None:
        """Append a clip and its JSON."""
        name = f"{key}.{item.suffix}"
        offset = self._size + _TAR_BLOCK
        for member, data in ((name, item.audio), (f"{key}.json", item.about)):
            header = tarfile.TarInfo(member)
            header.size = len(data)
            self._put(header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(_padding(data)))
        row = {"shard": self.number, "name": name, "offset": offset, "size": len(item.audio)}
        self.rows.append(row | {"seconds": item.seconds})

    def finish(self, stop: int, broken: list[str]) -> _Part:
        """Close the shard and note that it is done; `stop` is the number of the first clip after it."""
        self._put(bytes(2 * _TAR_BLOCK))
        with files.naming(self.partial):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self.partial.replace(self.out / self.name)
        seconds = sum(row["seconds"] for row in self.rows)
        shard = Shard(self.name, self._size, self._digest.hexdigest(), len(self.rows), seconds)
        part = _Part(stop, shard, pa.Table.from_pylist(self.rows, SCHEMA), broken)
        files.write(self.out / _PROGRESS / f"{self.number:06d}.json", part.as_json())
        return part

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        with files.naming(self.partial):
            self._size += self._file.write(data)


def _padding(data: bytes) -> int:
    return -len(data) % _TAR_BLOCK
