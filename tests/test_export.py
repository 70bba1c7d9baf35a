"""Exported models: files that load again, graphs that agree, cards that say what is known."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ajepa
import ajepa.hear_module
from ajepa.audio import find_audio, load
from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.export import ExportError, export_model
from ajepa.export.graph import EmbeddingGraph
from ajepa.export.programs import TOLERANCE, capture, check_batches, write_onnx, write_torch
from ajepa.features import InputConfig, LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.model.embedding import Pooling
from ajepa.model.fingerprint import fingerprint
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.positions import TableConfig
from ajepa.recipes import Recipe

# The conventions of A-JEPA, Audio-MAE and Audio-JEPA. The chunk is no multiple of the second's 8 steps.
CONVENTIONS = {
    "a-jepa": EncoderConfig(width=32, depth=1, heads=2),
    "audio-mae": EncoderConfig(
        width=32,
        depth=1,
        heads=2,
        cls_token=True,
        table=TableConfig(13, 8, transposed=True),
        inputs=InputConfig(fill="zero", steps=8),
    ),
    "audio-jepa": EncoderConfig(
        width=32, depth=1, heads=2, table=TableConfig(13, 8), inputs=InputConfig(level="peak", fill="zero")
    ),
}


def model_of(convention: str) -> AudioEncoder:
    torch.manual_seed(0)
    model = AudioEncoder(LogMelConfig(), CONVENTIONS[convention], chunk_seconds=2.08).eval()
    for parameter in model.encoder.parameters():  # zero biases and unit norms would hide mistakes
        parameter.data += 0.05 * torch.randn_like(parameter)
    if model.encoder.position_table:
        model.encoder.position_table.table.normal_()
    return model


def saved(model: AudioEncoder, path: Path) -> Path:
    """The file of a training run of no steps."""
    tensors = {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    tensors |= {f"features.{name}": value for name, value in model.features.state_dict().items()}
    recipe = Recipe(name="tiny", encoder=model.encoder.config).as_dict()
    recipe["data"] |= {"crop_seconds": 2.08, "source": "/home/somebody/audio"}
    info = {"data": {"files": 3, "sha256": "ab" * 32}, "torch": "2.0"}
    return checkpoint.save(path, checkpoint.Checkpoint(tensors, recipe, 5, info))


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    return saved(model_of("a-jepa"), tmp_path / "encoder.safetensors")


MODELS = {name: model_of(name) for name in CONVENTIONS}


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 33_000), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    pooling=st.sampled_from(["mean", "mean+std"]),
)
@torch.no_grad()
def test_the_graph_is_the_model(convention: str, lengths: list[int], seed: int, pooling: Pooling) -> None:
    model = copy.copy(MODELS[convention])
    model.pooling = pooling
    graph = EmbeddingGraph(model)
    waveform = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    expected = model(waveform, lengths)
    frames, clip, steps = graph(waveform, torch.tensor(lengths))
    count = expected.frames.shape[1]
    assert torch.equal(steps, expected.lengths)
    assert not frames[:, count:].any()
    torch.testing.assert_close(frames[:, :count], expected.frames, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip, expected.clip, atol=1e-5, rtol=0)


def test_checks_reach_from_one_sample_to_the_longest_clip() -> None:
    batches = list(check_batches(EmbeddingGraph(MODELS["a-jepa"]).most_samples, 16_000))
    assert {len(waveform) for waveform, _ in batches} == {1, 2, 3}
    assert min(int(lengths.min()) for _, lengths in batches) == 1
    assert max(waveform.shape[1] for waveform, _ in batches) == 13 * 16 * 160 + 399


class Programs(NamedTuple):
    """A traced model, and the folder with its files."""

    program: torch.export.ExportedProgram
    folder: Path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Programs]:
    """Traces and writes a convention's model when it is first asked for, since that takes seconds."""

    @lru_cache
    def made(convention: str) -> Programs:
        model, folder = MODELS[convention], tmp_path_factory.mktemp(convention)
        program = capture(model)
        assert write_torch(program, folder / "model.pt2", model) <= TOLERANCE
        assert write_onnx(program, folder / "model.onnx", model) <= TOLERANCE
        return Programs(program, folder)

    return made


@pytest.mark.parametrize("convention", CONVENTIONS)
@torch.no_grad()
def test_onnx_and_torch_export(convention: str, programs: Callable[[str], Programs]) -> None:
    model, folder = MODELS[convention], programs(convention).folder
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.pt2"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    loaded = torch.export.load(folder / "model.pt2").module()
    # Other batch sizes and lengths than those that the export checks.
    for clips, samples in ((4, 2_960), (1, 400), (7, 20_001), (1, 33_679)):
        waveform = 0.1 * torch.randn(clips, samples)
        lengths = torch.randint(1, samples + 1, (clips,))
        expected = model(waveform, lengths)
        feeds = {"waveform": waveform.numpy(), "lengths": lengths.numpy()}
        for frames, clip, steps in (
            loaded(waveform, lengths),
            [torch.from_numpy(value) for value in session.run(["frames", "clip", "steps"], feeds)],
        ):
            assert torch.equal(steps, expected.lengths)
            close(clip, expected.clip)
            close(frames[:, : expected.frames.shape[1]], expected.frames)
    too_long = torch.zeros(1, 33_680), torch.tensor([33_680])
    with pytest.raises(AssertionError, match=r"33679"):
        loaded(*too_long)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_onnx_on_real_audio(shared: Path, programs: Callable[[str], Programs]) -> None:
    """Recordings have what noise has not: silence, and bands 60 dB below a loud tone."""
    model = MODELS["a-jepa"]
    session = onnxruntime.InferenceSession(programs("a-jepa").folder / "model.onnx")
    files = sorted(find_audio(shared / "data" / "esc50" / "audio"))[:24]
    for path in files:
        waveform = load(path, sample_rate=16_000)[None, :33_000]
        feeds = {"waveform": waveform.numpy(), "lengths": torch.tensor([waveform.shape[1]]).numpy()}
        (clip,) = session.run(["clip"], feeds)
        close(torch.from_numpy(clip), model(waveform).clip)


def test_a_saved_program_needs_no_ajepa(programs: Callable[[str], Programs], tmp_path: Path) -> None:
    path = programs("a-jepa").folder / "model.pt2"
    code = (
        "import sys, torch\n"
        f"program = torch.export.load({str(path)!r}).module()\n"
        "frames, clip, steps = program(torch.zeros(3, 5000), torch.tensor([5000, 4000, 1]))\n"
        "print(tuple(clip.shape), steps.tolist(), 'ajepa' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "(3, 256) [2, 2, 1] False", done.stderr


@pytest.mark.parametrize("write", [write_torch, write_onnx])
def test_a_graph_that_disagrees_is_an_error(
    write: Callable[..., float], programs: Callable[[str], Programs], tmp_path: Path
) -> None:
    other = model_of("a-jepa")
    other.encoder.norm.bias.data[0] += 0.01
    path = tmp_path / "model.pt2"
    path.write_bytes(b"of an earlier export")
    with pytest.raises(ExportError, match=r"differs from the model by 0\.01 "):
        write(programs("a-jepa").program, path, other)
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"of an earlier export"]


def test_an_exported_folder_loads(encoder_file: Path, tmp_path: Path) -> None:
    model = ajepa.load_model(encoder_file)
    exported = export_model(model, tmp_path / "out", torch_export=True)
    assert [path.name for path in exported.files] == ["model.safetensors", "model.pt2", "README.md"]
    clip = torch.randn(1, 50_000)
    for source in (tmp_path / "out", exported.files[0]):
        again = ajepa.load_model(source)
        assert torch.equal(again(clip).clip, model(clip).clip)
    assert again.source is not None and again.source.step == 5
    assert b"somebody" not in exported.files[0].read_bytes(), "a file for others names no home folder"


def test_pooling_travels_with_the_file(encoder_file: Path, tmp_path: Path) -> None:
    command = ["export", str(encoder_file), "--out", str(tmp_path / "out"), "--pooling", "mean+std"]
    assert main([*command, "--torch-export"]) == 0
    model = ajepa.load_model(tmp_path / "out")
    assert model.pooling == "mean+std"
    assert ajepa.hear_module.load_model(str(tmp_path / "out")).scene_embedding_size == model.clip_size
    assert f"embedding.clip  # [B, {2 * model.embedding_size}]" in (tmp_path / "out/README.md").read_text()
    waveform_BS = 0.1 * torch.randn(2, 20_000)
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    clip_BE = program(waveform_BS, torch.tensor([20_000, 700]))[1]
    torch.testing.assert_close(clip_BE, model(waveform_BS, [20_000, 700]).clip, atol=1e-4, rtol=0)
    plain = ajepa.load_model(tmp_path / "out", pooling="mean")
    assert fingerprint(plain) == fingerprint(ajepa.load_model(encoder_file)) != fingerprint(model)
    with pytest.raises(ValueError, match="pooling is 'max'; choose mean or mean"):
        ajepa.load_model(encoder_file, pooling="max")  # type: ignore[arg-type]


@torch.no_grad()
def test_half_precision(encoder_file: Path, tmp_path: Path) -> None:
    model = ajepa.load_model(encoder_file)
    export_model(model, tmp_path / "half", dtype="float16")
    half = ajepa.load_model(tmp_path / "half")
    assert (tmp_path / "half/model.safetensors").stat().st_size < 0.6 * encoder_file.stat().st_size
    clip = torch.randn(1, 20_000)
    with torch.no_grad():
        ours, theirs = half(clip).clip, model(clip).clip
    assert ours.dtype == torch.float32
    assert 0 < float((ours - theirs).abs().max()) < 0.02
    model.encoder.norm.bias.data[0] = 1e5
    with pytest.raises(ExportError, match=r"cannot hold encoder\.norm\.bias"):
        export_model(model, tmp_path / "large", dtype="float16")


def test_official_checkpoints_become_ours(shared: Path, tmp_path: Path) -> None:
    for name in ("audio_mae.pth", "audio_mae_finetuned.pth", "audio_jepa.ckpt"):
        model = ajepa.load_model(shared / "golden" / name, heads=3)
        export_model(model, tmp_path / name)
        again = ajepa.load_model(tmp_path / name)
        for clip in (torch.randn(1, 9_000), torch.randn(2, 400_000)):
            assert torch.equal(again(clip).clip, model(clip).clip)
        assert "Converted from an official Audio-" in (tmp_path / name / "README.md").read_text()


def test_the_folder_is_one_model(encoder_file: Path, tmp_path: Path) -> None:
    """A second export leaves nothing of the first one, and nobody's own files are touched."""
    model, out = ajepa.load_model(encoder_file), tmp_path / "out"
    export_model(model, out, torch_export=True)
    (out / ".gitattributes").write_text("mine")
    (out / "config.json").write_text("{}")
    (out / "modeling_ajepa.py").write_text("# Copied from ajepa 0.3.0 (Apache-2.0)\n")
    (out / "mine.py").write_text("mine = 1\n")
    export_model(model, out)
    names = {path.name for path in out.iterdir()}
    assert names == {"model.safetensors", "README.md", ".gitattributes", "mine.py"}

    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    (out / "classifier.json").write_text("{}")
    for folder in (tmp_path / "project", out):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ExportError, match="has other files in it; name a new folder"):
            export_model(model, folder)
        assert before == {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        ExportError, match=r"m\.onnx: an encoder's export is a folder; name one, and add --onnx"
    ):
        export_model(model, tmp_path / "m.onnx")


def test_random_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="random weights"):
        export_model(ajepa.load_model("ajepa-demo"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def record(model: str, weights: str, score: float) -> dict[str, object]:
    return {
        "model": model,
        "task": "esc10",
        "protocol": "hear",
        "metric": "top1_acc",
        "score": score,
        "spread": 0.02,
        "weights": weights,
    }


def test_the_card(encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = fingerprint(ajepa.load_model(encoder_file))
    records = tmp_path / "records.json"
    records.write_text(json.dumps([record("log-mel", "other", 0.775), record("first", ours, 0.8123)]))
    command = ["export", str(encoder_file), "--out", str(tmp_path / "first"), "--records", str(records)]
    assert main([*command, "--licence", "cc-by-4.0"]) == 0
    _, front, text = (tmp_path / "first/README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["library_name"], card["license"]) == ("ajepa", "cc-by-4.0")
    (entry,) = card["model-index"]
    assert entry["name"] == "first"
    assert [result["metrics"][0]["value"] for result in entry["results"]] == [0.8123], "ours alone"
    assert "| log-mel | 0.775 ± 0.020 |" in text
    assert "| **first** (these weights) | 0.812 ± 0.020 |" in text
    assert "5 optimiser steps of recipe `tiny`" in text
    assert "3 clips, fingerprint `abababab" in text
    assert "somebody" not in text
    example = text.split("```python\n")[1].split("```")[0]
    assert 'load_model("first")' in example

    seeds = record("first", "", 0.8) | {"weights": None, "pretraining": [{"seed": 0, "weights": ours}]}
    for content in (record("first", ours, 0.8), [seeds]):  # one, as --json writes it; a mean over seeds
        records.write_text(json.dumps(content))
        assert main(command) == 0
    records.write_text(json.dumps([record("log-mel", "other", 0.775)]))
    assert main(command) == 2
    assert f"no score of these weights ({ours})" in capsys.readouterr().err

    linear = {"protocol": "linear", "interval": [0.8, 0.9], "layer": "last", "time": "mean"}
    readings = [linear, linear | {"layer": "weighted", "time": "mean+std"}, {"protocol": "knn"}]
    scores = (0.85, 0.87, 0.61)
    records.write_text(
        json.dumps(
            [record("first", ours, score) | reading for score, reading in zip(scores, readings, strict=True)]
        )
    )
    assert (
        main(["export", str(encoder_file), "--out", str(tmp_path / "more"), "--records", str(records)]) == 0
    )
    _, front, text = (tmp_path / "more/README.md").read_text().split("---\n", 2)
    assert "| model | esc10, linear | esc10, linear, layer weighted, mean+std | esc10, knn |" in text
    assert "| 0.850 (0.800 to 0.900) | 0.870 (0.800 to 0.900) | 0.610 ± 0.020 |" in text, (
        "none replaces another"
    )
    results = yaml.safe_load(front)["model-index"][0]["results"]
    assert len({result["metrics"][0]["name"] for result in results}) == 3


def test_wrong_records_and_options(
    encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(encoder_file), "--out", str(tmp_path / "out")]
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "empty.json").write_text('[{"model": "a"}]')
    for options, words in (
        (["--records", str(tmp_path / "absent.json")], "absent.json"),
        (["--records", str(tmp_path / "text.json")], "not the records.json"),
        (["--records", str(tmp_path / "empty.json")], "lacks one of"),
        (["--private"], "--push"),
    ):
        assert main([*command, *options]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExportError, match="single precision"):
        capture(ajepa.load_model(encoder_file, precision="bf16"))
