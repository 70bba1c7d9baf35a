"""Where groups of cells run: in this process, in several, or on machines that submitit reaches.

An engine only starts groups and reports which have ended and how; their results are on the shelf.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ajepa.errors import AjepaError
from ajepa.eval.protocols import Conditions

from .cells import Cell, Shelf, run_cells, run_each

Group = list[Cell]
POLL_SECONDS = 1.0
# Parameters that submitit knows on any cluster; all others are passed to SLURM.
SHARED = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}


class EngineError(AjepaError, RuntimeError):
    """An engine cannot be used here; the message says what is missing."""


class Engine(ABC):
    """Runs groups of cells.

    Attributes:
        split: whether it needs small groups, to run several at a time.
        jobs: how many groups run or wait at a time; None for no limit.
    """

    split = True

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs
        self._running: list[tuple[Any, Group]] = []

    def has_room(self) -> bool:
        """Whether another group may be started now."""
        return self.jobs is None or len(self._running) < self.jobs

    @abstractmethod
    def start(self, group: Group, conditions: Conditions) -> None:
        """Start a group."""

    @abstractmethod
    def ended(self) -> list[tuple[Group, str]]:
        """Wait until some groups end, in whole or in part. Returns each with how it ended, "" for success.

        Empty if none is running.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop the running groups."""

    def _take(self, done: Callable[[Any], bool]) -> list[tuple[Any, Group]]:
        """Take out the running groups that are done."""
        over = [entry for entry in self._running if done(entry[0])]
        self._running = [entry for entry in self._running if entry not in over]
        return over


class ThisProcess(Engine):
    """Runs one group after another in this process; each call of `ended` runs one cell."""

    split = False

    def __init__(self) -> None:
        super().__init__(jobs=1)

    def start(self, group: Group, conditions: Conditions) -> None:
        self._running.append((run_each(group, conditions), list(group)))

    def ended(self) -> list[tuple[Group, str]]:
        if not self._running:
            return []
        ((cells, left),) = self._running
        cell = next(cells)
        left.remove(cell)
        self._take(lambda _: not left)
        return [([cell], "")]

    def stop(self) -> None:
        """Do nothing: no work runs in the background."""


class Processes(Engine):
    """Up to `jobs` processes at a time, one per group. Their output goes to a log in `work/`."""

    def start(self, group: Group, conditions: Conditions) -> None:
        """Start a fresh interpreter: a forked one would inherit threads in an unknown state."""
        log = Shelf(conditions.folder).log(group[0])
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(group, conditions, log))
        process.start()
        self._running.append(((process, log), group))

    def ended(self) -> list[tuple[Group, str]]:
        over = set(wait([process.sentinel for (process, _), _ in self._running])) if self._running else set()
        return [(group, _ending(*own)) for own, group in self._take(lambda own: own[0].sentinel in over)]

    def stop(self) -> None:
        """Stop the processes and their child processes."""
        for (process, _), _ in self._running:
            try:
                os.killpg(process.pid or 0, signal.SIGTERM)
            except ProcessLookupError:  # it has no process group yet
                process.terminate()
        for (process, _), _ in self._running:
            process.join()
        self._running = []


def _ending(process: BaseProcess, log: Path) -> str:
    process.join()
    code = process.exitcode or 0
    if not code:
        return ""
    how = f"ended with status {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
    return f"the process {how}; see its output in {log}"


def _work(group: Group, conditions: Conditions, log: Path) -> None:
    # It gets its own process group: Ctrl-C goes to the parent, which then ends the whole group.
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    run_cells(group, conditions)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGTERM)


class Submitit(Engine):
    """Jobs of a cluster, through submitit; without SLURM, processes on this machine.

    Args:
        folder: for submitit's own files and logs; like the results, all machines must see it.
        parameters: job parameters that `submitit.AutoExecutor.update_parameters` takes, such as timeout_min,
            cpus_per_task, gpus_per_node and mem_gb; any other key goes to SLURM, such as partition.
        jobs: how many run or wait at a time. None: on SLURM all jobs, otherwise one.
        cluster: "slurm" or "local"; None detects it.

    Raises:
        EngineError: submitit is not installed, or does not take the parameters.
    """

    def __init__(
        self,
        folder: Path,
        parameters: dict[str, Any] | None = None,
        jobs: int | None = None,
        cluster: str | None = None,
    ) -> None:
        try:
            submitit = importlib.import_module("submitit")
        except ImportError as error:
            raise EngineError(f"needs submitit: pip install 'ajepa[cluster]' ({error})") from error
        self._executor = submitit.AutoExecutor(folder, cluster=cluster)
        given = {
            key if key in SHARED or key.startswith("slurm_") else f"slurm_{key}": value
            for key, value in {"name": "ajepa", **(parameters or {})}.items()
        }
        try:
            self._executor.update_parameters(**given)
        except (NameError, TypeError, ValueError, AssertionError) as error:
            raise EngineError(f"submitit does not take the parameters {given}: {error}") from error
        on_slurm = self._executor.cluster == "slurm"
        super().__init__(jobs or (None if on_slurm else 1))

    def start(self, group: Group, conditions: Conditions) -> None:
        self._running.append((self._executor.submit(Resumable(), group, conditions), group))

    def ended(self) -> list[tuple[Group, str]]:
        while self._running:
            if done := self._take(lambda job: job.done()):
                return [(group, self._ending(job)) for job, group in done]
            time.sleep(POLL_SECONDS)
        return []

    def stop(self) -> None:
        for job, _ in self._running:
            job.cancel()
        self._running = []

    @staticmethod
    def _ending(job: Any) -> str:
        if job.exception() is None:
            return ""
        return f"job {job.job_id} ended in state {job.state}; see its output in {job.paths.stderr}"


class Resumable:
    """`run_cells` as a job. If preempted or out of time, it is queued again and runs what is left."""

    def __call__(self, group: Group, conditions: Conditions) -> None:
        """Runs in the job's process, with as many threads as SLURM gives it processors.

        This overrides the conditions, which come from the submitting machine and the jobs it runs at a time.
        """
        if processors := os.environ.get("SLURM_CPUS_PER_TASK"):
            conditions = replace(conditions, threads=int(processors))
        run_cells(group, conditions)

    def checkpoint(self, group: Group, conditions: Conditions) -> Any:
        """Called by submitit when the job is interrupted."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self, group, conditions)
