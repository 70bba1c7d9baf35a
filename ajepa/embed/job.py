"""A job: many clips cut into blocks, each of which becomes one file. It can be stopped, shared and extended.

The folder of a job holds
    job.json                what it computes (`describe`): another start has to ask for the same
    plan-0000.parquet, ...  the clips of each block, in order; a later start adds those that are new
    part-000000.parquet     the rows of block 0, once all of them are there
    broken-000000.csv       its clips that could not be used, with the reason (with --skip-broken)
    .lock, .claim-000000    held by processes at work; what a killed one held is free again

A block's rows depend on nothing but its clips and the model: whatever was interrupted, and however many
processes share the work, the files are the same in the end.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ajepa import files
from ajepa.audio import AudioError
from ajepa.data.threads import ahead, in_order
from ajepa.model import AudioEncoder

from .compute import Row, embed
from .inputs import Inputs, Item
from .options import EmbedError, Wanted
from .pieces import Decoded, Piece, decode
from .read import read_parquet
from .table import write_part

BLOCK_CLIPS, BLOCK_BYTES = 1024, 2**27  # a block's clips, and their encoded bytes: what a kill can cost
PIECES_AHEAD = 16
JOB = "job.json"
PLAN = pa.schema({"key": pa.large_string(), "block": pa.int32()})


class Job:
    """A job's folder, planned: its blocks and the inputs' clips in them.

    Args:
        folder: where it works; made if it is not there.
        inputs: the clips. What an earlier start planned already is not planned again.
        about: from `describe`.
        merged: how many blocks have left the folder for one file.

    Raises:
        EmbedError: the folder holds another job.
    """

    def __init__(self, folder: Path, inputs: Inputs, about: dict[str, Any], merged: int = 0) -> None:
        self.folder, self.inputs, self.about, self.merged = folder, inputs, about, merged
        files.check_utf8(folder, "--out")
        folder.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(folder)
        with FileLock(folder / ".lock"):
            self._check()
            self._places, self._block_of, self.blocks = self._planned()

    def _check(self) -> None:
        path = self.folder / JOB
        if not path.exists():
            files.write_json(path, self.about)
            return
        try:
            held = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise EmbedError(
                f"{path}: damaged ({error}); remove {self.folder} to begin again, or choose another --out"
            ) from error
        changed = self._changed(held)
        if changed and not (self.merged or any(self.folder.glob("part-*.parquet"))):
            if self._at_work():
                raise EmbedError(
                    f"{self.folder}: another process is at work there with other values of "
                    f"{', '.join(changed)}; wait for it, or choose another --out"
                )
            for plan in self.folder.glob("plan-*.parquet"):
                plan.unlink()
            files.write_json(path, self.about)  # nothing was done there: this job takes its place
        elif changed:
            raise EmbedError(
                f"{self.folder}: holds a job with other values of {', '.join(changed)}; "
                f"ask for the same, choose another --out, or remove {self.folder}"
            )

    def _changed(self, held: dict[str, Any]) -> list[str]:
        """What is not as in the job that the folder holds."""
        return [
            f"{name} ({held.get(name)!r}, now {value!r})"
            for name, value in self.about.items()
            if held.get(name) != value
        ]

    def _at_work(self) -> bool:
        """Whether some process holds a block."""
        for claim in self.folder.glob(".claim-*"):
            try:
                with FileLock(claim, timeout=0):
                    continue
            except Timeout:
                return True
        return False

    def keep(self, block: int, rows: list[Row], checksums: list[str]) -> None:
        """Write a block's rows. Raises EmbedError if the folder was given to another job meanwhile."""
        with FileLock(self.folder / ".lock"):
            if self._changed(json.loads((self.folder / JOB).read_text(encoding="utf-8"))):
                raise EmbedError(
                    f"{self.folder}: another process began here with other options; choose another --out"
                )
            write_part(self.part(block), rows, checksums, self.about)

    def _planned(self) -> tuple[pa.Array, pa.Array, int]:
        """Where the planned clips are in the inputs, the block of each, and the number of blocks."""
        remedy = f"remove {self.folder} to begin again, or choose another --out"
        plans = [read_parquet(path, remedy) for path in sorted(self.folder.glob("plan-*.parquet"))]
        known = pa.concat_tables([PLAN.empty_table(), *plans])
        keys = pa.array(self.inputs.keys(), PLAN.field("key").type)
        new = pc.unique(keys)  # a file that two inputs name is embedded once
        new = new.filter(pc.invert(pc.is_in(new, value_set=known["key"])))
        blocks = 1 + pc.max(known["block"]).as_py() if len(known) else 0
        if len(new):
            numbers = list(self._cut(pc.index_in(new, value_set=keys), blocks))
            added = pa.table([new, pa.array(numbers, pa.int32())], schema=PLAN)
            with files.in_place_of(self.folder / f"plan-{len(plans):04d}.parquet") as partial:
                pq.write_table(added, partial)
            known, blocks = pa.concat_tables([known, added]), numbers[-1] + 1
        # Where the planned clips are in these inputs; null for those that are not.
        places = pc.index_in(known["key"].combine_chunks(), value_set=keys)
        return places, known["block"].combine_chunks(), blocks

    def _cut(self, places: pa.Array, block: int) -> Iterator[int]:
        """The blocks of new clips, counted from `block`."""
        clips = held = 0
        for place in places:
            size = self.inputs[place.as_py()].size()
            if clips == BLOCK_CLIPS or (clips and held + size > BLOCK_BYTES):
                block, clips, held = block + 1, 0, 0
            clips, held = clips + 1, held + size
            yield block

    def items(self, block: int) -> list[Item]:
        """The clips of a block. Raises EmbedError: the inputs no longer have one of them."""
        places = self._places.filter(pc.equal(self._block_of, block)).to_pylist()
        if None in places:
            raise EmbedError(
                f"{self.folder}: {places.count(None)} clips of its plan are not among the inputs any more; "
                "name the same files and folders as before, or choose another --out"
            )
        return [self.inputs[place] for place in places]

    def __len__(self) -> int:
        """Number of clips in the plan."""
        return len(self._block_of)

    def left(self) -> int:
        """Number of clips in blocks that are not done."""
        undone = [block for block in range(self.blocks) if not self.done(block)]
        return int(pc.sum(pc.is_in(self._block_of, value_set=pa.array(undone, pa.int32()))).as_py() or 0)

    def broken(self) -> int:
        """Number of clips that could not be used, in the blocks that are done."""
        return len(self._broken_rows())

    def list_broken(self, path: Path) -> None:
        """Write the clips that could not be used, with reasons, as one table; none if there are none."""
        if rows := self._broken_rows():
            files.write(path, _table(rows))
        else:
            path.unlink(missing_ok=True)

    def _broken_rows(self) -> list[list[str]]:
        rows = []
        for path in self._lists():
            text = path.read_text(encoding="utf-8", errors="replace")
            rows += [*csv.reader(io.StringIO(text, newline=""))][1:]
        return rows

    def _lists(self) -> list[Path]:
        return sorted(self.folder.glob("broken-*.csv"))

    def part(self, block: int) -> Path:
        """The file of a block's rows."""
        return self.folder / f"part-{block:06d}.parquet"

    def done(self, block: int) -> bool:
        """Whether a block's rows are there."""
        return block < self.merged or self.part(block).exists()

    @contextmanager
    def claimed(self, block: int) -> Iterator[bool]:
        """Whether the block is this process's to do: not done, and no other process is at it."""
        claim = self.folder / f".claim-{block:06d}"
        if self.done(block):
            claim.unlink(missing_ok=True)  # a process may have been killed right before it did so
            yield False
            return
        lock = FileLock(claim)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield not self.done(block)
        finally:
            done = self.done(block)
            lock.release()
            if done:  # nobody needs the claim of a block that is there
                claim.unlink(missing_ok=True)


def run(
    job: Job,
    model: AudioEncoder,
    wanted: Wanted,
    *,
    batch: int = 8,
    workers: int = 2,
    skip_broken: bool = False,
    progress: Callable[[int], object] = lambda clips: None,
) -> None:
    """Do the blocks that are not done and that no other process is at.

    Args:
        batch: pieces that are embedded at once.
        workers: threads that decode ahead of the model.
        skip_broken: list clips that cannot be used, and go on.
        progress: called with the number of clips that are done, after each.

    Raises:
        AudioError: a clip cannot be used.
        ModelError: an embedding is not finite.
        EmbedError: clips of the plan are missing.
    """
    for block in range(job.blocks):
        with job.claimed(block) as mine:
            if mine:
                _do(job, block, model, wanted, batch, workers, skip_broken, progress)


def _do(
    job: Job,
    block: int,
    model: AudioEncoder,
    wanted: Wanted,
    batch: int,
    workers: int,
    skip_broken: bool,
    progress: Callable[[int], object],
) -> None:
    items = job.items(block)
    checksums: dict[int, str] = {}
    broken: list[tuple[str, str]] = []
    failed: set[int] = set()

    def pieces() -> Iterator[Piece]:
        decoded = in_order(lambda item: decode(item, wanted, model.sample_rate), items, workers)
        try:
            for one in decoded:
                checksums[id(one.item)] = one.sha256
                try:
                    yield from pieces_of(one)
                except AudioError as error:
                    fail(one.item, error)
                progress(1)
        finally:
            decoded.close()

    def fail(item: Item, error: AudioError) -> None:
        if not skip_broken:
            raise error
        failed.add(id(item))
        broken.append((item.name, " ".join(str(error).split())))
        print(error, file=sys.stderr)

    found = list(embed(model, pieces(), wanted, batch, fail))
    rows = [row for row in found if id(row.piece.item) not in failed]
    unread = job.folder / f"broken-{block:06d}.csv"
    unread.unlink(missing_ok=True)  # of an earlier start; its clips may have been repaired
    if broken:
        files.write(unread, _table(broken))
    job.keep(block, rows, [checksums[id(row.piece.item)] for row in rows])


def _table(broken: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([("path", "reason"), *broken])
    return text.getvalue()


def pieces_of(decoded: Decoded) -> Iterator[Piece]:
    """The pieces of a clip; those of a long one are decoded in a thread ahead of the model."""
    if decoded.failure is not None:
        raise decoded.failure
    if isinstance(decoded.pieces, list):
        yield from decoded.pieces
        return
    pieces = ahead(decoded.pieces, PIECES_AHEAD)
    try:
        yield from pieces
    finally:
        pieces.close()
