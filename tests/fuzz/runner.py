"""Cases in a worker process, which may die: this process watches its end, its time and its memory."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

WATCHDOG_SECONDS = 30.0
MEMORY = 1 * 2**30  # bytes that a case may add to the worker; its data are some kilobytes


class Failure(NamedTuple):
    kind: str
    number: int
    reason: str


def make(kind: str, seed: int, number: int, folder: Path) -> Path:
    """The input of a case, in an empty folder."""
    from .cases import KINDS

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return KINDS[kind][0](folder, random.Random(f"{kind} {seed} {number}"))


def work(pipe: Connection, folder: str) -> None:
    """The worker: takes (kind, seed, number), answers what is wrong and the bytes that it added."""
    import torch

    from .cases import judged

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "w") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 2)  # what decoders print about each file
    while True:
        kind, seed, number = pipe.recv()
        path = make(kind, seed, number, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        pipe.send((judged(kind, path), _resident("VmHWM") - before))


def _resident(key: str) -> int:
    """Bytes of this process in memory now (VmRSS), or at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    return 0


class Worker:
    """A worker that is replaced when it has died or hangs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, str(self.folder / "case")), daemon=True)
        self.process.start()
        theirs.close()

    def judge(self, kind: str, seed: int, number: int) -> str:
        """What is wrong with a case, empty if nothing is."""
        try:
            self.pipe.send((kind, seed, number))
            # The first case waits for imports and for the seeds.
            if not self.pipe.poll(WATCHDOG_SECONDS if number else 4 * WATCHDOG_SECONDS):
                reason = f"hangs: {WATCHDOG_SECONDS:g} s are over"
                self.process.kill()
            else:
                reason, added = self.pipe.recv()
                return reason or (f"takes {added / 2**30:.1f} GiB" if added > MEMORY else "")
        except (EOFError, OSError):
            reason = ""
        self.process.join()
        status = self.process.exitcode or 0
        reason = reason or f"ends the process: {signal.Signals(-status).name if status < 0 else status}"
        self._start()
        return reason

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def run(
    kinds: list[str], seed: int, cases: int, seconds: float, out: Path | None
) -> tuple[Counter[str], list[Failure]]:
    """Take cases in turn from the kinds until there are `cases` of each or the time is over."""
    done: Counter[str] = Counter()
    failures: list[Failure] = []
    known: set[str] = set()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="ajepa-fuzz-") as folder:
        worker = Worker(Path(folder))
        try:
            for number in range(cases):
                for kind in kinds:
                    if time.monotonic() > end:
                        return done, failures
                    reason = worker.judge(kind, seed, number)
                    done[kind] += 1
                    if reason:
                        failures.append(Failure(kind, number, reason))
                        new = _alike(reason) not in known
                        known.add(_alike(reason))
                        if out and new:
                            make(kind, seed, number, out / f"{kind}-{seed}-{number}")
                            print(f"{kind} {seed} {number}: {reason}", file=sys.stderr, flush=True)
        finally:
            worker.stop()
    return done, failures


def _alike(reason: str) -> str:
    """The reason without numbers and paths, to tell new failures from known ones."""
    words = (word for word in reason.split() if "/" not in word)
    return "".join(c for c in " ".join(words) if not c.isdigit())[:80]
