"""The early ends of a run: a value that is not finite, a signal, a process that died."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from ajepa.distributed import ranks
from ajepa.errors import AjepaError

# How long a process that failed waits to see whether another has ended, and all wait for each other at first.
PATIENCE_SECONDS = 10.0


class TrainingError(AjepaError, RuntimeError):
    """A run cannot continue; the message says at which step, on which files, and what to do."""


class FiniteGuard:
    """Stops the run when a loss or the gradients' norm is not finite.

    On a GPU a step's numbers are read one step later: reading them at once would leave the GPU idle until the
    next step is launched. `settle` reads the outstanding ones; call it before anything is saved, so that no
    checkpoint ever holds a NaN.
    """

    def __init__(self) -> None:
        self._step, self._files = 0, [""]
        self._outstanding: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def note(self, step: int, loss: Tensor, norm: Tensor | None, files: list[str]) -> None:
        """Take a step's loss and gradient norm.

        Raises:
            TrainingError: a number is not finite: on a GPU one of the step before, elsewhere of this step.
        """
        self.settle()
        self._step, self._files = step, files
        norm = torch.zeros_like(loss) if norm is None else norm
        values = torch.stack([loss.detach().float(), norm.detach().float().to(loss.device)])
        if values.is_cuda:
            self._outstanding = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._outstanding = values
            self.settle()

    def settle(self) -> None:
        """Read the outstanding numbers."""
        if self._outstanding is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        values, self._outstanding = self._outstanding.tolist(), None
        for name, value in zip(("loss", "gradient's norm"), values, strict=True):
            if not math.isfinite(value):
                names = "\n  ".join(sorted(set(self._files)))
                raise TrainingError(
                    f"step {self._step}: the {name} is {value}. The last checkpoint is whole: begin another "
                    "--run.out with encoder.init=CHECKPOINT and a lower optim.lr, a longer "
                    f"optim.warmup_steps or --run.precision 32-true. Look at this "
                    f"batch's files for damaged audio:\n  {names}"
                )


class Stop:
    """Ctrl-C, SIGTERM and a closed terminal: the current step is finished and a checkpoint written.

    A second signal has its usual effect, so that a hanging process can still be stopped.
    """

    def __init__(self) -> None:
        self.received = False

    def agreed(self, device: torch.device, look: bool) -> bool:
        """Whether to stop here. Processes must stop after the same step, so they agree at `look`."""
        if ranks() == 1:
            return self.received
        if not look:
            return False
        flag = torch.tensor(float(self.received), device=device)
        distributed.all_reduce(flag)
        return bool(flag.item())


@contextmanager
def signals() -> Iterator[Stop]:
    """Note the first of these signals instead of ending the process."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        stop.received = True
        for each in numbers:
            signal.signal(each, previous[each])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, previous[number])


class Lifelines:
    """Connections between the first process of a run and all others, over which nothing is sent.

    The system closes them when a process ends, however it ends. The error of a collective operation is less
    clear: Gloo reports a lost process as a plain RuntimeError, like a wrong shape. All processes must make
    theirs together. Without a connection a lost process is not noticed.
    """

    def __init__(self) -> None:
        self._lines: list[socket.socket] = []
        if ranks() == 1:
            return
        first = distributed.get_rank() == 0
        server = _server() if first else None
        port: list[Any] = [server.getsockname()[1] if server else None]
        distributed.broadcast_object_list(port)
        try:
            if server is None:
                address = (os.environ["MASTER_ADDR"], port[0])
                self._lines.append(socket.create_connection(address, PATIENCE_SECONDS))
            else:
                with server:
                    for _ in range(ranks() - 1):
                        self._lines.append(server.accept()[0])
        except OSError as error:
            print(f"a lost process will not be recognised: {error}", file=sys.stderr)

    def cut(self) -> bool:
        """Whether a process at the other end has ended; waits some seconds for it.

        Loader processes keep their parent's end open until they notice its end, for up to 5 s.
        """
        return bool(self._lines) and bool(select.select(self._lines, [], [], PATIENCE_SECONDS)[0])

    def close(self) -> None:
        """Close this process's ends."""
        for line in self._lines:
            line.close()


def _server() -> socket.socket:
    """A server on a free port of this machine, for IPv4 and if possible IPv6."""
    both = socket.has_dualstack_ipv6()
    server = socket.create_server(
        ("", 0), family=socket.AF_INET6 if both else socket.AF_INET, backlog=ranks(), dualstack_ipv6=both
    )
    server.settimeout(PATIENCE_SECONDS)
    return server


@contextmanager
def lost_peers() -> Iterator[None]:
    """Report that another process of the run has ended, if this one failed for that reason.

    Raises:
        TrainingError: an operation failed because another process has ended.
    """
    lifelines = Lifelines()
    try:
        yield
    except AjepaError:
        raise
    except RuntimeError as error:
        if lifelines.cut():
            raise TrainingError(
                "another process of this run has ended or cannot be reached; its own message says why. The "
                "last checkpoint is whole: start all processes again with the same command to continue from "
                f"it. ({str(error).splitlines()[0]})"
            ) from error
        raise
    finally:
        lifelines.close()
