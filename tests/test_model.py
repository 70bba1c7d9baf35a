"""AudioEncoder and load_model: any length, any batch, one embedding."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ajepa
from ajepa.features import LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.model.chunks import plan_chunks
from ajepa.model.loading import ModelError, encoder_file
from ajepa.nn.encoder import EncoderConfig
from ajepa.recipes import Recipe


@pytest.fixture
def model() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(LogMelConfig(), EncoderConfig(size="ti", depth=4), chunk_seconds=2.08).eval()


def sounds(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


@torch.no_grad()
def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioEncoder) -> None:
    lengths = [1, 399, 400, 2_560, 7_777, 16_000, 33_000, 33_680, 60_001, 160_000]
    clips = sounds(*lengths)
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    padded[0, 1:] = 3.0  # what follows a clip's end must not matter
    batch = model(padded, lengths, layers=True)
    for row, clip in enumerate(clips):
        alone = model(clip[None], layers=True)
        steps = int(alone.lengths)
        assert int(batch.lengths[row]) == steps
        torch.testing.assert_close(batch.clip[row], alone.clip[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.frames[row, :steps], alone.frames[0], atol=1e-5, rtol=0)
        assert not batch.frames[row, steps:].any()
        for ours, theirs in zip(batch.layers, alone.layers, strict=True):
            torch.testing.assert_close(ours[row, :steps], theirs[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_clips_may_tell_how_much_features_move(model: AudioEncoder) -> None:
    lengths = [500, 9_000, 40_000]
    batch = torch.nn.utils.rnn.pad_sequence(sounds(*lengths), batch_first=True)
    plain = model(batch, lengths)
    assert plain.clip.shape[1] == model.clip_size == model.embedding_size
    model.pooling = "mean+std"
    both = model(batch, lengths).clip
    assert both.shape[1] == model.clip_size == 2 * model.embedding_size
    torch.testing.assert_close(both[:, : model.embedding_size], plain.clip)
    for row, steps in enumerate(plain.lengths.tolist()):
        expected = plain.frames[row, :steps].std(0, correction=0)
        torch.testing.assert_close(both[row, model.embedding_size :], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 100, 400, 559, 560, 16_000, 33_280, 40_000, 500_000])
def test_every_length_works(model: AudioEncoder, samples: int) -> None:
    embedding = model(sounds(samples)[0][None])
    frames = max(1, 1 + (samples - 400) // 160)
    assert embedding.patches.shape == (1, -(-frames // 16), 8, 192)
    assert embedding.clip.shape == (1, model.embedding_size)
    assert embedding.clip.isfinite().all()


@torch.no_grad()
def test_silence_is_finite(model: AudioEncoder) -> None:
    assert model(torch.zeros(2, 20_000)).clip.isfinite().all()


@torch.no_grad()
def test_chunks_join_without_a_seam(model: AudioEncoder) -> None:
    """A steady sound has no larger jumps between time steps where chunks meet than elsewhere."""
    time = torch.arange(16_000 * 12) / 16_000
    frames = model((0.3 * torch.sin(2 * torch.pi * 440 * time))[None]).frames[0]
    jumps = frames.diff(dim=0).norm(dim=1)
    inside = jumps[1 : model.chunk_patches - model.chunk_patches // 4 - 1].max()
    assert jumps[model.chunk_patches - model.chunk_patches // 4 : -1].max() <= 1.5 * inside


@pytest.mark.parametrize("size", [1, 2, 3, 4, 13, 64])
def test_chunks_cover_every_step(size: int) -> None:
    lengths = [1, size, size + 1, 3 * size - 1, 100]
    for clip, length in enumerate(lengths):
        spans = [chunk for chunk in plan_chunks(lengths, size) if chunk.clip == clip]
        covered = set().union(*(range(c.start, c.start + c.length) for c in spans))
        assert covered == set(range(length))
        assert all(chunk.length == min(size, length) for chunk in spans)


def test_wrong_input_is_refused(model: AudioEncoder) -> None:
    with pytest.raises(ValueError, match=r"\[clips, samples\]"):
        model(torch.zeros(16_000))
    with pytest.raises(ValueError, match="both at least 1"):
        model(torch.zeros(1, 0))
    with pytest.raises(ValueError, match="lengths"):
        model(torch.zeros(2, 100), [0, 100])
    with pytest.raises(ValueError, match="lengths"):
        model(torch.zeros(2, 100), [100, 101])
    with pytest.raises(ValueError, match="2 numbers"):
        model(torch.zeros(2, 100), [100])
    with pytest.raises(ValueError, match="frames"):
        model.encode(torch.zeros(2, 20, 128), torch.tensor([0, 20]))
    with pytest.raises(ValueError, match="frames"):
        model.encode(torch.zeros(2, 20, 128), [21, 20])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_copies_work(model: AudioEncoder, dtype: torch.dtype) -> None:
    clip = sounds(40_000)[0][None]
    full, half = model(clip).clip, copy.deepcopy(model).to(dtype)(clip).clip
    assert torch.nn.functional.cosine_similarity(full, half.float()).min() > 0.999


def test_gradients_reach_the_waveform(model: AudioEncoder) -> None:
    waveform = sounds(20_000)[0][None].requires_grad_()
    model(waveform).clip.sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()


def test_gradients_are_finite_where_nothing_moves(model: AudioEncoder) -> None:
    """A clip of one time step has no deviation, and the root of 0 no slope."""
    model.pooling = "mean+std"
    waveform = sounds(500)[0][None].requires_grad_()
    model(waveform).clip.square().sum().backward()
    assert waveform.grad is not None and waveform.grad.isfinite().all() and waveform.grad.abs().sum() > 0


def test_random_twins_are_reproducible() -> None:
    first, second = ajepa.load_model("ajepa-small-cpu"), ajepa.load_model("ajepa-small-cpu")
    other = ajepa.load_model("ajepa-small-cpu", seed=1)
    weights = [model.encoder.blocks[0].mlp.fc1.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not first.training


def test_a_run_loads_by_folder_file_and_checkpoint(tiny_recipe: Recipe) -> None:
    finished = ajepa.pretrain(tiny_recipe)
    by_folder = ajepa.load_model(finished.parent)
    by_file = ajepa.load_model(finished)
    by_checkpoint = ajepa.load_model(finished.parent / "checkpoints" / "step-00000006.safetensors")
    context = ajepa.load_model(finished.parent, weights="context")
    assert context.source is not None and context.source.weights == "exported context encoder"
    with pytest.raises(ModelError, match="holds the target encoder alone"):
        ajepa.load_model(finished, weights="context")
    with pytest.raises(ModelError, match="A-JEPA has no encoder 'teacher'; choose target or context"):
        ajepa.load_model(finished, weights="teacher")
    clip = sounds(30_000)[0][None]
    with torch.no_grad():
        expected = by_file(clip).clip
        assert torch.equal(by_folder(clip).clip, expected)
        assert torch.equal(by_checkpoint(clip).clip, expected)
        assert not torch.equal(context(clip).clip, expected)
        assert torch.equal(ajepa.load_model(finished.parent, weights="target")(clip).clip, expected)
        last = finished.parent / "checkpoints" / "step-00000006.safetensors"
        for name in ("context", "encoder"):  # the attribute, as version 0.3 named it
            assert torch.equal(ajepa.load_model(last, weights=name)(clip).clip, context(clip).clip)
    assert by_file.source is not None
    assert by_file.source.step == 6
    assert by_file.chunk_patches == 8  # 1.28 s of training crop


def test_the_recipe_says_which_encoder_is_evaluated(tiny_recipe: Recipe) -> None:
    """With the paper's choice the context encoder is the one that a run's folder stands for."""
    objective = replace(tiny_recipe.objective, evaluated="context")
    out = ajepa.pretrain(replace(tiny_recipe, objective=objective)).parent
    assert sorted(path.name for path in out.glob("encoder*")) == [
        "encoder-target.safetensors",
        "encoder.safetensors",
    ]
    clip = sounds(30_000)[0][None]
    last = out / "checkpoints" / "step-00000006.safetensors"
    with torch.no_grad():
        context = ajepa.load_model(last, weights="encoder")(clip).clip
        for source, weights in ((out, None), (last, None), (out, "context"), (last, "context")):
            assert torch.equal(ajepa.load_model(source, weights=weights)(clip).clip, context)
        assert not torch.equal(ajepa.load_model(out, weights="target")(clip).clip, context)


def test_a_run_gives_a_command_the_file_of_an_encoder(tiny_recipe: Recipe) -> None:
    out = ajepa.pretrain(tiny_recipe).parent
    assert encoder_file("logmel", "context") == "logmel"
    assert encoder_file(str(out), "target") == str(out / "encoder.safetensors")
    assert encoder_file(str(out), "context") == str(out / "encoder-context.safetensors")
    (out / "encoder-context.safetensors").unlink()  # as version 0.3 left a run
    with pytest.raises(ModelError, match=r"no encoder-context\.safetensors; .*ajepa export"):
        encoder_file(str(out), "context")


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no recipe is called 'nothing'"):
        ajepa.load_model("nothing")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"damaged\.safetensors"):
        ajepa.load_model(damaged)
    with pytest.raises(ModelError, match="without encoder"):
        ajepa.load_model(tmp_path)


def test_other_front_ends_and_patches(tmp_path: Path) -> None:
    features = LogMelConfig(mels=64, hop_seconds=0.005)
    encoder = replace(EncoderConfig(size="ti", width=32, depth=1, heads=2), mels=64, patch=(32, 4))
    model = AudioEncoder(features, encoder, chunk_seconds=1.0).eval()
    assert model.embedding_size == 16 * 32
    assert model.hop_seconds == pytest.approx(0.16)
    assert model(torch.randn(1, 30_000)).clip.shape == (1, 512)


@pytest.mark.parametrize("waveform", [np.zeros((1, 8_000), np.float32), [[0.0] * 8_000]])
def test_what_is_no_tensor_is_named(waveform: Any) -> None:
    with pytest.raises(
        TypeError, match=r"waveform is of type (ndarray \(float32\)|list); give a tensor: torch\.as_tensor"
    ):
        ajepa.load_model("ajepa-small-cpu")(waveform)


@pytest.mark.parametrize("rate", [16_000, 22_050, 11_025])
def test_steps_are_as_far_apart_as_it_says(rate: int) -> None:
    """Also where a hop of 10 ms is no whole number of samples: 220.5 become 220."""
    encoder = EncoderConfig(width=32, depth=1, heads=2, patch=(4, 64))
    model = AudioEncoder(LogMelConfig(sample_rate=rate), encoder, chunk_seconds=1.28)
    samples = 60 * rate
    with torch.no_grad():
        steps = model(0.1 * torch.randn(1, samples)).patches.shape[1]
    assert model.hop_seconds == 4 * model.features.config.hop / rate
    assert abs(steps * model.hop_seconds - 60) <= 1.01 * model.hop_seconds
    assert (rate == 16_000) == (model.hop_seconds == 0.04)


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, "32_768"), (np.int32, "2_147_483_648")])
def test_whole_numbers_are_to_be_scaled(dtype: Any, scale: str) -> None:
    """As scipy reads WAV files; unscaled they would be audio 90 dB too loud."""
    with pytest.raises(TypeError, match=rf"give a tensor: torch\.as_tensor\(waveform / {scale}\)\.float\(\)"):
        ajepa.load_model("ajepa-demo")(np.zeros((1, 8_000), dtype))


@pytest.mark.parametrize("seconds", [-1.0, 0, float("nan"), "2", True])
def test_chunks_have_a_length(seconds: Any) -> None:
    with pytest.raises(ModelError, match=r"chunk_seconds is .*; give seconds above 0, or None"):
        ajepa.load_model("ajepa-demo", chunk_seconds=seconds)


@pytest.mark.parametrize("lengths", [[16_000, None], "ab", [True, True], [16_000, 0], [16_000]])
def test_wrong_lengths_are_named(lengths: Any) -> None:
    with pytest.raises(ValueError, match=r"lengths \[.*\] must be 2 numbers from 1 to 16000 samples"):
        ajepa.load_model("ajepa-demo")(torch.zeros(2, 16_000), lengths=lengths)


def test_the_version_is_known() -> None:
    assert ajepa.__version__ == version("ajepa")
