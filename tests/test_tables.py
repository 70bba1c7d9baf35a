"""The tables of scores in the pages are those of the records in docs/results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from tables import seeds_needed  # noqa: E402


def test_the_tables_are_those_of_the_records() -> None:
    script = ROOT / "benchmarks" / "tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("difference", "of_clips", "of_seeds", "expected"),
    [
        (0.01, 0.0, 0.02, 16),  # 1.96 x 0.02 / sqrt(16) = 0.0098
        (0.02, 0.0, 0.02, 4),
        (0.01, 0.004, 0.02, 40),  # of the variance that 0.01 allows, the clips leave 39 %
        (0.01, 0.02, 0.0, None),
        (0.001, 0.0, 0.0, 3),
    ],
)
def test_seeds_that_would_tell_a_difference(
    difference: float, of_clips: float, of_seeds: float, expected: int | None
) -> None:
    """Standard deviations over clips and over seeds; measured with two seeds."""
    half = 1.96 * (of_clips**2 + of_seeds**2 / 2) ** 0.5
    found = seeds_needed(difference, half, 2, of_seeds**2)
    assert found == expected
    if found and of_seeds:
        width = [1.96 * (of_clips**2 + of_seeds**2 / seeds) ** 0.5 for seeds in (found, found - 1)]
        assert width[0] <= difference < width[1]
