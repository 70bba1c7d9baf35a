"""Cells of a comparison: one model on one task by one protocol, run once, wherever it is run.

A finished cell is a record and its bootstrap draws in `cells/`, named by a hash of all that the score depends
on. In `work/` lie the lock of a running cell, so that two processes never do one at a time, and what is known
of one that failed: this is written before a cell starts, and so tells of a process that was killed too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from ajepa.eval.models.sources import not_taken
from ajepa.eval.results.result import Result
from ajepa.files import write, write_json

from .config import Comparison
from .protocols import Bench, Conditions, Protocol, TaskEntry

KILLED = "its process ended before it was done"


@dataclass(frozen=True)
class Cell:
    """One model on one task by one protocol.

    Attributes:
        model, source: the model's name and what it is opened from.
        protocol: the protocol's name.
        key: hash of all that the score depends on.
    """

    model: str
    source: str
    entry: TaskEntry
    protocol: str
    how: Protocol
    key: str

    def __str__(self) -> str:
        return f"{self.model} on {self.entry.name}, {self.protocol}"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be done, and why."""

    model: str
    task: str
    protocol: str
    reason: str


@dataclass(frozen=True)
class Shelf:
    """Where the cells of a comparison lie."""

    folder: Path

    def finished(self, cell: Cell) -> bool:
        """Both files are there; each appears whole."""
        return self._record(cell).is_file() and self._draws(cell).is_file()

    def read(self, cell: Cell) -> Result:
        """A finished cell, under the names that this comparison has for its parts."""
        record = json.loads(self._record(cell).read_text())
        names = {"model": cell.model, "task": cell.entry.name, "protocol": cell.protocol}
        kind = {"protocol_kind": cell.how.protocol}
        return Result(record | names | kind, torch.from_numpy(np.load(self._draws(cell))))

    def write(self, cell: Cell, result: Result) -> None:
        """Keep a result."""
        draws = io.BytesIO()
        np.save(draws, result.draws_S.numpy())
        write(self._draws(cell), draws.getvalue())
        write_json(self._record(cell), result.record)  # last: with it the cell is finished

    def failure(self, cell: Cell) -> str | None:
        """Why it could not be done when it was last tried; None where it was not tried."""
        try:
            return self._error(cell).read_text().splitlines()[0]
        except FileNotFoundError:  # never there, or another process has just done the cell
            return None

    def fail(self, cell: Cell, reason: str, details: str = "") -> None:
        """Keep why a cell could not be done: one line, and what else there is to say."""
        write(self._error(cell), f"{' '.join(reason.split()) or 'unknown'}\n{details}")

    def forget(self, cell: Cell) -> None:
        """It is to be tried anew, or done."""
        self._error(cell).unlink(missing_ok=True)

    def lock(self, name: str) -> FileLock:
        """Held by one process at a time; the system releases that of a killed one."""
        (self.folder / "work").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "work" / f"{name}.lock")

    def log(self, cell: Cell) -> Path:
        """For what a process writes that runs this cell first."""
        return self.folder / "work" / f"{cell.key}.log"

    def _record(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.key}.json"

    def _draws(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.key}.npy"

    def _error(self, cell: Cell) -> Path:
        return self.folder / "work" / f"{cell.key}.error"


class Plan(NamedTuple):
    """What a comparison has to do.

    Attributes:
        cells: all of them, model by model, finished or not.
        failures: those that cannot be: no such model or data.
        complete: of each task whose data are those of the published set, how that is called.
    """

    cells: list[Cell]
    failures: list[Failure]
    complete: dict[str, str]


def plan(
    comparison: Comparison, sources: Mapping[str, str], lost: Mapping[str, str], conditions: Conditions
) -> Plan:
    """Open every model and task once, to name the cells; models on the CPU, as here may be no other device.

    Args:
        sources: by a model's name, what it is opened from.
        lost: by a model's name, why there is none.
    """
    found = Plan([], [], {})
    protocols = comparison.protocol_entries()
    hashes: dict[str, str] = {}
    unusable: dict[str, str] = {}
    for entry in comparison.task_entries():
        try:
            hashes[entry.name] = ""
            if entry.data is not None:
                task = entry.open()
                # The interval depends on the groups; the rest stands in the record.
                groups = [clip.group for clip in task.clips]
                told = hashlib.sha256(repr((task.name, task.notes, groups)).encode()).hexdigest()
                hashes[entry.name] = task.fingerprint(dates=True) + told
                if not task.notes:
                    found.complete[entry.name] = task.name
        except (ValueError, OSError) as error:
            unusable[entry.name] = str(error)
    for name, source in sources.items():
        weights, wrong = "", lost.get(name, "")
        bench = Bench(name, source, replace(conditions, device=None))
        try:
            weights = wrong or bench.weights
        except (ValueError, RuntimeError, OSError) as error:
            wrong = str(error)
        for entry in comparison.task_entries():
            for protocol, how in protocols.items():
                if reason := wrong or unusable.get(entry.name) or _refusal(how, bench):
                    found.failures.append(Failure(name, entry.name, protocol, " ".join(reason.split())))
                    continue
                own = how.depends_on(entry, hashes[entry.name])
                parts = (version("ajepa"), weights, conditions.precision, *own)
                key = hashlib.sha256(repr(parts).encode()).hexdigest()[:20]
                found.cells.append(Cell(name, source, entry, protocol, how, key))
    return found


def _refusal(how: Protocol, bench: Bench) -> str:
    """Why a model cannot be scored by a protocol; empty where it can."""
    if how.takes(bench.model("float32")):
        return ""
    return not_taken(bench.source, how.protocol)


def run_cells(cells: Sequence[Cell], conditions: Conditions) -> None:
    """Do what is not finished of one model's cells; see `run_each`."""
    for _ in run_each(cells, conditions):
        pass


def run_each(cells: Sequence[Cell], conditions: Conditions) -> Iterator[Cell]:
    """Do what is not finished of one model's cells, and give each of them once it is done or has failed.

    A failing one is noted on the shelf, and stops none. A cell that another process is at is left for the
    end, and then waited for.
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
                with shelf.lock(cell.key).acquire(timeout=seconds):
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
        shelf.write(cell, cell.how.run(bench, cell.entry))
    except Exception as error:  # whatever it is: the other cells are to be done
        known = isinstance(error, (ValueError, RuntimeError, OSError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        shelf.fail(cell, reason, traceback.format_exc())
    else:
        shelf.forget(cell)


def grouped(cells: Sequence[Cell], split: bool) -> list[list[Cell]]:
    """Cells that are run one after another by one process.

    Args:
        split: only those that share embeddings, a model's probes on one task, and every other cell by itself;
            else all of a model.
    """
    found: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        own = cell.protocol if not cell.how.embeds else ""
        found.setdefault((cell.model, cell.entry.name, own) if split else (cell.model,), []).append(cell)
    # Embeddings of all layers hold the last one: those who need all go first.
    return [sorted(group, key=lambda cell: -cell.how.embeds) for group in found.values()]
