"""The bridge to s3prl: its cures one at a time, and s3prl's own checks of an upstream."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

import ajepa
from ajepa import harness
from ajepa.data.synthetic import write_voxceleb1
from ajepa.harness import hook, s3prl, s3prl_audio
from ajepa.recipes import Recipe
from ajepa.s3prl_upstream import UpstreamError, sets
from tests.toolkits import needs_s3prl


@pytest.fixture(scope="module")
def bridged() -> Iterator[None]:
    """The finder at work in this process; afterwards it is gone, and so are s3prl's modules."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "s3prl"]:
            del sys.modules[name]

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "meta_path", list(sys.meta_path))
        hook.install("s3prl")
        yield
    forget()


def test_the_bridge_is_enabled_beside_the_other(tmp_path: Path) -> None:
    for name in ("hear", "s3prl"):
        harness.enable(name, install=False, site_dir=tmp_path)
    assert {"hear: enabled", "s3prl: enabled"} <= set(harness.status(site_dir=tmp_path))
    harness.disable("hear", site_dir=tmp_path)
    lines = harness.status(site_dir=tmp_path)
    assert {"hear: not enabled", "s3prl: enabled"} <= set(lines)
    assert any("s3prl.*" in line and "torchaudio" in line for line in lines)
    harness.disable(site_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- s3prl's own checks (its test/test_upstream.py), by the interface that it gives users --


@needs_s3prl
def test_hub_keeps_its_own_upstreams(bridged: None) -> None:
    hub = importlib.import_module("s3prl.hub")
    ours = {name for name in vars(hub) if name.startswith(("ajepa", "audio_mae", "audio_jepa"))}
    assert ours == {
        "ajepa",
        "ajepa_any",
        *(f"{name}_{place}" for name in ("ajepa", "audio_mae", "audio_jepa") for place in ("local", "url")),
    }
    assert {"mel", "fbank_no_cmvn", "hf_hubert_custom", "wav2vec2", "mae_ast_frame"} <= set(hub.options())
    assert hub.mel.__module__ == "s3prl.upstream.baseline.hubconf"


@needs_s3prl
def test_checks_of_an_upstream(bridged: None, source: str) -> None:
    nn = importlib.import_module("s3prl.nn")
    pseudo = importlib.import_module("s3prl.util.pseudo_data").get_pseudo_wavs
    model = nn.S3PRLUpstream("ajepa", source)
    assert model.num_layers == 3
    assert model.hidden_sizes == [256] * 3
    assert model.downsample_rates == [2_560] * 3
    model.eval()
    with torch.no_grad():
        wavs, lengths = pseudo(seed=0, n=3, min_secs=0.05, max_secs=3, padded=True)
        states, state_lengths = model(wavs, lengths)
        for again, state in zip(model(wavs, lengths)[0], states, strict=True):
            assert torch.equal(again, state)
        padded = torch.nn.functional.pad(wavs, (0, 16_000), value=9.0)
        for other, state in zip(model(padded, lengths)[0], states, strict=True):
            torch.testing.assert_close(other, state)
    for length, state_length in zip(lengths.tolist(), state_lengths[0].tolist(), strict=True):
        assert state_length == -(-length // 2_560)
    model.train()
    with torch.autograd.set_detect_anomaly(True):
        for count, longest in [(1, 0.05), (2, 0.05), (3, 1)]:
            wavs, lengths = pseudo(n=count, min_secs=0.05, max_secs=longest, padded=True)
            sum(state.sum() for state in model(wavs, lengths)[0]).backward()


@needs_s3prl
@pytest.mark.parametrize("layers", [None, [0, 2]])
@pytest.mark.parametrize("normalize", [False, True])
def test_weighted_sum_and_layer_selection(
    bridged: None, source: str, layers: list[int] | None, normalize: bool
) -> None:
    nn = importlib.import_module("s3prl.nn")
    model = nn.S3PRLUpstream("ajepa", source).eval()
    featurizer = nn.Featurizer(model, layer_selections=layers, normalize=normalize)
    with torch.no_grad():
        wavs, lengths = torch.randn(2, 9_000), torch.tensor([9_000, 4_000])
        states, state_lengths = model(wavs, lengths)
        features, _ = featurizer(states, state_lengths)
    chosen = [states[layer] for layer in layers or range(3)]
    if normalize:
        chosen = [torch.nn.functional.layer_norm(state, state.shape[-1:]) for state in chosen]
    torch.testing.assert_close(features, torch.stack(chosen).mean(0))
    assert (featurizer.output_size, featurizer.downsample_rate) == (256, 2_560)


@needs_s3prl
def test_baselines_still_work(bridged: None, tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    transformers.HubertModel(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    nn = importlib.import_module("s3prl.nn")
    wavs, lengths = 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    for name, checkpoint, rate in [
        ("mel", None, 160),
        ("fbank_no_cmvn", None, 160),
        ("hf_hubert_custom", str(tmp_path), 320),
    ]:
        states, _ = nn.S3PRLUpstream(name, checkpoint).eval()(wavs, lengths)
        assert states[-1].shape[:2] == (2, 16_000 // rate)
        assert states[-1].isfinite().all()


@needs_s3prl
def test_url_is_downloaded_once(
    bridged: None, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = ajepa.pretrain(tiny_recipe)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(str(args[0]))

    monkeypatch.setenv("no_proxy", "*")
    download = importlib.import_module("s3prl.util.download")
    monkeypatch.setattr(download, "_download_dir", tmp_path / "downloads")
    hub = importlib.import_module("s3prl.hub")
    with HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(checkpoint.parent))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{checkpoint.name}"
        experts = [hub.ajepa_url(address) for _ in range(2)]
        with pytest.raises(UpstreamError, match="this is tiny, not audio-jepa"):
            hub.audio_jepa_url(address)
        server.shutdown()
    assert len(asked) == 1
    local = hub.ajepa_local(str(checkpoint))
    for expert in experts:
        for one, other in zip(expert.parameters(), local.parameters(), strict=True):
            assert torch.equal(one, other)


# -- the cures --


@needs_s3prl
def test_libraries_stay_as_they_are(bridged: None) -> None:
    runner = importlib.import_module("s3prl.downstream.runner")
    dataset = importlib.import_module("s3prl.downstream.speech_commands.dataset")
    expert = importlib.import_module("s3prl.downstream.speech_commands.expert")
    assert runner.torchaudio.load is s3prl_audio.load
    assert dataset.apply_effects_file is s3prl_audio.apply_effects_file
    assert torchaudio.load is not s3prl_audio.load
    assert not hasattr(torchaudio, "set_audio_backend")
    assert "torchaudio.sox_effects" not in sys.modules
    assert not hasattr(importlib.import_module("huggingface_hub"), "HfFolder")
    assert issubclass(expert.DistributedSamplerWrapper, torch.utils.data.DistributedSampler)
    assert "catalyst" not in sys.modules


@needs_s3prl
def test_pushing_to_the_hub_is_refused_with_the_remedy(bridged: None) -> None:
    runner = importlib.import_module("s3prl.downstream.runner")
    with pytest.raises(harness.HarnessError, match="hf upload"):
        runner.Repository(local_dir="x", clone_from="y")


@needs_s3prl
def test_own_checkpoints_load_and_no_others(bridged: None, tmp_path: Path) -> None:
    runner = importlib.import_module("s3prl.downstream.runner")
    own, foreign = tmp_path / "own.ckpt", tmp_path / "foreign.ckpt"
    torch.save({"Step": 3, "Args": argparse.Namespace(upstream="ajepa")}, own)
    torch.save({"Step": 3, "Args": subprocess.run}, foreign)
    assert runner.torch.load(own, map_location="cpu")["Args"].upstream == "ajepa"
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        runner.torch.load(foreign)
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(own)  # outside s3prl nothing has changed


@needs_s3prl
def test_file_lists_are_kept_for_each_data_set(
    bridged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset: Any = importlib.import_module("s3prl.downstream.voxceleb1.dataset")
    in_package = Path(dataset.__file__).parent / ".cache"
    before = in_package.exists()
    data = {}
    for count in (2, 3):
        write_voxceleb1(tmp_path / str(count), speakers=count, sessions=3, utterances=1, seconds=0.2)
        data[count] = sets.voxceleb1(tmp_path / str(count), tmp_path / f"sid{count}")
    for count in (2, 3, 2):  # the last from the cache
        folder = data[count]
        found = dataset.SpeakerClassifiDataset("test", folder, str(folder / "iden_split.txt"))
        assert len(found) == count
        assert all(Path(path).is_relative_to(folder) for path in found.dataset)
        wav_S, label, _ = found[count - 1]
        assert (wav_S.shape, wav_S.dtype, label) == ((3_200,), np.float32, count - 1)
    assert in_package.exists() == before
    lists = list((tmp_path / "cache").rglob("test.pkl"))
    lists[0].write_bytes(lists[0].read_bytes()[:-4])  # by a process that was killed
    lists[1].write_bytes(pickle.dumps([3]))
    for count in (2, 3):
        folder = data[count]
        assert len(dataset.SpeakerClassifiDataset("test", folder, str(folder / "iden_split.txt"))) == count
    assert capsys.readouterr().err.count("test.pkl: damaged (") == 2


def test_each_process_gets_its_share_of_a_sampler() -> None:
    wrapper = s3prl._distributed_sampler_wrapper()
    drawn = [3, 1, 4, 1, 5, 9, 2]
    shares = [
        list(wrapper(drawn, num_replicas=2, rank=rank, shuffle=False, drop_last=False)) for rank in (0, 1)
    ]
    assert shares == [[3, 4, 5, 2], [1, 1, 9, 3]]  # filled up from the start, as DistributedSampler does


# -- torchaudio's lost functions --


@pytest.fixture
def stereo(tmp_path: Path) -> Path:
    path = tmp_path / "stereo.wav"
    time = np.arange(44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(path, np.stack([tone, np.zeros_like(tone)], 1), 44_100, subtype="FLOAT")
    return path


def test_effects(stereo: Path) -> None:
    effects = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]]
    wave_CS, rate = s3prl_audio.apply_effects_file(stereo, effects)
    assert (rate, wave_CS.shape, wave_CS.dtype) == (16_000, (1, 16_000), torch.float32)
    expected = 0.25 * 10 ** (-3 / 20) * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    torch.testing.assert_close(wave_CS[0, 100:-100], expected[100:-100], atol=1e-3, rtol=0)
    peak, _ = s3prl_audio.apply_effects_tensor(wave_CS, rate, [["norm"]])
    assert float(peak.abs().max()) == pytest.approx(1.0)
    loud, _ = s3prl_audio.apply_effects_tensor(wave_CS, rate, [["gain", "40"]])
    assert float(loud.abs().max()) == 1.0
    with pytest.raises(harness.HarnessError, match=r"'silence 1 0\.1 0\.1%' has no stand-in"):
        s3prl_audio.apply_effects_file(stereo, [["silence", "1", "0.1", "0.1%"]])


def test_files(stereo: Path, tmp_path: Path) -> None:
    wave_CS, rate = s3prl_audio.load(stereo, frame_offset=100, num_frames=50)
    assert (rate, wave_CS.shape) == (44_100, (2, 50))
    np.testing.assert_array_equal(wave_CS.T, soundfile.read(stereo, dtype="float32")[0][100:150])
    assert s3prl_audio.info(stereo)[:4] == (44_100, 44_100, 2, 32)
    s3prl_audio.save(tmp_path / "copy.wav", wave_CS, rate)
    again, _ = s3prl_audio.load(tmp_path / "copy.wav")
    torch.testing.assert_close(again, wave_CS, atol=2**-15, rtol=0)


def test_saved_samples_come_back(tmp_path: Path) -> None:
    """As torchaudio wrote them: floating-point samples are not clipped."""
    path = tmp_path / "loud.wav"
    wave_CS = torch.tensor([[1.5, -0.25, 1e-6]])
    s3prl_audio.save(path, wave_CS, 16_000)
    assert torch.equal(s3prl_audio.load(path)[0], wave_CS)
