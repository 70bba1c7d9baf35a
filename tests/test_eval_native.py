"""`ajepa evaluate` with probes: embeddings and their cache, records, the command."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval.models.open import EncoderModel, Named, open_model
from ajepa.eval.probe.embeddings import EmbeddingError, embed_task
from ajepa.eval.protocols.base import ProtocolError
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.results.record import read_records
from ajepa.eval.results.table import table
from ajepa.eval.tasks import Clip, Task, open_task
from ajepa.model import AudioEncoder
from ajepa.recipes import Recipe
from tests.probing import probed


@pytest.fixture
def tiny(tiny_recipe: Recipe) -> Named:
    torch.manual_seed(0)
    encoder = AudioEncoder(tiny_recipe.front_end, tiny_recipe.encoder, 1.28)
    return Named("tiny", "", EncoderModel(encoder).eval())


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    write_esc50(tmp_path / "esc50", clips_per_class=10, classes=3, seconds=0.4)
    return tmp_path / "esc50"


@pytest.fixture
def lengths(tmp_path: Path) -> Task:
    """Twelve clips of 0.05 to 2.6 s, of two pitches; the last is a stretch of the first's file."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(11):
        seconds = 2.6 if number == 0 else rng.uniform(0.05, 2.0)
        time = np.arange(int(16_000 * seconds)) / 16_000
        wave = np.sin(2 * np.pi * (300, 2000)[number % 2] * time) + 0.1 * rng.standard_normal(len(time))
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.3 * wave, 16_000)
        clips.append(Clip(path, (str(number % 2),), str(number % 3)))
    clips.append(Clip(clips[0].path, ("0",), "2", start=1.0, seconds=0.5))
    return Task("lengths", tuple(clips), folds=True)


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_an_encoder_that_diverged_gets_no_score(
    protocol: str, tiny: Named, lengths: Task, tmp_path: Path
) -> None:
    torch.nn.init.constant_(tiny.module.encoder.encoder.norm.weight, torch.nan)
    with pytest.raises(EmbeddingError, match=r"tiny: 512 of 512 values .* of .*0\.wav are NaN or infinite"):
        probed([tiny], lengths, Probing(protocol), tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir()), "nothing is kept"


@pytest.mark.parametrize("source", ["tiny", "logmel"])
def test_clips_get_the_embedding_they_have_alone(
    source: str, tiny: Named, lengths: Task, tmp_path: Path
) -> None:
    model = tiny if source == "tiny" else open_model(source)
    found = embed_task(model, lengths, all_layers=True, cache=tmp_path / "cache")
    assert not found.cached
    assert len(found.values) == 12
    for clip, value in zip(lengths.clips, found.values, strict=True):
        wave = soundfile.read(clip.path, dtype="float32")[0]
        if clip.seconds:
            wave = wave[16_000:24_000]
        with torch.no_grad():
            alone = model.module(torch.from_numpy(wave)[None], [len(wave)], True)
        torch.testing.assert_close(value, alone[0], atol=1e-4, rtol=1e-3)


def test_layers_and_pooling(tiny: Named, lengths: Task, tmp_path: Path) -> None:
    found = embed_task(tiny, lengths, all_layers=True, cache=tmp_path)
    encoder = tiny.module.encoder
    wave = torch.from_numpy(soundfile.read(lengths.clips[1].path, dtype="float32")[0])[None]
    with torch.no_grad():
        expected = encoder(wave, layers=True)
    last = found.representations("last", "concat", "best")
    assert list(last) == ["last concat mean", "last concat mean+std"]
    torch.testing.assert_close(last["last concat mean"]()[1], expected.clip[0], atol=1e-4, rtol=1e-3)
    both = torch.cat([expected.frames[0].mean(0), expected.frames[0].std(0, correction=0)])
    torch.testing.assert_close(last["last concat mean+std"]()[1], both, atol=1e-4, rtol=1e-3)
    first = found.representations("1", "mean")["1 mean mean"]()[1]
    torch.testing.assert_close(first, expected.layers[0][0].mean((0, 1)), atol=1e-4, rtol=1e-3)
    assert list(found.representations("best", "best")) == [
        f"{layer} {pool} mean" for layer in ("1", "2", "last") for pool in ("concat", "mean")
    ]
    with pytest.raises(ProtocolError, match="time is 'max'; choose mean, mean\\+std or best"):
        Probing("linear", time="max")
    with pytest.raises(ProtocolError, match="pool is 'max'; choose"):
        Probing("linear", pool="max")
    for layer in ("3", "0"):
        with pytest.raises(ValueError, match="choose"):
            found.representations(layer, "concat")
    baseline = embed_task(open_model("logmel"), lengths, all_layers=True, cache=tmp_path)
    assert list(baseline.representations("3", "concat")) == list(baseline.representations("last", "concat"))


def test_the_cache_knows_what_embeddings_depend_on(tiny: Named, lengths: Task, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = embed_task(tiny, lengths, cache=cache)
    again = embed_task(tiny, lengths, cache=cache)
    assert again.cached and torch.equal(first.values, again.values)
    relabelled = replace(lengths, clips=tuple(c._replace(labels=(c.split,)) for c in lengths.clips))
    assert embed_task(tiny, relabelled, cache=cache).cached, "labels and splits do not matter"
    rounded = Named("tiny", "", EncoderModel(deepcopy(tiny.module.encoder).set_bf16()).eval(), "bf16")
    half = embed_task(rounded, lengths, cache=cache)
    assert not half.cached
    assert not torch.equal(half.values, first.values)
    torch.testing.assert_close(half.values, first.values, atol=0.1, rtol=0.1)
    wave, _ = soundfile.read(lengths.clips[3].path)
    soundfile.write(lengths.clips[3].path, 0.5 * wave[: len(wave) // 2], 16_000)
    assert not embed_task(tiny, lengths, cache=cache).cached, "a file was changed"
    with torch.no_grad():
        tiny.module.encoder.encoder.norm.bias += 1.0
    moved = embed_task(tiny, lengths, cache=cache)
    assert not moved.cached, "the weights were changed"
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".lock"}
    newest = max(cache.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    damaged = newest.read_bytes()[:100]
    newest.unlink()  # `moved` is mapped from it
    newest.write_bytes(damaged)
    repaired = embed_task(tiny, lengths, cache=cache)
    assert not repaired.cached, "a damaged file is written anew"
    torch.testing.assert_close(repaired.values, moved.values)


def test_records(tiny: Named, sounds: Path, tmp_path: Path) -> None:
    task = open_task("esc50", sounds)
    cache = tmp_path / "cache"
    models = [open_model("logmel"), tiny]
    records = probed(models, task, Probing(), cache, baseline="logmel")
    assert [record.model for record in records] == ["logmel", "tiny"]
    for record in records:
        assert record.interval is not None
        low, high = record.interval
        assert 0 <= low <= record.score <= high <= 1
        assert record.score == pytest.approx(np.mean(list(record.folds.values())))
        assert len(record.folds) == 5
        assert record.clips_by_split == dict.fromkeys("12345", 6)
        assert [choice["split"] for choice in record.chosen] == list("12345")
        assert all(choice["C"] > 0 for choice in record.chosen)
        assert "groups" in record.interval_method
    assert records[0].score > 0.6, "log-mel statistics tell three sounds apart"
    compared = records[1].baseline
    assert records[0].baseline is None and compared is not None
    assert compared.difference == pytest.approx(records[1].score - records[0].score)
    assert compared.interval[0] <= compared.difference <= compared.interval[1]
    again = probed(models, task, Probing(), cache)
    assert all(record.details["embeddings_cached"] for record in again)
    assert [record.score for record in again] == [record.score for record in records]
    assert table(records).count("\n") == 3
    each = probed([tiny], task, Probing("knn", layer="each"), cache)
    assert [record.layer for record in each] == ["1", "2", "last"]
    uneven = replace(task, clips=tuple(clip for n, clip in enumerate(task.clips) if n % 4))
    plain, balanced, summed = (
        probed([tiny], uneven, Probing(class_weight=weight, layer=layer), cache)[0]
        for weight, layer in (("none", "last"), ("balanced", "last"), ("balanced", "weighted"))
    )
    assert (plain.details["class_weight"], balanced.details["class_weight"]) == ("none", "balanced")
    assert balanced.chosen != plain.chosen, "other weights, another fit"
    assert "layer_weights" in summed.chosen[0]
    (best,) = probed([tiny], task, Probing("knn", layer="best", pool="best"), cache)
    assert {choice["representation"] for choice in best.chosen} <= {
        f"{layer} {pool} mean" for layer in ("1", "2", "last") for pool in ("concat", "mean")
    }


def test_wrong_requests(tiny: Named, sounds: Path, tmp_path: Path) -> None:
    task = open_task("esc50", sounds)
    with pytest.raises(ProtocolError, match="layer is '7'"):
        probed([tiny], task, Probing(layer="7"), tmp_path / "cache")
    with pytest.raises(ProtocolError, match="linear or knn"):
        Probing("svm")
    with pytest.raises(ProtocolError, match="none or balanced"):
        Probing(class_weight="equal")
    with pytest.raises(ProtocolError, match="not with knn"):
        Probing("knn", class_weight="balanced")
    with pytest.raises(ProtocolError, match="several labels"):
        several = replace(task, multilabel=True)
        probed([tiny], several, Probing(class_weight="balanced"), tmp_path / "cache")


def test_the_command(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", "knn", "--cache", str(tmp_path / "cache"), "--model", "logmel"]
    out = tmp_path / "out" / "record.json"
    assert main([*common, "--task", "esc10", "--data", str(sounds), "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert (record["model"], record["task"], record["protocol"]) == ("logmel", "esc10", "knn")
    assert record["interval"][0] <= record["score"] <= record["interval"][1]
    printed = capsys.readouterr()
    assert f"{record['score']:.3f}" in printed.out
    assert "30 of 400 clips" in printed.err
    rows = (sounds / "meta" / "esc50.csv").read_text()
    (sounds / "audio" / "meta.csv").write_text(rows)
    by_table = ["--task", "table", "--data", str(sounds / "audio" / "meta.csv"), "--fold", "fold"]
    assert main([*common, *by_table, "--label", "category", "--group", "src_file", "--json", str(out)]) == 0
    (again,) = read_records(out)
    assert again.folds == record["folds"] and again.task == "meta"
    assert main([*common, *by_table, "--label", "category", "--layer", "each", "--json", str(out)]) == 0
    assert [one.layer for one in read_records(out)] == ["last"], "a baseline has one layer"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "esc51", "--data", "x"], "no task is called 'esc51'; choose "),
        (["--task", "esc50", "--data", "absent"], "absent: no such folder"),
        (["--task", "esc50", "--data", "x", "--label", "y"], "no option label"),
        (
            ["--task", "esc50", "--data", "x", "--model", "logmel"],
            "called logmel; give each a name with NAME",
        ),
        (["--task", "esc50", "--data", "x", "--baseline", "absent"], "no model is called 'absent'"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "linear", "--model", "logmel", *arguments]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert words in message[0]
