"""A short, seeded run of `make fuzz`; found kinds of failure have tests of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.cases import KINDS
from tests.fuzz.runner import Worker, run


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mutated_files_are_read_or_refused_in_one_line() -> None:
    done, failures = run(list(KINDS), seed=1, cases=20, seconds=1800, out=None)
    assert failures == []
    assert all(done[kind] == 20 for kind in KINDS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_case_that_crashes_is_noticed(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.process.kill()
    assert worker.judge("table", 0, 1) == "ends the process: SIGKILL"
    assert worker.judge("table", 0, 0) == ""
    worker.stop()
