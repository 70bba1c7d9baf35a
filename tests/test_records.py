"""Records: what is written is read, and the files of every earlier version too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ajepa.eval.protocols import OURS
from ajepa.eval.results.record import (
    FORMAT,
    Difference,
    PretrainingRun,
    Record,
    RecordError,
    read_records,
    write_records,
)

RESULTS = sorted((Path(__file__).parents[1] / "docs" / "results").glob("*.json"))
RECORD = Record(
    model="A",
    source="a.safetensors",
    task="words",
    protocol="all layers",
    protocol_kind="linear",
    metric="accuracy",
    score=0.5,
    interval=(0.4, 0.6),
    folds={"test": 0.5},
    chosen=({"split": "test", "C": 0.1, "layer_weights": [0.25, 0.75]},),
    notes=("half of the set",),
    pretraining=(PretrainingRun(0, 0.5, "a-seed0", 3, 12, 1.5, "abc"), PretrainingRun(1, 0.5, "a-seed1")),
    baseline=Difference("model", "B", 0.1, (-0.1, 0.3), 0.2, "the same draws"),
    details={"pool": "mean", "features": 12},
)


def leaves(value: object) -> Iterator[object]:
    """All values of nested JSON."""
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    else:
        yield value


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_earlier_files_are_read_and_nothing_of_them_is_lost(path: Path, tmp_path: Path) -> None:
    old: list[dict[str, Any]] = json.loads(path.read_text())
    records = read_records(path)
    for before, record in zip(old, records, strict=True):
        assert (record.model, record.task, record.score) == (before["model"], before["task"], before["score"])
        assert record.protocol_kind in OURS
        assert record.seconds and record.clips
        assert record.folds or record.protocol_kind == "verify", "one score of all trials"
        now = json.loads(json.dumps(record.as_json())) | {"format": before.get("format", 1)}
        assert not Counter(map(repr, leaves(before))) - Counter(map(repr, leaves(now)))
        if record.baseline:
            key = record.baseline.by if before.get("format", 1) == 1 else "name"
            assert record.baseline.name == before["baseline"][key]
        if record.pretraining:
            runs = before["pretraining"]  # one mapping of lists in format 0, one entry a run since
            scores = runs["scores"] if isinstance(runs, dict) else [run["score"] for run in runs]
            assert [run.score for run in record.pretraining] == scores
    write_records(tmp_path / "now.json", records)
    assert read_records(tmp_path / "now.json") == records


def test_one_record_or_a_list(tmp_path: Path) -> None:
    for records in ([RECORD], [RECORD, replace(RECORD, model="B", baseline=None, pretraining=())]):
        write_records(tmp_path / "records.json", records)
        assert read_records(tmp_path / "records.json") == records
    content = json.loads((tmp_path / "records.json").read_text())
    assert [one["format"] for one in content] == [FORMAT, FORMAT]
    write_records(tmp_path / "records.json", [RECORD], single=True)
    assert read_records(tmp_path / "records.json") == [RECORD]
    assert json.loads((tmp_path / "records.json").read_text())["score"] == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"format": FORMAT + 1},
            rf"records\.json: format is {FORMAT + 1}; this version reads up to {FORMAT}",
        ),
        ({"format": "two"}, "format is 'two'"),
        ({"scores": 1}, r"scores: no such key \(did you mean score\?\)"),
        ({"score": None, "metric": ...}, "it lacks metric"),
        ({"baseline": {"by": "model"}}, "baseline lacks name, difference"),
    ],
)
def test_what_is_no_record_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    content = {k: v for k, v in (RECORD.as_json() | change).items() if v is not ...}
    (tmp_path / "records.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=words):
        read_records(tmp_path / "records.json")


@pytest.mark.parametrize(("text", "words"), [("{", "not a file of records"), ("[3]", "expected a record")])
def test_files_of_something_else_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(RecordError, match=rf"records\.json: {words}"):
        read_records(tmp_path / "records.json")
    with pytest.raises(RecordError, match="absent"):
        read_records(tmp_path / "absent.json")
