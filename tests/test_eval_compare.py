"""`ajepa compare`: cells that are run once, failures that stop nothing, and the tables."""

from __future__ import annotations

import copy
import csv
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval.compare.run import Comparison, ComparisonError, compare
from ajepa.eval.report import write_report
from ajepa.eval.results.kept import read_table
from ajepa.eval.results.published import LINEAR_TASKS, published
from ajepa.eval.results.record import Record, read_records
from ajepa.eval.results.table import markdown, table
from ajepa.eval.tasks import esc50
from ajepa.hear_module import tasks as hear_tasks
from tests import forks
from tests.hear_tasks import shorten_training


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sounds = tmp_path / "esc50"
    write_esc50(sounds, clips_per_class=10, classes=3, seconds=0.3)
    content = {
        "models": {
            "log-mel": "logmel",
            "naive": "hear-naive",
            "gone": str(tmp_path / "gone.safetensors"),
        },
        "tasks": {"esc10": {"data": str(sounds)}, "absent": {"task": "voxceleb1", "data": str(tmp_path)}},
        "protocols": ["linear", "knn"],
        "baseline": "log-mel",
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "compare.yaml"


def test_what_works_is_done_and_not_done_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["compare", str(file), "--out", str(out), "--cache", str(tmp_path / "cache")]
    assert main(command) == 1, "cells failed"
    printed = capsys.readouterr()
    assert "failed: gone on absent, linear and 3 other cells: " in printed.err
    assert "4 cells, 8 failed" in printed.out
    records = read_records(out / "records.json")
    assert {(r.model, r.task, r.protocol) for r in records} == {
        (model, "esc10", protocol) for model in ("log-mel", "naive") for protocol in ("linear", "knn")
    }
    for record in records:
        assert (record.baseline is not None) == (record.model == "naive")
    stamps = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert len(stamps) == 16, "a record, its draws, its answers and its features for each cell"
    assert main(command) == 1
    assert stamps == {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert read_records(out / "records.json") == records
    # One cell is lost: that one is run again, with the same result.
    lost = next(path for path in stamps if path.suffix == ".json")
    lost.unlink()
    assert main(command) == 1
    changed = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert {path.name.partition(".")[0] for path in changed} == {lost.stem} and len(changed) == 4
    again = read_records(out / "records.json")
    assert [(r.score, r.baseline) for r in again] == [(r.score, r.baseline) for r in records]
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert len(rows) == 12
    assert sum(row["remark"].startswith("failed: ") for row in rows) == 8
    assert (out / "table.md").read_text().splitlines()[0].startswith("| task | protocol | model | score")


def test_the_comparison_is_that_of_one_evaluation(file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(file.read_text())
    content["models"].pop("gone")
    content["tasks"].pop("absent")
    records, failures = compare(Comparison(**content), tmp_path / "out", tmp_path / "cache")
    assert not failures
    out = tmp_path / "both.json"
    command = ["evaluate", "linear", "--task", "esc10", "--data", content["tasks"]["esc10"]["data"]]
    command += ["--json", str(out), "--cache", str(tmp_path / "cache"), "--baseline", "log-mel"]
    assert main([*command, "--model", "log-mel=logmel", "--model", "naive=hear-naive"]) == 0
    found = next(r for r in records if (r.model, r.protocol) == ("naive", "linear"))
    assert found.baseline is not None and found.baseline == read_records(out)[1].baseline


def test_a_protocol_of_some_tasks(file: Path, tmp_path: Path) -> None:
    """The others need no folder for it."""
    content = yaml.safe_load(file.read_text())
    content["models"].pop("gone")
    content["tasks"]["absent"] = {"task": "esc10", "data": content["tasks"]["esc10"]["data"]}
    content["protocols"] = {"linear": {}, "nearest": {"protocol": "knn", "tasks": ["absent"]}}
    records, failures = compare(Comparison(**content), tmp_path / "out", tmp_path / "cache")
    assert not failures
    assert {(r.task, r.protocol) for r in records} == {
        ("esc10", "linear"), ("absent", "linear"), ("absent", "nearest")
    }  # fmt: skip
    entry = {"data": "x"}
    Comparison({"a": "logmel"}, {"b": entry, "c": {**entry, "hear": "y"}}, {"hear": {"tasks": ["c"]}})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2]", "no entries; a comparison has models"),
        ("{models: {a: logmel}, taks: {}}", "taks; a comparison has"),
        ("{models: {a: logmel}}", "tasks must be names"),
        ("{models: {a: logmel}, tasks: {esc10: {csv: x}}}", "task esc10 needs its data"),
        ("{models: {a: logmel}, tasks: {esc10: {data: x}}, baseline: b}", "baseline b is not a"),
        ("{models: {a: logmel}, tasks: {esc10: {data: x}}, precision: half}", "precision is 'half', must be"),
        ("{models: {a: [}", "not readable as YAML"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: []}", "protocols must be"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: [svm]}", "choose linear, knn, finetune"),
        (
            "{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {knn: {k: 3}}}",
            "k; knn takes layer, pool",
        ),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {knn: {layer: weighted}}}", "not with knn"),
        (
            "{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {knn: {tasks: [c]}}}",
            r"knn: tasks is \['c'\]; give a list of names of b",
        ),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {knn: {tasks: b}}}", "tasks is 'b'; give"),
        (
            "{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {finetune: {set: {x: 1}}}}",
            "is not a setting",
        ),
        (
            "{models: {a: logmel}, tasks: {table: {data: x, multilabel: true, finetune: "
            "{set: {loss: cross-entropy}}}}, protocols: [finetune]}",
            "clips of table have several labels; use bce",
        ),
        (
            "{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {finetune: {set: 3}}}",
            "give settings such",
        ),
        (
            "{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {finetune: {seeds: [a]}}}",
            "give different numbers",
        ),
        (
            "{models: {a: logmel}, tasks: {b: {data: x, finetune: {lr: 1}}}, protocols: [finetune]}",
            "finetune has lr",
        ),
        (
            "{models: {a: logmel}, tasks: {b: {data: x}}, protocols: [hear]}",
            "task b needs its folder for hear",
        ),
        ("{models: {a: logmel}, tasks: {b: {hear: x}}, protocols: [knn]}", "task b needs its data for knn"),
        ("{models: {a: x}, tasks: {b: {data: x}}, protocols: [xares]}", "b needs its folder for xares"),
        ("{models: {a: x}, tasks: {b: {s3prl: x}}, protocols: {s3prl: {steps: 0}}}", "steps is 0, must be"),
        (
            "{models: {a: x}, tasks: {b: {hear: x}}, protocols: {hear: {grid: slow}}}",
            "grid is 'slow'; choose",
        ),
        ("{models: {knn: logmel}, tasks: {b: {data: x}}, protocols: [knn], baseline: knn}", "rename one"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {linear: 3}}", "linear is 3; give its"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {a: {protocol: [knn]}}}", "choose linear"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {linear: {corrupt: 3}}}", "corrupt is 3"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, baseline: [a]}", r"baseline is \['a'\]; give text"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, pretrain: 3}", "pretrain is 3; give settings"),
        ("{models: {a: }, tasks: {b: {data: x}}}", "model a is None; give a source"),
        ("{models: {a: logmel}, tasks: {b: {data: 3}}}", "task b: data is 3; give text"),
        ("{models: {a: logmel}, tasks: {b: {data: x, task: [table]}}}", "task b: task is .*; give text"),
        (
            "{models: {a: logmel}, tasks: {b: {data: x, task: table, label: 3}}}",
            r"task b: label is 3; give text \(a number in quotes\)",
        ),
        ("{models: {a: logmel}, tasks: {b: {data: x, task: table, group: [1]}}}", r"group is \[1\]; give"),
        (
            "{models: {a: logmel}, tasks: {b: {data: x, task: table, multilabel: 'false'}}}",
            "multilabel is 'false'; give true or false",
        ),
        ("{models: {a: logmel}, tasks: {b: {data: x, task: table, path: y, fie: z}}}", "has no option fie"),
        ("{models: {a: logmel,\na: hear-naive}, tasks: {}}", "lines 1 and 2: the key a is given twice"),
        ("{models: {'a|b': logmel}, tasks: {b: {data: x}}}", r"models: the name 'a\|b' cannot stand"),
        ("{models: {'': logmel}, tasks: {b: {data: x}}}", "models: the name '' cannot stand"),
        ('{models: {a: logmel}, tasks: {"b\\nc": {data: x}}}', "tasks: the name .* cannot stand in a table"),
        ("{models: {0.1: logmel}, tasks: {b: {data: x}}}", "models: a name is text; put 0.1 in quotes"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, protocols: {no: {protocol: knn}}}", "put False in"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, pool: max}", "pool is 'max'; choose concat, mean"),
        ("{models: {a: logmel}, tasks: {b: {data: x}}, time: std}", "time is 'std'; choose mean, mean"),
        (
            "{models: {a: logmel}, tasks: {b: {data: x, finetune: {set: 3}}}, protocols: [finetune]}",
            "finetune is {'set': 3}; give settings",
        ),
    ],
)
def test_files_that_cannot_be_used(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "compare.yaml"
    path.write_text(content)
    with pytest.raises(ComparisonError, match=words):
        Comparison.read(path)
    with pytest.raises(ComparisonError, match="no such file"):
        Comparison.read(tmp_path / "absent.yaml")


EVERY_ENTRY = """
models:
  a: logmel
  b: {recipe: ajepa-small-cpu, seeds: [0], set: {optim.steps: 3}, weights: random, encoder: ''}
tasks:
  esc10: {data: x, csv: y, hear: h, s3prl: s, xares: e, verify: v, finetune: {recipe: esc50, set: {lr: 0.1}}}
protocols:
  linear: {layer: last, pool: mean, time: mean, class_weight: none, corrupt: [standard], noise: n}
  knn: {tasks: [esc10]}
  finetune: {recipe: esc50, set: {epochs: 3}, seeds: [0]}
  hear: {grid: fast, grid_points: 4}
  s3prl: {steps: 3, lr: 0.1, eval_every: 1, frequency: 20ms, cache_gigabytes: 1, workers: 1, seeds: [0]}
  xares: {frequency: 20ms, epochs: 1, lr: 0.1, seeds: [0]}
  verify: {layer: last, pool: mean, time: mean, center: 'no'}
  events: {layer: last, pool: mean, collar: 0.2}
baseline: a
pretrain: {optim.steps: 3}
"""


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a tree."""
    yield above
    for key in value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0):
        yield from places(value[key], (*above, key))


def test_any_value_in_any_place_is_read_or_refused(tmp_path: Path) -> None:
    """Never with an error of Python's own, which would be a defect of ours."""
    path, whole = tmp_path / "compare.yaml", yaml.safe_load(EVERY_ENTRY)
    for (*above, last), wrong in itertools.product(
        [place for place in places(whole) if place], ([[1]], None)
    ):
        content = copy.deepcopy(whole)
        reduce(getitem, above, content)[last] = wrong
        path.write_text(yaml.safe_dump(content))
        with suppress(ComparisonError):
            Comparison.read(path)


def test_a_file_where_a_folder_belongs_is_said_first(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    for option in ("--out", "--runs", "--cache"):
        command = [
            "compare",
            str(file),
            "--out",
            str(tmp_path / "out"),
            option,
            str(tmp_path / "taken" / "in"),
        ]
        assert main(command) == 2
        assert (
            f"{option} {tmp_path / 'taken' / 'in'}: cannot be written to; name a" in capsys.readouterr().err
        )


@pytest.mark.slow
def test_protocols_with_names_and_options(file: Path, tmp_path: Path) -> None:
    """Fine-tuning and layers among the probes; a protocol is the baseline, of each model on its own."""
    content = yaml.safe_load(file.read_text())
    content["models"] = {"twin": "ajepa-small-cpu"}
    content["tasks"].pop("absent")
    content["tasks"]["esc10"]["finetune"] = {"set": {"epochs": 1, "warmup_epochs": 0, "lr": 1e-3}}
    content["protocols"] = {
        "linear": {},
        "layers": {"protocol": "linear", "layer": "weighted", "pool": "mean"},
        "first": {"protocol": "knn", "layer": 1},
        "every": {"protocol": "knn", "layer": "each"},
        "tuned": {"protocol": "finetune", "set": {"lr": 1e-4}, "seeds": [0, 1]},
        "tuned more": {"protocol": "finetune", "seeds": [0, 1]},
    }
    content["baseline"] = "tuned"
    comparison = Comparison(**content)
    records, failures = compare(comparison, tmp_path / "out", tmp_path / "cache")
    assert not failures
    by_name = {record.protocol: record for record in records}
    assert list(by_name) == list(content["protocols"])
    layers = by_name["layers"]
    assert layers.protocol_kind == "linear" and layers.details["pool"] == "mean"
    assert layers.layer == "weighted" and by_name["first"].layer == "1"
    tuned, more = by_name["tuned"], by_name["tuned more"]
    one, other = tuned.details["config"], more.details["config"]
    assert (one["lr"], other["lr"]) == (1e-4, 1e-3)
    assert one["epochs"] == other["epochs"] == 1
    assert one["freq_mask"] == 24 and tuned.details["recipe"] == "esc50", "the task's recipe"
    assert tuned.seeds == (0, 1) and tuned.baseline is None
    assert more.baseline and (more.baseline.by, more.baseline.name) == ("protocol", "tuned")
    assert more.baseline.difference == pytest.approx(more.score - tuned.score)
    every = [record.layer for record in records if record.protocol == "every"]
    assert every == [*"123456", "last"], "a cell may have several records"
    assert "| twin (5) |" in (tmp_path / "out" / "table.md").read_text()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    content["protocols"]["last"] = {"protocol": "finetune", "set": {"lr": 1e-4}, "seeds": [0, 1]}
    content["protocols"].pop("linear")
    again, _ = compare(Comparison(**content), tmp_path / "out", tmp_path / "cache")
    assert again[-1].score == tuned.score and again[-1].protocol == "last"
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}


def assert_answers_can_be_heard(hear: Record, folder: Path) -> None:
    """The toolkit's answers give the scores that it reports, and the report plays the clips behind them."""
    (kept,) = hear.answers
    rows = read_table(folder / "out" / kept, ("split", "clip", "truth", "labels", "scores"))
    assert len(rows) == hear.clips == 30
    for fold, score in hear.folds.items():
        right = [row["truth"] == row["labels"][:1] for row in rows if row["split"] == fold]
        assert sum(right) / len(right) == pytest.approx(score)
    for row in rows:
        clip = Path(row["clip"])
        labels = json.loads((clip.parents[2] / f"{row['split']}.json").read_text())
        assert clip.is_file() and labels[clip.name] == row["truth"]
    page = folder / "report.html"
    write_report([str(folder / "out")], page, say=lambda line: None)
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    sections = {section["protocol"]: section for section in json.loads(found[1])["tasks"]}
    assert sections["hear"]["matrix"] and None not in sections["hear"]["media"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("heareval") is None, reason="heareval is not installed")
def test_the_hear_toolkit_beside_a_probe(file: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(file.read_text())["tasks"]["esc10"]["data"]
    folder = hear_tasks.from_esc50(Path(data), tmp_path / "tasks")
    shorten_training(folder, epochs=3, every=3)
    comparison = Comparison(
        {"log-mel": "logmel", "naive": "hear-naive"},
        {"sounds": {"task": "esc50", "data": data, "hear": str(folder)}},
        {"linear": {}, "hear": {"grid_points": 1}},
        baseline="log-mel",
    )
    with forks.forked(forks.HEAR):
        records, failures = compare(comparison, tmp_path / "out", tmp_path / "cache")
    assert [(f.model, f.protocol) for f in failures] == [("naive", "hear")], "the toolkit has no such module"
    hear = next(record for record in records if record.protocol == "hear")
    assert (hear.task, hear.baseline) == ("sounds", None) and hear.interval and hear.spread is not None
    assert (
        hear.interval[0] <= hear.score <= hear.interval[1] and "the toolkit's answers" in hear.interval_method
    )
    assert f"{hear.interval[0]:.3f} to {hear.interval[1]:.3f}" in table(records)
    assert_answers_can_be_heard(hear, tmp_path)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    compare(comparison, tmp_path / "out", tmp_path / "cache")
    assert cells == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}


def test_published_scores_stand_beside_complete_sets_alone(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = yaml.safe_load(file.read_text())["tasks"]["esc10"]["data"]
    comparison = Comparison(
        {"log-mel": "logmel"}, {"sounds": {"task": "esc50", "data": data}}, ["linear", "knn"]
    )
    table = tmp_path / "out" / "table.csv"
    compare(comparison, tmp_path / "out", tmp_path / "cache")
    assert "published" not in table.read_text()
    monkeypatch.setitem(esc50.CLIPS, "esc50", 30)  # as many as there are
    compare(comparison, tmp_path / "out", tmp_path / "cache")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    (row,) = [row for row in rows if row["model"] == "M2D"]
    assert (row["task"], row["protocol"], row["score"]) == ("sounds", "linear", "0.913")
    assert row["remark"] == "published: EVAR's README"


def test_published_scores() -> None:
    found = {entry.model: entry.score for entry in published("esc50", "linear")}
    assert found["M2D"] == 0.913
    assert not published("esc50", "knn")
    tuned = {entry.model: entry for entry in published("speech_commands_v1", "finetune")}
    assert {name: one.score for name, one in tuned.items()} == {
        "SS-AST": 0.96, "MAE-AST": 0.958, "Audio-MAE": 0.969, "A-JEPA": 0.977, "AST": 0.955
    }  # fmt: skip
    assert tuned["AST"].source == "A-JEPA, table 1; pre-trained on ImageNet, labels"
    assert not published("esc50_fold4", "linear")
    assert all(0 < entry.score < 1 for task in LINEAR_TASKS for entry in published(task, "linear"))
    assert markdown([]) == ""


EXPERIMENTS = sorted((Path(__file__).parents[1] / "docs" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_files_are_read(path: Path) -> None:
    if "protocols" in yaml.safe_load(path.read_text()):  # the others are recipes
        comparison = Comparison.read(path)
        assert any(isinstance(model, dict) for model in comparison.models.values()) or path.stem in {
            "regularised_masking",
            "real_sets",
            "finetune",
            "encoders_in",
            "finetune_default",
            "paper_finetune",
            "toolkits",
        }
