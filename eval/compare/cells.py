"""Cells of a comparison: one model on one task by one protocol, run once, wherever they run.

A finished cell is stored in `cells/` as its records, their bootstrap draws and the tables of
`ajepa.eval.results.kept`, named by a hash of everything that the score depends on. `work/` holds the lock of
a running cell, so that no two processes run it at the same time, and the reason if one failed. That reason is
written before a cell starts, so it is there even if the process is killed. Each cell's toolkit files are in a
folder below the protocol's folder.
"""

from __future__ import annotations

import io
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ajepa.contents import ArrayError, read_array
from ajepa.eval.digest import digest
from ajepa.eval.protocols import Bench, Conditions, Protocol, TaskEntry
from ajepa.eval.results.kept import write_table
from ajepa.eval.results.record import Record, RecordError, read_records, write_records
from ajepa.eval.results.result import Result
from ajepa.files import not_utf8, remove_leftovers, set_aside, write
from ajepa.memory import is_out_of_memory, out_of_memory_line

from .config import Comparison

KNOWN = (ValueError, RuntimeError, OSError)  # errors whose message alone is enough
KEPT = ("answers", "features")  # fields of a result, written as tables
KILLED = "its process ended before the cell was finished"


@dataclass(frozen=True)
class Cell:
    """One model on one task by one protocol.

    Attributes:
        model, source: the model's name and the source it is opened from.
        protocol: the protocol's name.
        key: hash of everything that the score depends on.
        work: the same hash without the seeds: cells with equal `work` share a toolkit's folder.
    """

    model: str
    source: str
    entry: TaskEntry
    protocol: str
    how: Protocol
    key: str
    work: str

    def __str__(self) -> str:
        return f"{self.model} on {self.entry.name}, {self.protocol}"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run, and why."""

    model: str
    task: str
    protocol: str
    reason: str

    @classmethod
    def of(cls, cell: Cell, reason: str) -> Failure:
        """The failure of this cell."""
        return cls(cell.model, cell.entry.name, cell.protocol, reason)


@dataclass(frozen=True)
class Shelf:
    """The storage of a comparison's cells."""

    folder: Path

    def finished(self, cell: Cell) -> bool:
        """Whether both files exist and are sound; damaged ones are set aside, so that the cell runs again."""
        paths = self._records(cell), self._draws(cell)
        if not all(path.is_file() for path in paths):
            return False
        try:
            _stored(*paths)
        except (RecordError, ArrayError) as error:
            damaged = self._records(cell) if isinstance(error, RecordError) else self._draws(cell)
            set_aside(damaged, error, f"{cell} runs again")
            return False
        return True

    def tidy(self) -> None:
        """Remove files that killed processes left half written."""
        for folder in (self.folder, self.folder / "cells", self.folder / "work"):
            remove_leftovers(folder)

    def read(self, cell: Cell, rename_task: bool = True) -> list[Result]:
        """The results of a finished cell, with the names that this comparison uses.

        Args:
            rename_task: if false, the task keeps the name that its data give it.
        """
        names: dict[str, Any] = {
            "model": cell.model,
            "protocol": cell.protocol,
            "protocol_kind": cell.how.protocol,
        }
        names |= {"task": cell.entry.name} if rename_task else {}
        for what in KEPT:
            if (path := self._kept(cell, what)).is_file():
                names[what] = (path.relative_to(self.folder).as_posix(),)
        records, draws_RXS = _stored(self._records(cell), self._draws(cell))
        return [
            Result(replace(record, **names), draws_XS[0], draws_XS[1:])
            for record, draws_XS in zip(records, draws_RXS, strict=True)
        ]

    def write(self, cell: Cell, results: Sequence[Result]) -> None:
        """Store the results of a cell."""
        draws = io.BytesIO()
        np.save(draws, torch.stack([result.all_draws() for result in results]).numpy())
        write(self._draws(cell), draws.getvalue())
        for what in KEPT:
            if tables := [table for result in results if (table := getattr(result, what)) is not None]:
                write_table(self._kept(cell, what), tables)
        # Last: with its records the cell is finished.
        write_records(self._records(cell), [result.record for result in results])
        _stored(self._records(cell), self._draws(cell))  # refuses a score that is no number

    def failure(self, cell: Cell) -> str | None:
        """Why the cell failed when it was last tried; None if it was not tried."""
        try:
            text = self._error(cell).read_text(encoding="utf-8", errors="replace")
            return (text.splitlines() or ["unknown: the file of the reason is empty"])[0]
        except FileNotFoundError:  # never existed, or another process has just finished the cell
            return None

    def fail(self, cell: Cell, reason: str, details: str = "") -> None:
        """Store why a cell failed: one line, with the details after it."""
        write(self._error(cell), f"{' '.join(reason.split()) or 'unknown'}\n{details}")

    def forget(self, cell: Cell) -> None:
        """Remove the reason of a failure, because the cell is tried again or finished."""
        self._error(cell).unlink(missing_ok=True)

    def reopen(self, cell: Cell) -> None:
        """Forget that the cell is finished."""
        self._records(cell).unlink(missing_ok=True)

    def lock(self, name: str) -> FileLock:
        """A lock held by one process at a time; the system releases a killed process's lock."""
        (self.folder / "work").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "work" / f"{name}.lock")

    def log(self, cell: Cell) -> Path:
        """The log for the output of a process whose first cell this is."""
        return self.folder / "work" / f"{cell.key}.log"

    def toolkit(self, cell: Cell) -> Path:
        """The folder for a toolkit's files, which is not created here."""
        name = re.sub(r"[^\w.-]+", "-", f"{cell.entry.name}-{cell.model}").lstrip(".-")
        return self.folder / cell.how.protocol / f"{name}-{cell.work[:10]}"

    def _records(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.key}.json"

    def _draws(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.key}.npy"

    def _kept(self, cell: Cell, what: str) -> Path:
        return self.folder / "cells" / f"{cell.key}.{what}.parquet"

    def _error(self, cell: Cell) -> Path:
        return self.folder / "work" / f"{cell.key}.error"


def _stored(records: Path, draws: Path) -> tuple[list[Record], Tensor]:
    """The records and the draws [R, 1 + X, S] of a cell. Raises RecordError or ArrayError."""
    listed, array = read_records(records), read_array(draws)
    if array.ndim == 2:  # of a version that kept no draws of corrupted clips
        array = array[:, None]
    if array.ndim != 3 or len(array) != len(listed) or not array.shape[1]:
        raise ArrayError(f"{draws}: draws of shape {array.shape}, expected those of {len(listed)} records")
    return listed, torch.from_numpy(array)


class Plan(NamedTuple):
    """The work of a comparison.

    Attributes:
        cells: all of them, task by task and protocol by protocol, finished or not.
        failures: cells that cannot run: the model, data or toolkit is missing, or they do not fit together.
        complete: for each task whose data match the published set, the set's name.
    """

    cells: list[Cell]
    failures: list[Failure]
    complete: dict[str, str]


def plan(
    comparison: Comparison, sources: Mapping[str, str], lost: Mapping[str, str], conditions: Conditions
) -> Plan:
    """Open every model and task once, to name the cells. Models stay on the CPU: no other device may be here.

    Args:
        sources: by a model's name, the source it is opened from.
        lost: by a model's name, why it is missing.
    """
    found = Plan([], [], {})
    benches = {
        name: Bench(name, source, replace(conditions, device=None)) for name, source in sources.items()
    }
    wrong = {
        name: lost.get(name) or _tried(attrgetter("fingerprint"), bench)[1] for name, bench in benches.items()
    }
    for entry in comparison.task_entries():
        clips, unusable = "", ""
        protocols = comparison.protocols_of(entry)
        if any(how.reads == "data" for how in protocols.values()):
            clips, unusable = _tried(_open, entry, found.complete)
        for protocol, how in protocols.items():
            own, reason = (), unusable if how.reads == "data" else ""
            if not reason:
                own, reason = _tried(how.depends_on, entry, clips)
            for name, bench in benches.items():
                if why := wrong[name] or reason or how.refusal(bench, entry):
                    found.failures.append(Failure(name, entry.name, protocol, " ".join(why.split())))
                    continue
                weights = f"{type(bench.model().module).__name__} {bench.fingerprint}"
                parts = (version("ajepa"), weights, conditions.precision, *own)
                work, key = digest([repr(parts)], 20), digest([repr((parts, how.repeats))], 20)
                found.cells.append(Cell(name, bench.source, entry, protocol, how, key, work))
    return found


def _open(entry: TaskEntry, complete: dict[str, str]) -> str:
    """A task's fingerprint. Adds the task to `complete` if its data match the published set."""
    task = entry.open()
    if not task.notes:
        complete[entry.name] = task.name
    # The interval depends on the groups; the other details are in the record.
    groups = [clip.group for clip in task.clips]
    return task.fingerprint(dates=True) + digest([repr((task.name, task.notes, groups))], 64)


def _tried(call: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a call returns, and why it failed; empty if it did not."""
    try:
        return call(*arguments), ""
    except KNOWN as error:
        return None, _reason(error)


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return out_of_memory_line(error, "evaluate")
    if isinstance(error, UnicodeEncodeError):
        return not_utf8(error)
    return str(error) if isinstance(error, KNOWN) else f"{type(error).__name__}: {error}"


def run_cells(cells: Sequence[Cell], conditions: Conditions) -> None:
    """Run the unfinished cells of one model; see `run_each`."""
    for _ in run_each(cells, conditions):
        pass


def run_each(cells: Sequence[Cell], conditions: Conditions) -> Iterator[Cell]:
    """Run the unfinished cells of one model, and yield each once it is finished or has failed.

    A failure is stored on the shelf and does not stop the other cells. A cell that another process is running
    is left for the end; then this process waits for it.
    """
    if conditions.threads is not None:
        torch.set_num_threads(conditions.threads)
        os.environ["OMP_NUM_THREADS"] = str(conditions.threads)  # for the toolkits' processes
    shelf = Shelf(conditions.folder)
    bench = Bench(cells[0].model, cells[0].source, conditions)
    left = list(cells)
    for seconds in (0, -1):
        busy = []
        for cell in left:
            try:
                with shelf.lock(cell.work).acquire(timeout=seconds):
                    _run(cell, bench, shelf)
            except Timeout:
                busy.append(cell)
            else:
                yield cell
        left = busy


def _run(cell: Cell, bench: Bench, shelf: Shelf) -> None:
    if shelf.finished(cell):
        return
    shelf.fail(cell, KILLED)
    try:
        shelf.write(cell, cell.how.run(bench, cell.entry, shelf.toolkit(cell)))
    except Exception as error:  # of any kind: the other cells must still run
        reason = _reason(error)
        shelf.fail(cell, reason, traceback.format_exc())
    else:
        shelf.forget(cell)


def grouped(cells: Sequence[Cell], split: bool) -> list[list[Cell]]:
    """Groups of cells that one process runs one after another.

    Args:
        split: make small groups of cells that share embeddings (a model's probes on one task) or a toolkit's
            folder; otherwise a group has all the cells of a model.
    """
    found: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        own = cell.work if not cell.how.embeds else ""
        found.setdefault((cell.model, cell.entry.name, own) if split else (cell.model,), []).append(cell)
    # Embeddings of all layers include the last one: cells that need all of them go first.
    return [sorted(group, key=lambda cell: -cell.how.embeds) for group in found.values()]
