"""`ajepa watch`: a running pre-training in the terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS = 2.0  # between two looks at the folder


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    watch = commands.add_parser(
        "watch",
        help="follow a run in the terminal: loss, gauges, time left, warnings",
        description="Follow a run until it ends. q or Ctrl-C leaves, and the run goes on. Everything is read "
        "from the run's folder, so you can watch from another terminal or machine, and after the run has "
        "ended. If the output is not a terminal, the state is printed once.",
    )
    watch.add_argument("folder", type=Path, metavar="RUN", help="folder of a run, the recipe's run.out")
    watch.add_argument("--once", action="store_true", help="print the state once and exit")
    watch.set_defaults(run=run_watch)


def run_watch(options: argparse.Namespace) -> None:
    """`ajepa watch`."""
    from rich.console import Console
    from rich.live import Live

    from ajepa.pictures.progress import read_progress
    from ajepa.pictures.terminal import view

    console = Console(highlight=False)
    progress = read_progress(options.folder)
    if console.is_terminal and not options.once:
        with (
            suppress(KeyboardInterrupt),
            _keys() as pressed_q,
            Live(view(progress), console=console, screen=True, auto_refresh=False) as live,
        ):
            while progress.state in ("starting", "running") and not pressed_q(SECONDS):
                progress = read_progress(options.folder)
                live.update(view(progress), refresh=True)
    console.print(view(progress))


def _asleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits for some seconds, or until a key is pressed, and says whether it was q."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield _asleep
        return
    import select
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard, termios.TCSADRAIN)  # keys arrive at once, and are not shown

    def pressed_q(seconds: float) -> bool:
        if not select.select([keyboard], [], [], seconds)[0]:
            return False
        letters = os.read(keyboard, 64)
        return b"q" in letters.lower() or not letters  # nothing to read: the terminal is gone

    try:
        yield pressed_q
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
