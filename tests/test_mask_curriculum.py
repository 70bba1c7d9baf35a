"""The curriculum of masks: its progress functions, and its pictures."""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ajepa.cli import masks as masks_command
from ajepa.cli.usage import UsageError
from ajepa.masking import PROGRESS, MaskingConfig, hard_share, sample_masks
from ajepa.masking.config import Kind, Progress
from ajepa.nn.grid import PatchGrid
from ajepa.pictures.masks import MaskCase, cases_by_kind, mask_fractions
from ajepa.recipes import load_recipe

KINDS = get_args(Kind)
PURE_KINDS: list[Any] = ["block", "time-frequency", "random", "time+frequency"]
PAPER_GRID = PatchGrid(64, 8)


def test_curriculum_goes_from_block_to_time_frequency() -> None:
    config = MaskingConfig()
    assert hard_share(config, 0, 1000) == pytest.approx(0.01)
    assert hard_share(config, 1000, 1000) == 1.0
    assert hard_share(config, 250, 1000) == pytest.approx((0.25 * (1 - 1e-4) + 1e-4) ** 0.5)
    assert hard_share(MaskingConfig(kind="block"), 1000, 1000) == 0.0
    assert hard_share(MaskingConfig(kind="time-frequency"), 0, 1000) == 1.0


@given(
    st.sampled_from(get_args(Progress)), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=6)
)
def test_progress_never_falls_and_the_inverse_is_its_complement(
    name: Any, c0: float, places: list[float]
) -> None:
    steps = sorted(round(1000 * place) for place in places)
    config = MaskingConfig(progress=name, c0=c0)
    shares = [hard_share(config, step, 1000) for step in steps]
    assert all(0 <= share <= 1 for share in shares)
    assert all(late >= early - 1e-12 for early, late in pairwise(shares))
    inverse = MaskingConfig(kind="inverse", progress=name, c0=c0)
    assert [hard_share(inverse, step, 1000) for step in steps] == pytest.approx([1 - s for s in shares])


def test_progress_functions_are_their_formulas() -> None:
    assert set(PROGRESS) == set(get_args(Progress))
    c0, place = 0.01, 0.3
    expected = {f"root-{p}": (place * (1 - c0**p) + c0**p) ** (1 / p) for p in (3, 5, 10)}
    expected |= {
        "linear": place * (1 - c0) + c0,
        "sqrt": math.sqrt(place * (1 - c0**2) + c0**2),
        "geometric": c0 * (1 / c0) ** place,
        "step": c0,
    }
    assert {name: function(place, c0) for name, function in PROGRESS.items()} == pytest.approx(expected)
    for name, function in PROGRESS.items():
        assert (function(0.0, c0), function(1.0, c0)) == pytest.approx((c0, 1.0)), name
    assert PROGRESS["step"](0.5, c0) == 1.0


@pytest.mark.parametrize(
    ("progress", "kind", "now"),
    [
        ("constant-0", "curriculum", "block"),
        ("constant-1", "curriculum", "time-frequency"),
        ("constant-0", "inverse", "time-frequency"),
        ("constant-1", "inverse", "block"),
        ("constant-1", "random", "random"),
    ],
)
def test_constant_curricula_of_old_recipes_are_read_as_kinds(progress: str, kind: str, now: str) -> None:
    """Version 0.3.0 had two progress functions that never change: 0 or 1 throughout."""
    overrides = [f"objective.masking.progress={progress}", f"objective.masking.kind={kind}"]
    masking = load_recipe("ajepa-demo", overrides).objective.masking
    assert (masking.kind, masking.progress) == (now, "sqrt")
    if kind != "random":
        share = float(progress[-1]) if kind == "curriculum" else 1 - float(progress[-1])
        assert {hard_share(masking, step, 100) for step in (0, 40, 100)} == {share}


def test_curriculum_draws_its_share() -> None:
    """At a quarter of the way half of the masks are time-frequency: their targets are far smaller."""
    masks = sample_masks(MaskingConfig(), PAPER_GRID, 4000, 250, 1000, torch.Generator().manual_seed(0))
    hard = (masks.target_BMN.float().mean(-1) < 0.3).float().mean()
    assert hard == pytest.approx(0.5, abs=0.08)


def test_fractions_are_what_they_say() -> None:
    cases = {case.title: case for case in cases_by_kind(MaskingConfig())}
    assert list(cases) == PURE_KINDS
    fractions = mask_fractions(cases["time+frequency"], PAPER_GRID, clips=16)
    assert fractions["visible"]["min"] == fractions["visible"]["max"] == pytest.approx(95 / 512)
    assert fractions["targets"]["mean"] == pytest.approx(417 / 512)
    assert fractions["budget used"]["mean"] == pytest.approx(95 / 128)
    whole = mask_fractions(cases["random"], PAPER_GRID, clips=16)
    assert whole["context"]["mean"] == 0.25
    assert whole["budget used"]["min"] == 1.0
    # Half of the masks have some 47 % visible, the others some 16 %.
    middle = mask_fractions(MaskCase("", MaskingConfig(), 0.25), PAPER_GRID)
    assert middle["visible"]["mean"] == pytest.approx(0.315, abs=0.02)
    assert middle["visible"]["5 %"] < 0.12 < 0.5 < middle["visible"]["95 %"]


def run_masks(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    masks_command.add(parser.add_subparsers())
    options, rest = parser.parse_known_args(["masks", *arguments])
    options.rest = rest
    options.run(options)


def test_command_draws_and_tabulates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture, numbers = tmp_path / "masks.png", tmp_path / "masks.json"
    command = ["ajepa-demo", "--out", str(picture), "--json", str(numbers), "--clips", "2", "--draws", "200"]
    run_masks(*command, "data.crop_seconds=2.08")
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = json.loads(numbers.read_text())
    assert report["grid"] == {"time": 13, "freq": 8}
    assert len(report["fractions"]) == 5
    first, *_, last = report["fractions"].values()
    assert first["targets"]["mean"] > 2 * last["targets"]["mean"]
    printed = capsys.readouterr().out
    assert "13 x 8 patches" in printed and f"| {100 * first['visible']['mean']:.1f} |" in printed
    run_masks("ajepa-demo", "--kinds", "--draws", "20", "data.crop_seconds=10.24")
    assert "64 x 8 patches" in (printed := capsys.readouterr().out) and "| time+frequency |" in printed
    with pytest.raises(UsageError, match="--clips is 0"):
        run_masks("ajepa-demo", "--clips", "0")
