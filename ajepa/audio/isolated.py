"""Decoding in a process that may die: for audio from strangers, whose damage can crash or hang a decoder.

With `isolate()` (`--isolate` of the commands) each thread that reads audio starts one helper process. A file
that ends it is an AudioError with the file's name, and the next file gets a new process. Shape suffixes: S
samples, X channels.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .errors import REMOVE, AudioError
from .source import AudioBytes, AudioSource

if TYPE_CHECKING:
    from .file import AudioFile

VARIABLE = "AJEPA_ISOLATE"  # worker processes inherit it
PATIENCE_SECONDS = 60.0  # for one answer; a block of samples takes milliseconds
_LENGTH = struct.Struct("<Q")
_numbers = count()


def isolate(on: bool = True) -> None:
    """Decode in helper processes from now on, also in processes that this one starts."""
    os.environ[VARIABLE] = "1" if on else ""


def is_isolated() -> bool:
    """Whether audio is decoded in a helper process."""
    return bool(os.environ.get(VARIABLE))


def inspect(path: AudioSource) -> AudioFile:
    """`ajepa.audio.file.inspect_file` in the helper; what it gives is decoded there too."""
    file: AudioFile = _helper().ask(path, ("inspect", _sent(path)))
    return replace(file, path=path, decoder=_Elsewhere(path))


@dataclass(frozen=True)
class _Elsewhere:
    """A decoder in the helper."""

    path: AudioSource

    def samples(self, first: int) -> Iterator[np.ndarray]:
        helper, number = _helper(), next(_numbers)
        helper.ask(self.path, ("open", number, _sent(self.path), first))
        try:
            while (block_SX := helper.ask(self.path, ("next", number))) is not None:
                yield block_SX
        finally:
            if helper.is_alive():
                helper.ask(self.path, ("close", number))


def _sent(path: AudioSource) -> AudioSource:
    """What the helper opens; audio within another file is sent whole."""
    if not isinstance(path, AudioBytes):
        return os.fspath(path)
    content = path.read(0, path.size)
    return AudioBytes(path.name, len(content), _Content(content))


@dataclass(frozen=True)
class _Content:
    content: bytes

    def __call__(self, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]


class _Helper:
    """A process that decodes for one thread. It ends with its input: with this process at the latest."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # a forked worker does not talk to its parent's helper
        code = f"import sys; sys.path[:] = {sys.path!r}; from ajepa.audio.isolated import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {VARIABLE: "", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def is_alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, path: AudioSource, request: tuple[Any, ...]) -> Any:
        """The answer. Raises what the helper met, or AudioError if it has ended or hangs."""
        try:
            _write(self._requests, request)
            if not select.select([self._answers], [], [], PATIENCE_SECONDS)[0]:
                self._process.kill()
                self._process.wait()
                raise AudioError.of(path, f"its decoder hangs, killed after {PATIENCE_SECONDS:g} s; {REMOVE}")
            answer = _read(self._answers)
        except (OSError, EOFError) as error:
            status = self._process.wait()
            name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            raise AudioError.of(path, f"its decoder crashed ({name}); {REMOVE}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


_of_this_thread = threading.local()


def _helper() -> _Helper:
    helper: _Helper | None = getattr(_of_this_thread, "helper", None)
    if helper is None or not helper.is_alive():
        helper = _of_this_thread.helper = _Helper()
    return helper


def _write(pipe: IO[bytes], message: Any) -> None:
    packed = pickle.dumps(message)
    pipe.write(_LENGTH.pack(len(packed)) + packed)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    """One message. Both ends are this package's own; EOFError if the other has ended."""
    head = pipe.read(_LENGTH.size)
    packed = pipe.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not packed:
        raise EOFError
    return pickle.loads(packed)


def serve() -> None:
    """The helper: answer requests from standard input until it ends."""
    from .file import inspect_file

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    opened: dict[int, Iterator[np.ndarray]] = {}
    while True:
        try:
            what, *arguments = _read(requests)
        except EOFError:
            return
        answer: Any = None
        try:
            if what == "inspect":
                answer = replace(inspect_file(*arguments), path=Path(), decoder=_Elsewhere(""))
            elif what == "open":
                number, path, first = arguments
                opened[number] = inspect_file(path).decoder.samples(first)
            elif what == "next":
                answer = next(opened[arguments[0]], None)
            else:
                opened.pop(arguments[0], None)
        except Exception as error:
            answer = error
        _write(answers, answer)
