"""`ajepa compare` in several processes and through submitit: the same cells, and the rest when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval import protocols
from ajepa.eval.compare import engines
from ajepa.eval.compare.cells import Cell, Shelf, grouped, plan, run_cells
from ajepa.eval.compare.engines import Engine, EngineError, Processes, Resumable, Submitit, ThisProcess
from ajepa.eval.compare.run import Comparison, compare
from ajepa.eval.protocols import Bench, Conditions, Protocol, TaskEntry
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.results.record import Record, read_records
from ajepa.eval.results.result import Result

PROBES: dict[str, dict[str, Any]] = {"linear": {}, "knn": {}}


@dataclass(frozen=True)
class Neighbours(Protocol):
    """The probe `knn` under the names of the protocols here."""

    layer: str = "last"

    @property
    def embeds(self) -> int:
        return 1 if self.layer == "last" else 2

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        return Probing("knn", self.layer).run(bench, entry, folder)


@dataclass(frozen=True)
class Fatal(Neighbours):
    """A probe whose process is killed, as when memory runs out, with one model."""

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        if bench.name == "log-mel":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(bench, entry, folder)


@dataclass(frozen=True)
class Defective(Neighbours):
    """A probe with an error that nobody has thought of."""

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        raise KeyError("neighbour")


@dataclass(frozen=True)
class Counting(Neighbours):
    """A probe that leaves a line in a file whenever it is run."""

    file: str = ""

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        with Path(self.file).open("a") as file:
            file.write(f"{entry.name}\n")
        time.sleep(0.3)
        return super().run(bench, entry, folder)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    write_esc50(tmp_path / "esc50", clips_per_class=10, classes=3, seconds=0.3)
    return tmp_path / "esc50"


@pytest.fixture
def content(sounds: Path) -> dict[str, Any]:
    """Two models, two tasks, two protocols."""
    tasks = {
        "sounds": {"task": "esc10", "data": str(sounds)},
        "table": {"task": "esc50", "data": str(sounds)},
    }
    models = {"log-mel": "logmel", "naive": "hear-naive"}
    return {"models": models, "tasks": tasks, "protocols": list(PROBES), "baseline": "log-mel"}


def engine(kind: str, tmp_path: Path) -> Engine:
    if kind == "submitit":
        pytest.importorskip("submitit", reason="needs the extra `cluster`")
        return Submitit(tmp_path / "jobs", {"timeout_min": 2}, jobs=2, cluster="local")
    return Processes(2) if kind == "processes" else ThisProcess()


@pytest.fixture(autouse=True)
def other_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """They import this module as `tests.…`."""
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    monkeypatch.setattr(engines, "POLL_SECONDS", 0.05)


def planned(comparison: Comparison, conditions: Conditions) -> list[Cell]:
    return plan(comparison, comparison.sources(), {}, conditions).cells


def scores(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(r.model, r.task, r.protocol, r.score, r.baseline) for r in records]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "submitit"])
def test_the_same_cells_as_in_one_process_but_for_the_killed_one(
    kind: str,
    content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One cell's process is killed and another has a defect: the others are those of a sound comparison."""
    monkeypatch.setitem(protocols.OURS, "fatal", Fatal)
    monkeypatch.setitem(protocols.OURS, "defective", Defective)
    content["tasks"].pop("table")
    sound = Comparison(**content)
    # The fatal one needs all layers and goes first: those behind it in its group are done all the same.
    ill = Comparison(**content | {"protocols": {"fatal": {"layer": "best"}, "defective": {}} | PROBES})
    out, cache = tmp_path / "there", tmp_path / "other"
    here, _ = compare(sound, tmp_path / "here", tmp_path / "cache")
    there, failures = compare(ill, out, cache, engine=engine(kind, tmp_path), threads=1)

    reasons = {(failure.model, failure.protocol): failure.reason for failure in failures}
    killed = reasons.pop(("log-mel", "fatal"))
    assert "SIGKILL" in killed or "job" in killed
    assert reasons == dict.fromkeys(
        [("log-mel", "defective"), ("naive", "defective")], "KeyError: 'neighbour'"
    )
    assert "failed: log-mel on sounds, fatal: " in capsys.readouterr().err
    check_defects(out)

    computed = {(r.model, r.protocol) for r in there if not r.details["embeddings_cached"]}
    assert computed == {("log-mel", "linear"), ("naive", "fatal")}, "probes on a task share embeddings"
    there = [record for record in there if record.protocol in PROBES]
    assert len(there) == 4 and scores(here) == scores(there)
    assert {record.threads for record in there} == {1}

    cells = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert {p.name for p in cells} > {p.name for p in (tmp_path / "here" / "cells").iterdir()}
    again, failures = compare(sound, out, cache, engine=engine(kind, tmp_path))
    assert again == there and not failures
    assert cells == {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


def test_an_unforeseen_error_costs_one_cell(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(protocols.OURS, "defective", Defective)
    content["protocols"] = ["defective", "knn"]
    content["tasks"].pop("table")
    out = tmp_path / "out"
    records, failures = compare(Comparison(**content), out, tmp_path / "cache", threads=1)
    assert {f.protocol for f in failures} == {"defective"} and len(failures) == len(records) == 2
    assert failures[0].reason == "KeyError: 'neighbour'"
    check_defects(out)


def check_defects(out: Path) -> None:
    texts = [path.read_text() for path in (out / "work").glob("*.error")]
    traces = [text for text in texts if text.startswith("KeyError")]
    assert len(traces) == 2 and all("in run" in text for text in traces), "where it happened is kept"
    assert "failed: KeyError" in (out / "table.md").read_text()


def test_processes_that_do_not_start_end_the_comparison(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cell of a group was tried: it is not started for ever."""
    content["models"].pop("naive")
    content["tasks"].pop("table")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "filelock.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    records, failures = compare(
        Comparison(**content), tmp_path / "out", tmp_path / "cache", engine=Processes(2), threads=1
    )
    assert not records and len(failures) == 2
    assert "ended with status" in failures[0].reason


@pytest.mark.slow
def test_two_at_the_same_time_share_the_work(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes at the same cells: each is run once."""
    monkeypatch.setitem(protocols.OURS, "counting", Counting)
    ran = tmp_path / "ran.txt"
    content["protocols"] = {"counting": {"file": str(ran)}}
    comparison = Comparison(**content)
    conditions = Conditions(tmp_path / "out", tmp_path / "cache", threads=1)
    cells = planned(comparison, conditions)
    both = Processes(2)
    group = [cell for cell in cells if cell.model == "log-mel"]
    for _ in range(2):
        both.start(group, conditions)
    ended: list[tuple[list[Cell], str]] = []
    while len(ended) < 2:
        ended += both.ended()
    assert [how for _, how in ended] == ["", ""]
    assert sorted(ran.read_text().split()) == ["sounds", "table"]
    assert all(Shelf(tmp_path / "out").finished(cell) for cell in group)
    run_cells(group, conditions)
    assert len(ran.read_text().split()) == 2, "a finished cell is not run again"


def test_groups_are_what_shares_embeddings(content: dict[str, Any], tmp_path: Path) -> None:
    content |= {"models": {"twin": "ajepa-small-cpu", "mae": "audio-mae-small-cpu"}, "baseline": "mae"}
    content["protocols"] = {"knn": {}, "layers": {"protocol": "linear", "layer": "weighted"}, "finetune": {}}
    cells = planned(Comparison(**content), Conditions(tmp_path, tmp_path))
    assert len({cell.key for cell in cells}) == 12
    found = [[(c.model, c.entry.name, c.protocol) for c in group] for group in grouped(cells, split=True)]
    assert len(found) == 8
    assert [("twin", "sounds", "layers"), ("twin", "sounds", "knn")] in found, "all layers first"
    assert [("twin", "table", "finetune")] in found
    assert [{cell.model for cell in group} for group in grouped(cells, split=False)] == [
        {"twin"},
        {"mae"},
    ]


def test_one_process_tells_of_each_cell_as_it_ends(content: dict[str, Any], tmp_path: Path) -> None:
    content["tasks"].pop("table")
    conditions = Conditions(tmp_path / "out", tmp_path / "cache")
    here, shelf = ThisProcess(), Shelf(tmp_path / "out")
    first, second = (cell for cell in planned(Comparison(**content), conditions) if cell.model == "log-mel")
    here.start([first, second], conditions)
    assert not here.has_room()
    assert here.ended() == [([first], "")]
    assert shelf.finished(first) and not shelf.finished(second)
    assert here.ended() == [([second], "")]
    assert shelf.finished(second) and here.has_room()
    assert here.ended() == []


def test_cells_are_planned_where_their_device_is_not(content: dict[str, Any], tmp_path: Path) -> None:
    """As on a cluster's login node."""
    content["models"]["twin"] = "ajepa-small-cpu"
    found = [
        [cell.key for cell in planned(Comparison(**content), Conditions(tmp_path, tmp_path, device=device))]
        for device in (None, "cuda:99")
    ]
    assert found[0] == found[1] and len(found[0]) == 12


def test_a_job_has_the_threads_of_its_processors(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not those that the submitting machine has for each of its jobs."""
    content["tasks"].pop("table")
    conditions = Conditions(tmp_path / "out", tmp_path / "cache", threads=1)
    cell, *_ = planned(Comparison(**content), conditions)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # set by the job, and put back after this test
    before = torch.get_num_threads()
    try:
        Resumable()([cell], conditions)
    finally:
        torch.set_num_threads(before)
    (result,) = Shelf(tmp_path / "out").read(cell)
    assert result.record.threads == 3


@pytest.mark.slow
def test_ctrl_c_leaves_what_is_finished(content: dict[str, Any], tmp_path: Path) -> None:
    content["models"] = {"twin": "ajepa-small-cpu"}
    content["tasks"].pop("table")
    content["protocols"] = {"knn": {}, "finetune": {"set": {"epochs": 10_000}}}
    content.pop("baseline")
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "ajepa.cli",
        "compare",
        str(tmp_path / "compare.yaml"),
        "--out",
        str(out),
    ]
    running = subprocess.Popen(
        [*command, "--cache", str(tmp_path / "cache"), "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    lines = []
    for line in running.stderr:
        lines.append(line)
        if line.startswith("twin on sounds, knn: "):
            break
    running.send_signal(signal.SIGINT)
    rest = running.stderr.read()  # ends when the last process that could write has ended
    assert running.wait(60) == 130, "".join(lines) + rest
    assert "the same command continues" in rest and "Traceback" not in rest
    (file,) = (out / "cells").glob("*.json")
    (record,) = read_records(file)
    assert record.protocol == "knn"


def test_wrong_use_is_one_line(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content))
    command = ["compare", str(tmp_path / "compare.yaml"), "--out", str(tmp_path / "out")]
    for options, words in (
        (["--jobs", "0"], "--jobs is 0"),
        (["--slurm", "timeout_min=3"], "--slurm needs --submitit"),
        (["--submitit", str(tmp_path), "--slurm", "partition"], "give KEY=VALUE"),
    ):
        assert main([*command, *options]) == 2
        assert words in capsys.readouterr().err


def test_parameters_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="needs the extra `cluster`")
    Submitit(tmp_path, {"timeout_min": 5, "partition": "gpu", "slurm_qos": "low"}, cluster="local")
    with pytest.raises(EngineError, match="slurm_colour"):
        Submitit(tmp_path, {"colour": "red"}, cluster="local")
    with pytest.raises(EngineError, match="timeout_min"):
        Submitit(tmp_path, {"timeout_min": "long"}, cluster="local")
    assert Submitit(tmp_path, cluster="local").jobs == 1
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(EngineError, match=r"ajepa\[cluster\]"):
        Submitit(tmp_path)
