"""Commands of stock toolkits, each in a process of its own with the cures it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


class EvaluationError(RuntimeError):
    """A harness command failed; the message names it and where its output lies."""


def run_stock(
    module: str, arguments: Sequence[str], cwd: Path, log: Path, device: str | None = None
) -> float:
    """Run a stock module in a process of its own with the cures it needs; see `run_module`."""
    return run_module("ajepa.cli", ["harness", "run", module, *arguments], cwd, log, device)


def run_module(
    module: str,
    arguments: Sequence[str],
    cwd: Path,
    log: Path,
    device: str | None = None,
    threads: int | None = None,
) -> float:
    """Run `python -m module arguments...` in a process of its own; returns its seconds.

    Args:
        log: gets all that it prints.
        device: "cpu" hides GPUs from it: toolkits choose for themselves.
        threads: that it may use; None leaves it to itself.

    Raises:
        EvaluationError: it failed; the message has the end of what it printed.
    """
    own = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    own |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONWARNINGS": "ignore"} | own,
        )
    if done.returncode:
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-8:])
        raise EvaluationError(f"`python -m {module} {' '.join(arguments)}` failed; {log} ends with\n  {tail}")
    return time.perf_counter() - started


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package and of others, "not installed" where one is not."""
    found = {}
    for package in ("ajepa", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
