"""`ajepa watch`: where a run stands, what looks wrong, and when it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ajepa import pretrain
from ajepa.cli import main
from ajepa.pictures.curves import panels
from ajepa.pictures.progress import Progress, duration, read_progress, warnings
from ajepa.pictures.terminal import sparkline
from ajepa.recipes import Recipe, dump_recipe

HEALTHY = {"loss": 1.0, "rankme": 20.0, "clips_per_s": 8.0, "data_wait": 0.01, "broken": 0.0}


@pytest.fixture
def run(tmp_path: Path, tiny_recipe: Recipe) -> Path:
    """The folder of a run that is to do 100 steps of 4 clips, and has begun."""
    folder = tmp_path / "slow"
    folder.mkdir()
    recipe = replace(tiny_recipe, optim=replace(tiny_recipe.optim, steps=100))
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / ".lock").touch()
    return folder


def log(folder: Path, *rows: dict[str, Any]) -> Progress:
    """Write lines, one for every ten steps, and read the folder."""
    lines = [json.dumps({"step": 10 * number} | HEALTHY | row) for number, row in enumerate(rows, start=1)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return read_progress(folder)


def test_a_finished_run(tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pretrain(tiny_recipe).parent
    progress = read_progress(folder)
    assert (progress.state, progress.step, progress.seconds_left) == ("finished", 6, 0.0)
    # How long six steps of milliseconds wait for audio is the machine's affair.
    assert not [line for line in warnings(progress) if not line.startswith("training waits for audio")]
    assert main(["watch", str(folder)]) == 0  # the output is no terminal: once
    shown = capsys.readouterr().out
    assert "finished" in shown and "step 6 of 6" in shown and "12 clips" in shown
    logged = {metric for row in progress.rows for metric in row}
    for metric, panel in panels().items():
        assert (panel.title.split()[0] in shown) or metric not in logged


def test_time_left_is_that_of_the_last_lines(run: Path) -> None:
    with FileLock(run / ".lock"):
        progress = log(run, {"clips_per_s": 0.5}, *[{}] * 9, {"clips_per_s": 2.0})
    assert progress.state == "running"
    # The last ten lines: nine of 40 clips at 8 a second, one of 40 at 2; the slow start is long ago.
    seconds = 9 * 5 + 20
    assert progress.clips_per_s == pytest.approx(400 / seconds)
    assert progress.seconds_trained == pytest.approx(80 + seconds)
    short = log(run, {}, {"clips_per_s": 4.0})  # 80 steps of 4 clips are left
    assert short.seconds_left == pytest.approx(320 / (80 / 15))


def test_a_healthy_run_has_no_warnings(run: Path) -> None:
    with FileLock(run / ".lock"):
        assert not warnings(log(run, {"rankme": 15.0, "probe": 0.3}, {}, {"probe": 0.4}))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{}, {"rankme": 1.2}], "RankMe is 1.20, so they lie on a line. What has helped A-JEPA"),
        ([{}, {"rankme": 9.0}], "rankme is 9, 20 at its highest"),
        ([{"rankme": 9.0}, {}, {"rankme": 8.0}], "step 30: representations are collapsing"),
        ([{}, {"grad_norm": float("nan")}], "step 20: grad_norm is nan. Try a lower optim.lr"),
        ([{"data_wait": 0.4}] * 3, "waits for audio for 40% of the time; more data.workers"),
        ([{"probe": 0.31}, {}, {"probe": 0.25}], "the probe, 0.250, is below its first value, 0.310"),
        ([{}, {"broken": 3}], "3 files could not be used; broken.txt"),
    ],
)
def test_what_looks_wrong(run: Path, rows: list[dict[str, float]], expected: str) -> None:
    with FileLock(run / ".lock"):
        (warning,) = warnings(log(run, *rows))
    assert expected in warning


def test_a_collapse_that_is_over_is_not_reported(run: Path) -> None:
    with FileLock(run / ".lock"):
        assert not warnings(log(run, {}, {"rankme": 9.0}, {}))


def test_silence(run: Path) -> None:
    """A process that holds the folder and writes nothing hangs; without one the run has ended."""
    log(run, {}, {})
    long_ago = time.time() - 600
    os.utime(run / "metrics.jsonl", (long_ago, long_ago))
    with FileLock(run / ".lock"):
        stalled = read_progress(run)
    assert stalled.state == "running"
    assert [text.split(",")[0] for text in warnings(stalled)] == ["no new line for 10 min"]
    ended = read_progress(run)
    assert ended.state == "stopped"
    assert "ended at step 20 of 100; the same command" in warnings(ended)[0]


def test_before_the_first_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(run / ".lock"):
        assert main(["watch", str(run), "--once"]) == 0
    assert "starting" in (shown := capsys.readouterr().out) and "no line of metrics yet" in shown
    assert main(["watch", str(tmp_path)]) == 2
    assert "no recipe.yaml in it; give the folder of a run" in capsys.readouterr().err


@pytest.fixture
def terminal(run: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`ajepa watch` of that run in a terminal, and the keyboard and screen of the terminal."""
    log(run, {}, {})
    keyboard, inside = pty.openpty()
    command = [sys.executable, "-m", "ajepa.cli", "watch", str(run)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    yield keyboard, process
    process.kill()
    process.wait()
    os.close(keyboard)


def seen(screen: int, until: str, seconds: float = 60) -> str:
    """What the screen has shown when `until` appears on it, or the program ends."""
    data, end = b"", time.monotonic() + seconds
    while until.encode() not in data and time.monotonic() < end:
        if select.select([screen], [], [], 1)[0]:
            try:
                data += os.read(screen, 65536)
            except OSError:  # the program has ended, and with it its side of the terminal
                break
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode(errors="ignore"))


@pytest.mark.parametrize("how", ["q", "Ctrl-C"])
def test_q_and_ctrl_c_leave(run: Path, terminal: Any, how: str) -> None:
    screen, process = terminal
    with FileLock(run / ".lock"):
        assert "step 20 of 100" in seen(screen, "last line")
        if how == "q":
            os.write(screen, b"q")
        else:
            process.send_signal(signal.SIGINT)
        assert "step 20 of 100" in seen(screen, "never")  # stays on the screen that was there before
        assert process.wait(10) == 0


def test_it_follows_the_run_to_its_end(run: Path, terminal: Any) -> None:
    screen, process = terminal
    with FileLock(run / ".lock"):
        seen(screen, "step 20 of 100")
        log(run, *[{}] * 3)
        assert "step 30 of 100" in seen(screen, "step 30 of 100")
    assert "the run ended at step 30" in seen(screen, "never")
    assert process.wait(10) == 0


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 3.0], 8) == "▁▁", "a constant, shorter than the line"
    line = sparkline([float(number % 10) for number in range(1000)], 50)
    assert len(line) == 50 and set(line) == {"▁"}, "means of whole periods"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (48, "48 s"),
        (185, "3 min 5 s"),
        (7980, "2 h 13 min"),
        (3600, "1 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
