"""`ajepa predict`: labels of files in every form, of windows, of recordings that are streamed."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from packaging.version import Version

import ajepa
from ajepa.audio import load
from ajepa.cli import main
from ajepa.nn.encoder import EncoderConfig
from ajepa.recipes import Recipe, dump_recipe
from ajepa.recipes.recipe import DataConfig
from tests.hub_server import HubServer
from tests.labelled_tones import RATE, tone, write_table
from tests.test_hub import server  # noqa: F401

Kinds = dict[str, Path]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    """A probe of all layers, a probe for several labels, and a fine-tuned network."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "audio").mkdir()
    (folder / "more").mkdir()
    tiny = EncoderConfig(size="ti", width=32, depth=2, heads=2)
    recipe = folder / "tiny.yaml"
    recipe.write_text(dump_recipe(Recipe(name="tiny", encoder=tiny, data=DataConfig(crop_seconds=1.28))))
    one, several = write_table(folder / "audio"), write_table(folder / "more", several=True)
    quick = ["--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "seconds=1.5"]
    for name, protocol, table, options in (
        ("probe", "linear", one, ["--layer", "weighted", "--time", "mean+std"]),
        ("several", "linear", several, ["--multilabel"]),
        ("network", "finetune", one, quick),
    ):
        line = ["evaluate", protocol, "--task", "table", "--data", str(table), "--split", "split"]
        line += ["--model", str(recipe), *options, "--save", str(folder / name)]
        line += ["--cache", str(folder / "cache")] if protocol == "linear" else []
        assert main(line) == 0
    return {name: folder / name for name in ("probe", "several", "network")}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three recordings of 1, 2.5 and 7.3 s at different rates; the last is high from 4 s on."""
    folder, rng = tmp_path / "files", np.random.default_rng(1)
    folder.mkdir()
    soundfile.write(folder / "a.wav", tone(True, 1.0, rng), RATE)
    soundfile.write(folder / "b.flac", tone(False, 2.5, rng), RATE)
    both = np.concatenate([tone(False, 4.0, rng), tone(True, 3.3, rng)])
    soundfile.write(folder / "c.wav", both, RATE)
    return folder


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_all_forms_say_the_same(
    kinds: Kinds, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(files, "--model", kinds["probe"], "--top", 2) == 0
    shown = rows_of(capsys.readouterr().out)
    assert [row["path"] for row in shown] == [
        str(files / name) for name in ["a.wav", "a.wav", "b.flac", "b.flac", "c.wav", "c.wav"]
    ]
    assert [shown[0]["label"], shown[2]["label"]] == ["high", "low"]
    assert [float(row["end"]) for row in shown[::2]] == [1.0, 2.5, 7.3]
    for kind in ("csv", "json", "jsonl", "parquet"):
        assert predict(files, "--model", kinds["probe"], "--top", 2, "--out", tmp_path / f"out.{kind}") == 0
    assert capsys.readouterr().out.endswith("out.parquet: 3 files\n")
    assert rows_of((tmp_path / "out.csv").read_text()) == shown
    table = pq.read_table(tmp_path / "out.parquet")
    assert [{name: str(value) for name, value in row.items()} for row in table.to_pylist()] == shown
    assert json.loads(table.schema.metadata[b"ajepa"])["labels"] == ["high", "low"]
    objects = json.loads((tmp_path / "out.json").read_text())
    assert objects == [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    flat = [
        {"path": one["path"], "start": str(one["start"]), "end": str(one["end"])}
        | {name: str(value) for name, value in label.items()}
        for one in objects
        for label in one["labels"]
    ]
    assert flat == shown
    classifier = ajepa.load_classifier(kinds["probe"])
    expected = classifier.predict(load(files / "c.wav")[None]).probabilities[0].max()
    assert float(shown[4]["probability"]) == pytest.approx(float(expected), abs=1e-5)


def test_windows(kinds: Kinds, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(files / "c.wav", "--model", kinds["network"], "--window", 2, "--hop", 1) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [
        *((float(start), start + 2.0) for start in range(6)),
        (5.3, 7.3),
    ]
    classifier = ajepa.load_classifier(kinds["network"])
    waves = load(files / "c.wav").unfold(0, 2 * RATE, RATE)
    found = classifier.predict(waves)
    assert [row["label"] for row in rows[:6]] == [labels[0] for labels in found.labels]


@pytest.mark.parametrize("kind", ["probe", "network"])
def test_long_recordings_are_streamed(
    kind: str, kinds: Kinds, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    for seconds in (60.0, 1.0):
        monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", seconds)
        out = tmp_path / f"{seconds}.json"
        assert predict(files, "--model", kinds[kind], "--out", out) == 0
        found.append(json.loads(out.read_text()))
    for whole, streamed in zip(*found, strict=True):
        assert whole["labels"][0]["label"] == streamed["labels"][0]["label"]
        assert whole["labels"][0]["probability"] == pytest.approx(
            streamed["labels"][0]["probability"], abs=1e-4
        )
        assert whole["end"] == streamed["end"]


def test_several_labels_or_none(
    kinds: Kinds, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = kinds["several"] / "classifier.json"
    content = json.loads(held.read_text())
    lowered, raised = ({**content, "labels": content["labels"] | {"thresholds": [t] * 3}} for t in (0.0, 1.0))
    try:
        for changed, count in ((lowered, 3), (raised, 0)):
            held.write_text(json.dumps(changed))
            assert predict(files / "a.wav", "--model", kinds["several"]) == 0
            rows = rows_of(capsys.readouterr().out)
            assert len(rows) == max(1, count)
            if count:
                falling = [float(row["probability"]) for row in rows]
                assert falling == sorted(falling, reverse=True)
                assert {row["label"] for row in rows} == {"high", "loud", "low"}
            else:
                assert rows[0]["label"] == rows[0]["probability"] == "", "a row that says: none"
        assert predict(files, "--model", kinds["several"], "--out", tmp_path / "none.parquet") == 0
        assert pq.read_table(tmp_path / "none.parquet")["label"].null_count == 3
        assert predict(files / "a.wav", "--model", kinds["several"], "--top", 2) == 0
        assert len(rows_of(capsys.readouterr().out.partition("files\n")[2])) == 2, (
            "the best, below their thresholds"
        )
    finally:
        held.write_text(json.dumps(content))


def test_broken_files_are_named(
    kinds: Kinds,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (files / "a2.wav").write_bytes(b"RIFF of nothing")
    whole = (files / "b.flac").read_bytes()
    (files / "b2.flac").write_bytes(whole[: len(whole) // 2])  # it breaks after a window or two
    out = tmp_path / "out.csv"
    monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", 0.5)
    assert predict(files, "--model", kinds["probe"], "--out", out) == 2
    assert "a2.wav" in capsys.readouterr().err and not out.exists()
    assert predict(files, "--model", kinds["probe"], "--out", out, "--skip-broken", "--window", 0.4) == 0
    said = capsys.readouterr()
    assert "a2.wav" in said.err and "b2.flac" in said.err and "3 files" in said.out
    assert "2 could not be used" in said.out
    named = [Path(row["path"]).name for row in rows_of(out.read_text())]
    assert sorted(set(named)) == ["a.wav", "b.flac", "c.wav"] and len(named) == 3 + 7 + 19
    assert predict(files / "a2.wav", "--model", kinds["probe"], "--out", out, "--skip-broken") == 2
    assert "none of the files could be read" in capsys.readouterr().err


def test_wrong_use_is_one_line(kinds: Kinds, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in (
        (
            ["--out", "labels.txt"],
            "--out labels.txt: name a file that ends in .csv, .json, .jsonl or .parquet",
        ),
        (["--top", "0"], "--top is 0, must be at least 1"),
        (["--window", "-1"], "--window is -1.0"),
        (["--hop", "1"], "--hop needs --window"),
    ):
        assert predict(files, "--model", kinds["probe"], *words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert reason in line
    assert predict(files, "--model", files) == 2
    assert "no classifier.json in it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["probe", "several", "network"])
def test_the_graph_is_the_classifier(
    kind: str, kinds: Kinds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.onnx"
    assert main(["export", str(kinds[kind]), "--out", str(path)]) == 0
    assert "labels.onnx" in capsys.readouterr().out and [one.name for one in tmp_path.iterdir()] == [
        "labels.onnx"
    ]
    classifier = ajepa.load_classifier(kinds[kind])
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["labels"]) == list(classifier.labels) and about["sample_rate"] == "16000"
    assert json.loads(about["thresholds"]) == list(classifier.label_set.thresholds)
    most = int(about["most_samples"])
    assert most == (24_000 if kind == "network" else 8 * 16 * 160 + 399)
    for clips, samples in ((1, most), (5, 7_000)):
        wave = 0.1 * torch.randn(clips, samples)
        lengths = torch.randint(1, samples + 1, (clips,))
        feeds = {"waveform": wave.numpy(), "lengths": lengths.numpy()}
        probabilities, _ = session.run(["probabilities", "logits"], feeds)
        expected = classifier.predict(wave, lengths).probabilities
        torch.testing.assert_close(torch.from_numpy(probabilities), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["several", "network"])
def test_the_pipeline_of_transformers(kind: str, kinds: Kinds, files: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: ajepa[baselines]"
    )
    import ajepa.hf

    out = tmp_path / "out"
    assert main(["export", str(kinds[kind]), "--out", str(out), "--transformers"]) == 0
    pipe = transformers.pipeline("audio-classification", model=str(out), trust_remote_code=False)
    classifier = ajepa.load_classifier(out)
    wave = load(files / "c.wav")
    expected = dict(
        zip(classifier.labels, classifier.predict(wave[None]).probabilities[0].tolist(), strict=True)
    )
    old = Version(transformers.__version__) < Version(
        "5.17"
    )  # it does not read that there are several labels
    options = {"function_to_apply": "sigmoid"} if old and kind == "several" else {}
    found = {one["label"]: one["score"] for one in pipe(wave.numpy(), **options)}
    assert found == pytest.approx(expected, abs=1e-5)
    program = f"""
import sys
sys.modules["ajepa"] = None  # as where it is not installed
import json, numpy, soundfile
from transformers import pipeline
pipe = pipeline("audio-classification", model={str(out)!r}, trust_remote_code=True)
wave, _ = soundfile.read({str(files / "c.wav")!r}, dtype="float32")
print(json.dumps({{one["label"]: one["score"] for one in pipe(wave, **{options!r})}}))
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)
    again = tmp_path / "again"
    pipe.model.save_pretrained(again)
    settings = json.loads((again / "config.json").read_text())
    assert "AutoModelForAudioClassification" in settings["auto_map"]
    model = transformers.AutoModelForAudioClassification.from_pretrained(again)
    loss = model(wave[None], labels=torch.tensor([1])).loss
    assert loss.isfinite() and isinstance(model, ajepa.hf.AjepaForAudioClassification)


def test_a_pushed_classifier_is_applied_by_its_address(
    kinds: Kinds,
    files: Path,
    tmp_path: Path,
    server: HubServer,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["export", str(kinds["probe"]), "--out", str(tmp_path / "out"), "--push", "me/tones"]
    assert main(line) == 0
    assert "ajepa.load_classifier('hf://me/tones')" in capsys.readouterr().out
    commit = list(server.repositories["me/tones"].commits)[-1]
    for address in ("hf://me/tones", f"hf://me/tones@{commit}"):
        assert predict(files, "--model", address) == 0
        there = capsys.readouterr().out
        assert predict(files, "--model", kinds["probe"]) == 0
        assert capsys.readouterr().out == there


def test_options_of_encoders_are_refused(
    kinds: Kinds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["export", str(kinds["probe"]), "--out", str(tmp_path / "out")]
    for words in (["--encoder", "target"], ["--dtype", "float16"], ["--sample-rate", "8000"]):
        assert main([*line, *words]) == 2
        assert f"{words[0]}" in capsys.readouterr().err
    assert main(["export", str(kinds["probe"]), "--out", str(tmp_path / "x.onnx"), "--transformers"]) == 2
    assert "x.onnx is one file" in capsys.readouterr().err and not list(tmp_path.iterdir())
