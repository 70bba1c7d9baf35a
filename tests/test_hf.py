"""Our encoders in the transformers library and in torch.hub: the outputs of `load_model`, to 1e-5."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ajepa import load_model
from ajepa.cli import main
from ajepa.eval.models.open import EncoderModel, open_model
from ajepa.features import InputConfig, LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.positions import TableConfig
from tests.hub_server import HubServer
from tests.test_hub import encoder_file, server  # noqa: F401

transformers = pytest.importorskip("transformers", reason="transformers is not installed: ajepa[baselines]")
import ajepa.hf  # noqa: E402

ROOT = Path(__file__).parents[1]
LENGTHS = (20_000, 5_001, 33_000)  # several time steps, and more than one chunk of 1.28 s


def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in LENGTHS]


@pytest.fixture
def exported(encoder_file: Path, tmp_path: Path) -> Path:  # noqa: F811
    folder = tmp_path / "exported"
    assert main(["export", str(encoder_file), "--out", str(folder), "--transformers"]) == 0
    return folder


def check(model: Any, encoder: AudioEncoder, extractor: Any) -> None:
    """The same frames, clips and layers, for a padded batch and for one clip alone."""
    waves = clips()
    batch = extractor([wave.numpy() for wave in waves], sampling_rate=16_000, return_tensors="pt")
    padded_BS = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True)
        expected = encoder(padded_BS, LENGTHS, layers=True)
        alone = model(**extractor(waves[1].numpy(), return_tensors="pt"))
    for ours, theirs in (
        (expected.frames, found.last_hidden_state),
        (expected.clip, found.pooler_output),
        (expected.clip[1:2], alone.pooler_output),
        *zip([layer.flatten(2) for layer in expected.layers], found.hidden_states, strict=True),
    ):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert found.frame_lengths.tolist() == expected.lengths.tolist()
    assert alone.hidden_states is None
    assert len(found.hidden_states) == model.config.num_hidden_layers
    assert found.last_hidden_state.shape[-1] == model.config.hidden_size


def test_auto_classes_read_an_exported_folder(exported: Path) -> None:
    model = transformers.AutoModel.from_pretrained(exported, trust_remote_code=False)
    assert type(model) is ajepa.hf.AjepaModel and not model.training
    extractor = transformers.AutoFeatureExtractor.from_pretrained(exported, trust_remote_code=False)
    check(model, load_model(exported), extractor)
    assert isinstance(open_model(str(exported)).module, EncoderModel), "it stays a folder of ours as well"


def test_save_pretrained_and_back(tmp_path: Path) -> None:
    """An encoder with everything that a configuration holds; its folder is one of ours too."""
    torch.manual_seed(0)
    network = EncoderConfig(
        width=32, depth=2, heads=2, patch=(8, 32), cls_token=True, table=TableConfig(12, 4),
        inputs=InputConfig("peak", "zero", 4),
    )  # fmt: skip
    encoder = AudioEncoder(LogMelConfig(mean=-5.0, std=3.0), network, 0.96).eval()
    encoder.pooling = "mean+std"
    encoder.encoder.position_table.table.normal_()  # type: ignore[union-attr]
    model = ajepa.hf.from_encoder(encoder)
    extractor = ajepa.hf.AjepaFeatureExtractor()
    check(model, encoder, extractor)
    model.save_pretrained(tmp_path / "saved")
    again, report = ajepa.hf.AjepaModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    check(again.eval(), encoder, extractor)
    check(model, load_model(tmp_path / "saved"), extractor)
    assert load_model(tmp_path / "saved").pooling == "mean+std"
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert settings["model_type"] == "ajepa" and "init" not in settings["encoder"]


def test_a_model_with_new_weights_trains() -> None:
    sizes = {"width": 32, "depth": 1, "heads": 2}
    model = transformers.AutoModel.from_config(ajepa.hf.AjepaConfig(encoder=sizes))
    model(0.1 * torch.randn(2, 8000)).pooler_output.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert 0 < float(model.encoder.patch_embed.weight.detach().std()) < 1


def test_an_encoder_gets_a_new_head_and_is_fine_tuned(exported: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {0: "low", 1: "high"}
    model = transformers.AutoModelForAudioClassification.from_pretrained(
        exported, id2label=names, label2id={name: number for number, name in names.items()}
    )
    encoder = load_model(exported)
    torch.testing.assert_close(model.encoder.state_dict(), encoder.encoder.state_dict())
    head = model.head
    weight = head.linear.weight.detach()
    assert weight.shape == (2, encoder.embedding_size) and 0 < float(weight.std()) < 1
    time_S = torch.arange(8000) / 16_000
    wave_BS = torch.stack(
        [0.1 * torch.sin(2 * torch.pi * hertz * time_S) for hertz in (200, 220, 3000, 3300)]
    )
    labels_B = torch.tensor([0, 0, 1, 1])
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(12):
        loss = model(wave_BS, labels=labels_B).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    model.eval().save_pretrained(tmp_path / "tuned")
    again = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "tuned")
    with torch.no_grad():
        logits = again(wave_BS).logits
        torch.testing.assert_close(logits, model(wave_BS).logits)
    assert logits.argmax(1).tolist() == [0, 0, 1, 1] and again.config.id2label == names


def test_a_classifier_gets_a_head_for_other_labels(tmp_path: Path) -> None:
    """Its standardisation stays."""
    sizes = {"width": 32, "depth": 1, "heads": 2}
    model = ajepa.hf.AjepaForAudioClassification(ajepa.hf.AjepaConfig(encoder=sizes, num_labels=3))
    model.head.mean_V.fill_(0.25)
    model.save_pretrained(tmp_path)
    again = ajepa.hf.AjepaForAudioClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True
    )
    assert again(torch.zeros(1, 8000)).logits.shape == (1, 5)
    assert bool((again.head.mean_V == 0.25).all()) and 0 < float(again.head.linear.weight.detach().std()) < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_leaves_the_spectrogram_alone(exported: Path, dtype: torch.dtype) -> None:
    model = transformers.AutoModel.from_pretrained(exported, dtype=dtype)
    exact = transformers.AutoModel.from_pretrained(exported)
    wave_BS = clips()[0][None]
    with torch.no_grad():
        torch.testing.assert_close(model.features(wave_BS), exact.features(wave_BS))
        rounded, found = model(wave_BS).pooler_output, exact(wave_BS).pooler_output
    torch.testing.assert_close(rounded.float(), found, atol=0.1, rtol=0.1)


def test_push_to_hub_and_use_where_ajepa_is_not_installed(
    exported: Path,
    server: HubServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    """By the library's own methods, in processes of their own: they read the Hub's address when imported.

    The second one, which has no ajepa, loads the pushed model and the exported folder.
    """
    push = f"""
from transformers import AutoFeatureExtractor, AutoModel
import ajepa.hf
model = AutoModel.from_pretrained({str(exported)!r})
model.push_to_hub("me/tiny", private=True)
ajepa.hf.AjepaFeatureExtractor().push_to_hub("me/extractor")
assert AutoFeatureExtractor.from_pretrained("me/extractor").sampling_rate == 16_000
assert type(AutoModel.from_pretrained("me/tiny")) is ajepa.hf.AjepaModel
from ajepa.eval.models.open import open_model
assert open_model("transformers:me/exported?trust_remote_code").module.sample_rate == 16_000
"""
    pull = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ajepa":
            raise ModuleNotFoundError("no ajepa here")
sys.meta_path.insert(0, Nothing())
import numpy, torch
from transformers import AutoFeatureExtractor, AutoModel
AutoFeatureExtractor.from_pretrained("me/tiny", trust_remote_code=True)
AutoModel.from_pretrained("me/tiny", trust_remote_code=True).save_pretrained("pulled")
extractor = AutoFeatureExtractor.from_pretrained({str(exported)!r}, trust_remote_code=True)
model = AutoModel.from_pretrained({str(exported)!r}, trust_remote_code=True)
batch = extractor(list(numpy.load("waves.npz").values()), sampling_rate=16_000, return_tensors="pt")
with torch.no_grad():
    found = model(**batch, output_hidden_states=True)
numpy.savez("found.npz", frames=found.last_hidden_state, clip=found.pooler_output)
model.save_pretrained("saved")
extractor.save_pretrained("saved")
AutoModel.from_pretrained("saved", trust_remote_code=True)
"""
    np.savez(tmp_path / "waves.npz", *[wave.numpy() for wave in clips()])
    environment = {
        **os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    line = ["export", str(exported), "--out", str(tmp_path / "again"), "--transformers"]
    assert main([*line, "--push", "me/exported", "--private"]) == 0
    for program in (push, pull):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stderr[-3000:]}\n{server.requests}"
    assert server.repositories["me/tiny"].private
    for repository in ("me/tiny", "me/exported"):
        names = set(list(server.repositories[repository].commits.values())[-1])
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_ajepa.py"} <= names
        assert "README.md" in names
    for place in (exported, tmp_path / "pulled"):
        model = transformers.AutoModel.from_pretrained(place)
        check(model, load_model("hf://me/tiny"), ajepa.hf.AjepaFeatureExtractor())
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        padded_BS = torch.nn.utils.rnn.pad_sequence(clips(), batch_first=True)
        expected = load_model(exported)(padded_BS, LENGTHS)
    np.testing.assert_allclose(found["frames"], expected.frames.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["clip"], expected.clip.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda take: take(np.zeros(100), sampling_rate=8_000),
            "the audio has 8000 Hz, the model takes 16000",
        ),
        (lambda take: take(np.zeros((2, 3, 100))), r"shapes \[\(2, 3, 100\)\]; give mono"),
        (lambda take: take([np.zeros(100), np.zeros(0)]), r"\(0,\)\]; give mono"),
        (lambda take: take([np.full(100, 9, np.int16)]), "are of int16; give floating-point samples"),
    ],
)
def test_what_the_extractor_refuses(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ajepa.hf.AjepaFeatureExtractor())


def test_padding_comes_last() -> None:
    sizes = {"width": 32, "depth": 1, "heads": 2}
    model = transformers.AutoModel.from_config(ajepa.hf.AjepaConfig(encoder=sizes))
    wave, mask = torch.randn(1, 9_000), torch.ones(1, 9_000, dtype=torch.long)
    mask[0, :100] = 0
    with pytest.raises(ValueError, match="a clip's own samples must come first; pad on the right"):
        model(wave, attention_mask=mask)


def test_the_extractor_pads_and_says_where() -> None:
    take = ajepa.hf.AjepaFeatureExtractor()
    batch = take([np.ones(5, np.float32), np.ones(3, np.float32)], return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["input_values"][1].tolist() == [1, 1, 1, 0, 0]
    assert take(list(np.ones(4)), return_tensors="pt")["input_values"].shape == (1, 4), "one clip, as numbers"
    assert take(np.ones((2, 4)), return_tensors="pt")["input_values"].shape == (2, 4)


def test_the_adapter_of_transformers_gives_the_same_features(exported: Path) -> None:
    """Each frequency patch by itself natively, a time step's side by side there."""
    wave_BS = clips()[0][None]
    with torch.no_grad():
        theirs = open_model(f"transformers:{exported}").module(wave_BS, [wave_BS.shape[1]], True)
        ours = open_model(str(exported)).module(wave_BS, [wave_BS.shape[1]], True)
    torch.testing.assert_close(theirs[..., 0, :], ours.flatten(-2), atol=1e-4, rtol=1e-4)


def test_torch_hub(encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for arguments in ((), (str(encoder_file),)):
        found = torch.hub.load(str(ROOT), "ajepa", *arguments, source="local")
        expected = load_model(*arguments)
        with torch.no_grad():
            wave_BS = clips()[0][None]
            torch.testing.assert_close(found(wave_BS).clip, expected(wave_BS).clip, atol=1e-5, rtol=1e-5)
