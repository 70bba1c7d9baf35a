"""Curves of runs: what was logged, once for each step, as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ajepa import pretrain
from ajepa.cli import main
from ajepa.pictures.curves import POINTS, CurvesError, curve, panels, read_metrics
from ajepa.recipes import Recipe


def write(run: Path, lines: list[str]) -> Path:
    run.mkdir()
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_a_continued_run_counts_each_step_once(tmp_path: Path) -> None:
    lines = [
        json.dumps({"step": step, "loss": loss}) for step, loss in [(1, 3.0), (2, 9.0), (2, 2.0), (3, 1.0)]
    ]
    lines.insert(2, '{"step": 2, "lo')  # where the kill cut it off
    assert curve(read_metrics(write(tmp_path / "run", lines)), "loss") == ([1, 2, 3], [3.0, 2.0, 1.0])


def test_long_runs_are_averaged_and_gaps_left_out() -> None:
    rows = [{"step": step, "loss": float(step % 2), "rankme": float("nan")} for step in range(10 * POINTS)]
    steps, values = curve(rows, "loss")
    assert len(steps) == POINTS and set(values) == {0.5}
    assert curve(rows, "rankme") == ([], [])


def test_command_draws_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        write(tmp_path / name, [json.dumps({"step": step, "loss": 1.0 / (step + 1)}) for step in range(5)])
        for name in ("a", "b")
    ]
    out = tmp_path / "new" / "curves.png"
    assert main(["curves", f"first={runs[0]}", str(runs[1]), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "loss" in capsys.readouterr().out


def test_each_gauge_is_explained(tmp_path: Path) -> None:
    """In the picture, below its panel; matplotlib repeats each line of text in an SVG as a comment."""
    run = write(tmp_path / "run", [json.dumps({"step": 1, "rankme": 3.0})])
    assert main(["curves", str(run), "--out", str(tmp_path / "curves.svg")]) == 0
    lines = re.findall("<!-- (.*?) -->", (tmp_path / "curves.svg").read_text())
    assert panels()["rankme"].explanation in " ".join(lines)


def test_everything_that_a_run_logs_is_explained(tiny_recipe: Recipe) -> None:
    settings = {"lr", "momentum"}  # the recipe's schedules
    logged = read_metrics(pretrain(tiny_recipe).parent)[-1].keys() - settings - {"step", "broken"}
    known = panels()
    assert logged <= known.keys()
    for title, explanation in known.values():
        assert title and explanation.endswith(".") and len(explanation) < 300


def test_a_run_whose_path_has_an_equals_sign(tmp_path: Path) -> None:
    run = write(tmp_path / "lr=1e-3", [json.dumps({"step": 1, "loss": 1.0})])
    for text in (str(run), f"mine={run}"):
        assert main(["curves", text, "--out", str(tmp_path / "curves.png")]) == 0


def test_a_folder_without_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CurvesError, match="no metrics in it"):
        read_metrics(write(tmp_path / "run", ["nothing"]))
    assert main(["curves", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert "ajepa pretrain" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, out = json.dumps({"step": 1, "loss": 1.0}), tmp_path / "curves.png"
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        write(tmp_path / parent / "run", [line])
    logs = [str(tmp_path / parent / "run" / "metrics.jsonl") for parent in ("a", "b")]
    assert main(["curves", *logs, "--out", str(out)]) == 2
    assert "both called run; tell them apart by NAME=RUN" in capsys.readouterr().err
    assert main(["curves", logs[0], f"other={logs[1]}", "--out", str(out)]) == 0


@pytest.mark.parametrize("command", [["curves", "run"], ["masks", "ajepa-small-cpu"]])
def test_no_kind_of_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    write(tmp_path / "run", [json.dumps({"step": 1, "loss": 1.0})])
    for name in ("curves.pictures", "curves"):
        assert main([*command, "--out", str(tmp_path / name)]) == 2
        assert ".png" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
