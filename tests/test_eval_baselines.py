"""Baselines behind the one interface; transformers' encoders are small ones, built and saved here."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from ajepa.cli import main
from ajepa.eval.models.open import open_model
from ajepa.features import LogMel
from ajepa.model.fingerprint import fingerprint
from tests.labelled_tones import write_table

transformers = pytest.importorskip("transformers", reason="transformers is not installed: ajepa[baselines]")
from ajepa.eval.models.transformers_audio import TransformersModel  # noqa: E402

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONV = {
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 4, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def save_small(kind: str, folder: Path) -> Path:
    """A model of two blocks of 16 features with random weights, and its feature extractor."""
    torch.manual_seed(0)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    if kind == "wav2vec2":
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SMALL, **CONV))
    elif kind == "hubert":
        model = transformers.HubertModel(transformers.HubertConfig(**SMALL, **CONV))
    elif kind == "wavlm":
        model = transformers.WavLMModel(transformers.WavLMConfig(**SMALL, **CONV))
    elif kind == "data2vec-audio":
        conv = CONV | {"conv_pos_kernel_size": 3}
        model = transformers.Data2VecAudioModel(transformers.Data2VecAudioConfig(**SMALL, **conv))
    elif kind == "whisper":
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            vocab_size=20,
            max_source_positions=100,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        model = transformers.WhisperModel(config)
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    else:
        config = transformers.ASTConfig(**SMALL, max_length=128)
        model = transformers.ASTModel(config)
        extractor = transformers.ASTFeatureExtractor(max_length=128)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def noise(samples: int, clips: int = 2) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "data2vec-audio", "whisper", "ast"])
def test_encoders_of_transformers(kind: str, tmp_path: Path) -> None:
    model = open_model(f"small={save_small(kind, tmp_path / kind)}")
    assert model.name == "small"
    module = model.module
    bands = 12 if kind == "ast" else 1
    with torch.no_grad():
        for samples in (1, 200, 16_000, 50_000):  # 1.28 s and 2 s are what the last two take at once
            last = module(noise(samples), [samples] * 2, False)
            assert last.shape == (2, 1, 2, bands, 16)
            assert last.isfinite().all()
            every = module(noise(samples), [samples] * 2, True)
            assert every.shape == (2, 3, 2, bands, 16), "two blocks and the final output"
            torch.testing.assert_close(every[:, -1], last[:, 0])
            assert (last[:, :, 1] >= 0).all(), "standard deviations stand behind the means"
        alone = module(noise(16_000)[1:], [16_000], False)
        torch.testing.assert_close(
            alone, module(noise(16_000), [16_000] * 2, False)[1:], atol=1e-5, rtol=1e-4
        )
    other = open_model(str(save_small("wav2vec2" if kind == "hubert" else "hubert", tmp_path / "other")))
    assert other.name == "other"
    assert fingerprint(module) != fingerprint(other.module)


def test_the_fingerprint_knows_how_audio_is_prepared(tmp_path: Path) -> None:
    folder = save_small("wav2vec2", tmp_path / "w2v")
    before = fingerprint(open_model(str(folder)).module)
    assert fingerprint(open_model(str(folder)).module) == before
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    assert fingerprint(open_model(str(folder)).module) != before


def test_wav2vec2_is_the_library_s_own_mean_and_deviation(tmp_path: Path) -> None:
    folder = save_small("wav2vec2", tmp_path / "w2v")
    reference = transformers.Wav2Vec2Model.from_pretrained(folder).eval()
    waveform_BS = noise(8000)
    normed = (waveform_BS - waveform_BS.mean(1, keepdim=True)) / waveform_BS.std(
        1, correction=0, keepdim=True
    )
    with torch.no_grad():
        states_BTD = reference(normed).last_hidden_state
        expected = torch.stack([states_BTD.mean(1), states_BTD.std(1, correction=0)], 1)
        found = open_model(str(folder)).module(waveform_BS, [8000, 8000], False)[:, 0, :, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_padding_of_fixed_lengths_does_not_count(tmp_path: Path) -> None:
    """Half a second in Whisper's two: 25 steps of 100."""
    folder = save_small("whisper", tmp_path / "whisper")
    module = open_model(str(folder)).module
    reference = transformers.WhisperModel.from_pretrained(folder).encoder.eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    waveform_BS = noise(8000)
    features = extractor(list(waveform_BS.numpy()), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        states_BTD = reference(features).last_hidden_state
        found = module(waveform_BS, [8000, 8000], False)[:, 0, 0, 0]
    torch.testing.assert_close(found, states_BTD[:, :25].mean(1), atol=1e-5, rtol=1e-4)
    assert (found - states_BTD.mean(1)).abs().max() > 1e-3, "the padding would have counted"


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    folder = save_small("hubert", tmp_path / "hubert")
    (folder / "preprocessor_config.json").rename(tmp_path / "kept.json")
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        open_model(str(folder))
    (tmp_path / "kept.json").rename(folder / "preprocessor_config.json")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "layers.1.feed_forward" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"4 weights are missing.*layers\.1\.feed_forward"):
        open_model(str(folder))
    (tmp_path / "vit").mkdir()
    config = transformers.ViTConfig(**SMALL, image_size=32)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"vit: .*(takes no audio|cannot load it)"):
        open_model(str(tmp_path / "vit"))


def test_hear_naive_gives_the_numbers_of_hear_s_own() -> None:
    """Reference: hearbaseline.naive 2021.1.1, get_scene_embeddings of a tone and a chirp of 1 s."""
    time = np.arange(44_100) / 44_100
    wave = 0.5 * np.sin(2 * np.pi * 1000 * time) + 0.1 * np.sin(2 * np.pi * 5000 * time * time)
    model = open_model("hear-naive")
    assert model.module.sample_rate == 44_100
    with torch.no_grad():
        found_X = model.module(torch.from_numpy(wave.astype(np.float32))[None], [44_100], True)[0, 0, 0, 0]
    assert found_X.shape == (4096,)
    reference = torch.tensor([-46.913902, -50.829094, -49.472878, -49.966072])
    torch.testing.assert_close(found_X[[0, 1, 1000, 4095]], reference, atol=1e-4, rtol=0)
    assert float(found_X.mean()) == pytest.approx(-48.715076, abs=1e-4)
    assert float(found_X.std()) == pytest.approx(1.883126, abs=1e-4)


def test_hear_naive_takes_any_length() -> None:
    module = open_model("hear-naive").module
    for samples in (1, 4000, 11_025, 11_026):  # one window up to 250 ms, then two
        found = module(noise(samples), [samples] * 2, False)
        assert found.shape == (2, 1, 1, 1, 4096)
        assert found.isfinite().all()
        torch.testing.assert_close(module(noise(samples)[1:], [samples], False), found[1:])


def test_log_mel_statistics() -> None:
    waveform_BS = noise(16_000)
    frames_BLM = LogMel()(waveform_BS)
    statistics = open_model("logmel").module(waveform_BS, [16_000] * 2, True)
    expected = torch.cat([frames_BLM.mean(1), frames_BLM.std(1, correction=0)], 1)
    torch.testing.assert_close(statistics[:, 0, 0, 0], expected)


@pytest.mark.parametrize("kind", ["whisper", "ast", "wav2vec2"])
def test_features_are_extracted_outside_autocast(kind: str, tmp_path: Path) -> None:
    """In bfloat16 the blocks differ a little; the extractors, which use numpy, are not touched."""
    folder = save_small(kind, tmp_path / kind)
    module = open_model(str(folder), precision="bf16").module
    with torch.no_grad():
        exact = module(noise(16_000), [16_000] * 2, True)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module(noise(16_000), [16_000] * 2, True)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)


def test_clips_of_several_lengths_share_a_batch_of_a_fixed_one(tmp_path: Path) -> None:
    """Whisper and AST pad every clip to their own length, so that a batch may hold clips of any length."""
    for kind in ("whisper", "ast"):
        module = open_model(str(save_small(kind, tmp_path / kind))).module
        assert module.ragged and module.least_seconds == pytest.approx(2 if kind == "whisper" else 1.28)
        lengths = [50_000, 9_000, 100]  # of two or three pieces, and of one
        clips = [noise(length, 1)[0] for length in lengths]
        with torch.no_grad():
            together = module(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths, True)
            for row, clip in enumerate(clips):
                alone = module(clip[None], [len(clip)], True)
                torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)


def test_whisper_on_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In bfloat16: several clips a batch, each counted by the bar, and none encoded twice."""
    folder, table = save_small("whisper", tmp_path / "whisper"), write_table(tmp_path, clips=24)
    batches = []
    encode = TransformersModel._encode
    monkeypatch.setattr(
        TransformersModel,
        "_encode",
        lambda self, waves, *rest: batches.append(len(waves)) or encode(self, waves, *rest),
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    given = ["--task", "table", "--data", str(table), "--split", "split", "--model", f"transformers:{folder}"]
    given += ["--precision", "bf16", "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", "linear", "--layer", "best", *given]) == 0
    assert "whisper on tones: 100%" in (shown := capsys.readouterr().err) and "24/24" in shown
    pieces = sum(math.ceil(soundfile.info(one).duration / 2) for one in tmp_path.glob("*.wav"))
    assert sum(batches) == pieces and max(batches) == 8
    assert main(["evaluate", "knn", "--layer", "1", *given]) == 0
    assert sum(batches) == pieces, "read from the cache"


def save_other(kind: str, folder: Path) -> Path:
    """Small random models of further kinds, with the extractors that their released weights have."""
    torch.manual_seed(0)
    fbank = transformers.SeamlessM4TFeatureExtractor()
    waves = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    if kind == "wav2vec2-bert":
        config = transformers.Wav2Vec2BertConfig(**SMALL, feature_projection_input_dim=160)
        model, extractor = transformers.Wav2Vec2BertModel(config), fbank
    elif kind == "sew":
        config = transformers.SEWConfig(**SMALL, **CONV, squeeze_factor=2)
        model, extractor = transformers.SEWModel(config), waves
    elif kind == "wav2vec2-conformer":
        model, extractor = (
            transformers.Wav2Vec2ConformerModel(transformers.Wav2Vec2ConformerConfig(**SMALL, **CONV)),
            waves,
        )
    elif kind == "speech-to-text":
        sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": 20}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32}
        config = transformers.Speech2TextConfig(**sizes, **heads, conv_channels=16)
        model, extractor = transformers.Speech2TextModel(config), transformers.Speech2TextFeatureExtractor()
    elif kind == "moonshine":
        config = transformers.MoonshineConfig(
            hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=2, decoder_num_hidden_layers=1,
            encoder_num_attention_heads=2, decoder_num_attention_heads=2, vocab_size=20,
        )  # fmt: skip
        model, extractor = transformers.MoonshineModel(config), waves
    else:
        audio = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16}
        config = transformers.ClapConfig(audio_config={**audio, "hidden_size": 32})
        model, extractor = (
            transformers.ClapModel(config),
            transformers.ClapFeatureExtractor(truncation="rand_trunc"),
        )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind", ["wav2vec2-bert", "sew", "wav2vec2-conformer", "speech-to-text", "moonshine", "clap"]
)
def test_every_encoder_with_hidden_states(kind: str, tmp_path: Path) -> None:
    module = open_model(f"transformers:{save_other(kind, tmp_path / kind)}").module
    rate = module.sample_rate
    with torch.no_grad():
        for samples in (1, rate, rate * 3 // 2):
            every = module(noise(samples), [samples] * 2, True)
            assert every.isfinite().all() and every.shape[:1] == (2,)
            last = module(noise(samples), [samples] * 2, False)
            torch.testing.assert_close(every[:, -1], last[:, 0])
    assert every.shape[1] == (1 if kind in ("clap", "sew") else 3), "the blocks and the output, of one shape"
    assert 0.001 < module.hop_seconds < 1.3


def test_code_of_a_folder_runs_only_when_asked(tmp_path: Path) -> None:
    folder = save_small("hubert", tmp_path / "own")
    (folder / "own_code.py").write_text(
        "from transformers import HubertConfig, HubertModel\n\n\n"
        "class OwnConfig(HubertConfig):\n    model_type = 'own-hubert'\n\n\n"
        "class OwnModel(HubertModel):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-hubert",
        "auto_map": {"AutoConfig": "own_code.OwnConfig", "AutoModel": "own_code.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"runs only on your word: transformers:.*own\?trust_remote_code"):
        open_model(f"transformers:{folder}")
    module = open_model(f"transformers:{folder}?trust_remote_code").module
    assert type(module.model).__name__ == "OwnModel"
