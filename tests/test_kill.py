"""Commands that are killed at random times: a short part of benchmarks/kill.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ajepa.data import open_clips
from ajepa.data.pack import write_shards

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks after torch was imported")
def test_killed_commands_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "pretrain", "several", "shard", "predict", "--kills", "4"]
    subprocess.run([*command, "--json", str(tmp_path / "found.json")], check=True, env=ONE_THREAD)
    for row in json.loads((tmp_path / "found.json").read_text()).values():
        assert row["kills"] >= 4 and row["finished"] >= 1
        assert row["failed"] == row["differ"] == row["leaked"] == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_of_several_that_is_killed_is_said(tmp_path: Path) -> None:
    """The others leave its clips: without a word the command would seem to have done them."""
    soundfile.write(tmp_path / "a.wav", np.zeros(4_000), 16_000)
    command = ["embed", str(tmp_path / "a.wav"), "--out", str(tmp_path / "e.parquet"), "--devices", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ajepa.cli", *command], stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(found := children.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(int(found[0]), signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "a process was ended by SIGKILL; the same command goes on" in said


def test_shards_that_were_finished_by_a_killed_process(tmp_path: Path) -> None:
    """It was killed after the last file and before its notes were gone."""
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.zeros(4_000), 16_000)
    clips, out = open_clips(tmp_path / "audio"), tmp_path / "shards"
    listing = write_shards(clips, out)
    (out / ".progress").mkdir()
    (out / ".progress" / "000000.json").touch()
    assert write_shards(clips, out) == listing
    assert sorted(path.name for path in out.iterdir()) == ["index.parquet", "shard-000000.tar", "shards.json"]
