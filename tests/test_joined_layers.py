"""An embedding may join the outputs of several blocks: one choice, the same wherever an encoder is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import ajepa
from ajepa.audio import load
from ajepa.cli import main
from ajepa.embed import read_embeddings
from ajepa.eval.classifiers.made import of_probe
from ajepa.eval.models.open import open_model
from ajepa.eval.probe.embeddings import embed_task
from ajepa.eval.probe.final import FinalProbe
from ajepa.eval.protocols.probing import Probing, probe_model
from ajepa.eval.results.record import read_records
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import Scored
from ajepa.eval.tasks import open_task
from ajepa.features import LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.model.embedding import layers_text, parse_layers
from ajepa.model.fingerprint import fingerprint
from ajepa.model.loading import ModelError
from ajepa.model.stream import encode_stream
from ajepa.nn.encoder import EncoderConfig
from tests.conftest import TINY
from tests.labelled_tones import write_table
from tests.test_export import saved


@pytest.fixture
def model() -> AudioEncoder:
    torch.manual_seed(0)
    encoder = EncoderConfig(width=32, depth=4, heads=2, patch=(16, 64))
    model = AudioEncoder(LogMelConfig(), encoder, chunk_seconds=1.28).eval()
    model.embedding_layers = (2, 4)
    return model


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The file of an encoder of two blocks, which says nothing of layers."""
    torch.manual_seed(0)
    model = AudioEncoder(LogMelConfig(), TINY, chunk_seconds=1.28)
    return saved(model, tmp_path / "encoder.safetensors")


@pytest.fixture
def exported(plain: Path, tmp_path: Path) -> Path:
    """The same with its layers joined."""
    command = [
        "export",
        str(plain),
        "--out",
        str(tmp_path / "out"),
        "--layers",
        "1+2",
        "--pooling",
        "mean+std",
    ]
    assert main([*command, "--torch-export", "--transformers"]) == 0
    return tmp_path / "out"


def test_the_text_of_layers() -> None:
    assert parse_layers("last", 4) == () and layers_text(()) == "last"
    assert parse_layers("4+2", 4) == (4, 2) and layers_text((4, 2)) == "4+2"
    for wrong in ("", "0", "5", "2+2", "2,4", "2+", "-1", "first"):
        with pytest.raises(
            ValueError, match=f"layers is {re.escape(repr(wrong))}; choose last, or blocks from 1 to 4"
        ):
            parse_layers(wrong, 4)


@torch.no_grad()
def test_frames_and_clips_join_layers(model: AudioEncoder) -> None:
    waveform_BS, lengths = 0.1 * torch.randn(3, 50_000), [50_000, 400, 23_000]
    found = model(waveform_BS, lengths, layers=True)
    assert model.embedding_size == model.clip_size == 2 * 2 * 32
    expected_BTFD = torch.cat([found.layers[1], found.layers[3]], -1)
    assert torch.equal(found.frames, expected_BTFD.flatten(2))
    torch.testing.assert_close(found.clip[2], found.frames[2, : found.lengths[2]].mean(0))
    assert found.patches.shape[-1] == 32 and len(found.layers) == 4
    without = model(waveform_BS, lengths)
    assert torch.equal(without.frames, found.frames) and without.layers == ()
    mean_BX = found.clip
    model.pooling = "mean+std"
    assert model.clip_size == 2 * model.embedding_size
    torch.testing.assert_close(model(waveform_BS, lengths).clip[:, : model.embedding_size], mean_BX)


@torch.no_grad()
def test_a_stream_joins_them_too(model: AudioEncoder) -> None:
    wave_S = 0.1 * torch.randn(90_000)
    steps_TLFD = torch.cat(list(encode_stream(model, wave_S.split(7_001), joined=True)))
    expected = model(wave_S[None])
    torch.testing.assert_close(steps_TLFD[:, 0], expected.joined[0], atol=1e-4, rtol=1e-4)
    last_TLFD = torch.cat(list(encode_stream(model, wave_S.split(7_001))))
    torch.testing.assert_close(last_TLFD[:, 0], expected.patches[0], atol=1e-4, rtol=1e-4)


def test_the_fingerprint_tells_them_apart(model: AudioEncoder) -> None:
    joined = fingerprint(model)
    model.embedding_layers = (2,)
    other = fingerprint(model)
    model.embedding_layers = ()
    assert len({joined, other, fingerprint(model)}) == 3


def test_layers_travel_with_the_file(plain: Path, exported: Path) -> None:
    model, before = ajepa.load_model(exported), ajepa.load_model(plain)
    assert (model.embedding_layers, before.embedding_layers) == ((1, 2), ())
    assert ajepa.load_model(exported, layers="last", pooling="mean").embedding_layers == ()
    assert fingerprint(ajepa.load_model(plain, layers="1+2", pooling="mean+std")) == fingerprint(model)
    hear = ajepa.hear_module.load_model(str(exported))
    assert hear.scene_embedding_size == model.clip_size == 2 * hear.timestamp_embedding_size
    assert "the outputs of blocks 1, 2, joined" in (exported / "README.md").read_text()
    with pytest.raises(
        ModelError, match=r"encoder.safetensors: layers is '3'; choose last, or blocks from 1 to 2"
    ):
        ajepa.load_model(plain, layers="3")


@torch.no_grad()
def test_graphs_and_transformers_join_them(exported: Path) -> None:
    model = ajepa.load_model(exported)
    waveform_BS, lengths = 0.1 * torch.randn(2, 20_000), [20_000, 700]
    expected = model(waveform_BS, lengths)
    program = torch.export.load(exported / "model.pt2").module()
    frames_BTX, clip_BE, _ = program(waveform_BS, torch.tensor(lengths))
    torch.testing.assert_close(frames_BTX, expected.frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(clip_BE, expected.clip, atol=1e-4, rtol=0)
    theirs = transformers.AutoModel.from_pretrained(exported, trust_remote_code=False)
    output = theirs(waveform_BS, torch.arange(20_000) < torch.tensor(lengths)[:, None])
    torch.testing.assert_close(output.pooler_output, expected.clip, atol=1e-5, rtol=1e-5)
    assert output.last_hidden_state.shape[-1] == theirs.config.hidden_size == model.embedding_size


def test_layers_do_not_go_with_the_vectors_of_every_block(
    plain: Path, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["embed", str(audio_folder), "--model", str(plain), "--out", str(tmp_path / "out")]
    assert main([*line, "--what", "layers", "--layers", "1+2"]) == 2
    assert "--layers is '1+2', but --what layers gives every block; leave one out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_layers_that_are_no_text_are_one_line(plain: Path) -> None:
    for wrong in ((1, 2), 2, True, "9" * 5_000, "\N{FULLWIDTH DIGIT ONE}"):
        with pytest.raises(ModelError, match=r"encoder.safetensors: layers is .*; choose last, or blocks"):
            ajepa.load_model(plain, layers=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["clip", "frames", "layers"])
def test_embedded_files(
    what: str, exported: Path, audio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = audio_folder / "03.wav", []
    for seconds in (60.0, 0.3):  # as a whole, and as a stream
        monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", seconds)
        out = tmp_path / f"{seconds}.parquet"
        assert main(["embed", str(path), "--model", str(exported), "--out", str(out), "--what", what]) == 0
        found.append(read_embeddings(out))
    np.testing.assert_allclose(found[1].values[0], found[0].values[0], rtol=1e-3, atol=1e-4)
    model = ajepa.load_model(exported)
    with torch.no_grad():
        embedding = model(load(path)[None])
    if what != "layers":
        expected = {"clip": embedding.clip[0], "frames": embedding.frames[0]}[what]
        np.testing.assert_allclose(found[0].values[0], expected.numpy(), rtol=1e-3, atol=1e-4)
    else:
        assert found[0].values[0].shape == (3, 2 * 8 * 32)


@pytest.mark.parametrize("pool", ["concat", "mean"])
def test_a_probe_reads_what_is_joined(pool: str, plain: Path, exported: Path, tmp_path: Path) -> None:
    """By the file's own choice, and by the probe's option on a file without one; and a saved probe does."""
    table = write_table(tmp_path)
    found = []
    for model, layer in ((exported, "last"), (plain, "1+2")):
        line = [
            "evaluate",
            "linear",
            "--task",
            "table",
            "--data",
            str(table),
            "--split",
            "split",
            "--pool",
            pool,
        ]
        line += [
            "--cache",
            str(tmp_path / "cache"),
            "--model",
            str(model),
            "--layer",
            layer,
            "--time",
            "mean+std",
        ]
        saved_in = tmp_path / f"saved-{layer}"
        line += ["--json", str(tmp_path / "record.json"), "--save", str(saved_in)]
        assert main(line) == 0
        (record,) = read_records(tmp_path / "record.json")
        found.append((record.score, record.details["features"], ajepa.load_classifier(saved_in)))
    (score, features, of_file), (other_score, other_features, of_option) = found
    assert score == other_score > 0.8
    assert features == other_features == 2 * (2 * 32) * (8 if pool == "concat" else 1)
    waveform_BS = 0.1 * torch.randn(3, 9_000)
    assert of_file.head.config == of_option.head.config and of_file.head.config.layer == "1+2"
    torch.testing.assert_close(of_file(waveform_BS), of_option(waveform_BS))


def test_the_last_layer_is_what_the_model_gives_whichever_layers_are_asked_for(
    exported: Path, tmp_path: Path
) -> None:
    """The joined blocks, as under `last` alone; the classifier that is kept of them reads them too."""
    task = open_task("table", write_table(tmp_path), split="split")
    model = open_model(f"tiny={exported}")
    cache, kept = tmp_path / "cache", []

    def keep(result: Result, final: FinalProbe, tested: Sequence[Scored], shape: torch.Size) -> None:
        kept.append(of_probe(model, task, result.record, final, tested, shape))

    (alone,) = probe_model(model, task, Probing(time="mean+std"), cache, keep)
    *_, each = probe_model(model, task, Probing(layer="each", time="mean+std"), cache, keep)
    assert each.record.layer == alone.record.layer == "last"
    assert each.record.details["features"] == alone.record.details["features"] == 2 * 2 * 8 * 32
    assert torch.equal(each.draws_S, alone.draws_S) and each.record.chosen == alone.record.chosen
    assert kept[-1].head.config == kept[0].head.config and kept[0].head.config.layer == "1+2"
    waveform_BS = 0.1 * torch.randn(2, 9_000)
    torch.testing.assert_close(kept[-1](waveform_BS), kept[0](waveform_BS), atol=1e-4, rtol=1e-4)
    embedded = embed_task(model, task, all_layers=True, cache=cache)
    best = embedded.representations("best", "concat", "mean")
    assert list(best) == ["1 concat mean", "2 concat mean", "last concat mean"]
    joined_NX = best["last concat mean"]()
    assert torch.equal(joined_NX, embedded.representations("1+2", "concat")["1+2 concat mean"]())


def test_a_layer_that_is_not_there_is_one_line(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is said before any clip is embedded."""
    line = ["evaluate", "linear", "--task", "table", "--data", str(write_table(tmp_path)), "--split", "split"]
    line += ["--cache", str(tmp_path / "cache"), "--model"]
    for layer in ("1+3", "9", "0", "", "1,2", "2+2"):
        assert main([*line, str(plain), "--layer", layer]) == (1 if layer in ("1+3", "9") else 2)
        assert f"layer is {layer!r}; choose last, best, each, weighted, " in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    for layer in ("0", "99+99", "++9"):
        assert main([*line, "logmel", "--layer", layer]) == 2
        assert f"layer is {layer!r}; choose last, " in capsys.readouterr().err
