"""Commands without the seconds that their imports take: forks of one process that has done the imports.

For tests that start one toolkit many times. That the commands start as they are is seen in
test_encoders_in_toolkits.py and in the tests of each toolkit's own commands.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from ajepa import harness
from ajepa.eval.toolkits import commands

PRELOADED = ("tests.test_embed", "tests.test_resume", "ajepa.cli.embed", "ajepa.cli.pretrain")
HEAR = (
    "heareval.embeddings.task_embeddings",
    "heareval.predictions.task_predictions",
    "ajepa.hear_module",
    "ajepa.eval.logmel",
)
S3PRL = ("s3prl.downstream.runner", "ajepa.s3prl_upstream")
XARES = ("xares.task", "ajepa.eval.models.open")
PRETRAINING = ("ajepa.cli.pretrain", "ajepa.training.loop")
TOOLKITS = ("heareval", "s3prl", "xares")


def context() -> ForkServerContext:
    """Of processes that are forks, too: for tests that kill commands of ours."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(PRELOADED))
    return found


@cache
def server(*modules: str) -> subprocess.Popen[str]:
    """A process that has imported these modules, those of toolkits cured. It ends with this one."""
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", *modules],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(started.communicate)
    return started


@contextmanager
def forked(modules: Sequence[str]) -> Iterator[None]:
    """`run_module` starts forks of a process that has imported these modules."""
    one_at_a_time = threading.Lock()

    def run(
        command: Sequence[str], cwd: Path, stdout: TextIO, stderr: int, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        assert command[1] == "-m" and stderr == subprocess.STDOUT
        request = {"command": command[2:], "cwd": str(cwd), "log": stdout.name, "env": dict(env)}
        with one_at_a_time:
            forks = server(*modules)
            assert forks.stdin and forks.stdout
            print(json.dumps(request), file=forks.stdin, flush=True)
            return subprocess.CompletedProcess(command, int(forks.stdout.readline()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
        yield


def serve(modules: Sequence[str]) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no reply
    for name in modules:
        (harness.imported if name.partition(".")[0] in TOOLKITS else import_module)(name)
    for line in sys.stdin:
        if not (child := os.fork()):
            start(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=replies, flush=True)


def start(command: list[str], cwd: str, log: str, env: dict[str, str]) -> None:
    """As `python -m command` in that folder."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = command
    code: object = 0
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: libraries would wait for threads that only the process before the fork has.
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1:])
