"""Commands of stock toolkits, each in its own process with the fixes that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ajepa.contents import ContentError, read_json
from ajepa.eval.results.errors import EvaluationError
from ajepa.files import set_aside, write_json


class ToolkitError(EvaluationError):
    """A toolkit's command has failed; the lines after the first are the end of its output."""

    one_line = False


def run_stock(
    module: str, arguments: Sequence[str], cwd: Path, log: Path, device: str | None = None
) -> float:
    """Run a stock module in its own process with the fixes that it needs; see `run_module`."""
    return run_module("ajepa.cli", ["harness", "run", module, *arguments], cwd, log, device)


def run_module(
    module: str,
    arguments: Sequence[str],
    cwd: Path,
    log: Path,
    device: str | None = None,
    threads: int | None = None,
    append: bool = False,
) -> float:
    """Run `python -m module arguments...` in its own process; returns the seconds it took.

    Args:
        log: receives all its output.
        device: "cpu" hides GPUs from it, because toolkits choose the device themselves.
        threads: number of threads it may use; None leaves the choice to it.
        append: add to the log, for a command that continues where an earlier process stopped.

    Raises:
        EvaluationError: it failed; the message has the end of its output.
    """
    own = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    own |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    # Modules that a model's source names may be in the folder where the user's command runs.
    paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    own["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    started = time.perf_counter()
    with log.open("a" if append else "w") as file:
        begun = file.tell()
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONWARNINGS": "ignore"} | own,
        )
    if done.returncode:
        output = log.read_bytes()[begun:].decode(errors="replace")
        tail = "\n  ".join(output.splitlines()[-8:])
        raise ToolkitError(f"`python -m {module} {' '.join(arguments)}` failed; {log} ends with\n  {tail}")
    return time.perf_counter() - started


@contextmanager
def timed(file: Path, log: Path) -> Iterator[float]:
    """The seconds that earlier processes spent on a command that goes on where it was stopped.

    Args:
        file: keeps when this process began; removed once it has ended well.
        log: its output, which says when a process that was killed had last been at work.
    """
    before = 0.0
    if file.is_file() and log.is_file():
        with suppress(ContentError):  # damaged: what was spent is not known
            found = read_json(file, ["before", "began"])
            before = found["before"] + max(0.0, log.stat().st_mtime - found["began"])
    write_json(file, {"before": before, "began": time.time()})
    yield before
    file.unlink()


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package and of others, "not installed" for missing ones."""
    found = {}
    for package in ("ajepa", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def kept(path: Path, needed: Sequence[str]) -> dict[str, Any] | None:
    """What an earlier run of a toolkit left in a JSON file; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        return read_json(path, needed)
    except ContentError as error:
        set_aside(path, error, "the toolkit runs again")
        return None
