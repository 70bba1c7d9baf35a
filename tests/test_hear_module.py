"""The HEAR API, the s3prl upstream, and the log-mel baseline behind the same API."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ajepa.eval.logmel
import ajepa.hear_module
from ajepa.checkpoints import native as checkpoint
from ajepa.features import LogMelConfig
from ajepa.hear_module import patch_centre_ms
from ajepa.model import AudioEncoder
from ajepa.recipes import Recipe
from ajepa.s3prl_upstream import UpstreamExpert
from tests.conftest import TINY


@pytest.fixture
def hear() -> ajepa.hear_module.HearModel:
    torch.manual_seed(0)
    return ajepa.hear_module.HearModel(AudioEncoder(LogMelConfig(), TINY, 2.08).eval())


MODULES = [ajepa.hear_module, ajepa.eval.logmel]


def load(module: ModuleType, hear: ajepa.hear_module.HearModel) -> torch.nn.Module:
    return hear if module is ajepa.hear_module else module.load_model()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("samples", [1, 399, 800, 801, 16_000, 33_333, 9_600_000])
def test_api(module: ModuleType, hear: ajepa.hear_module.HearModel, samples: int) -> None:
    model = load(module, hear)
    audio = 0.1 * torch.randn(1 if samples > 1e6 else 3, samples)
    scene = module.get_scene_embeddings(audio, model)
    assert scene.shape == (len(audio), model.scene_embedding_size)
    embeddings, stamps = module.get_timestamp_embeddings(audio, model)
    count = max(1, int(samples / 16 // 50))
    assert embeddings.shape == (len(audio), count, model.timestamp_embedding_size)
    assert stamps.shape == (len(audio), count)
    assert scene.dtype == embeddings.dtype == stamps.dtype == torch.float32
    assert scene.isfinite().all()
    assert embeddings.isfinite().all()
    assert not scene.requires_grad
    assert (stamps >= 0).all()
    assert (stamps <= samples / 16).all()
    if count > 1:
        assert (stamps.diff(dim=1) == 50.0).all()


@pytest.mark.parametrize("module", MODULES)
def test_a_clip_is_the_same_in_any_batch(module: ModuleType, hear: ajepa.hear_module.HearModel) -> None:
    model = load(module, hear)
    audio = 0.1 * torch.randn(5, 50_000)
    for function in (module.get_scene_embeddings, lambda a, m: module.get_timestamp_embeddings(a, m)[0]):
        torch.testing.assert_close(
            function(audio, model)[2:3], function(audio[2:3], model), atol=1e-5, rtol=0
        )


def test_timestamps_interpolate_between_patch_centres(hear: ajepa.hear_module.HearModel) -> None:
    audio = 0.1 * torch.randn(1, 33_000)
    frames = hear.encoder(audio).frames[0]
    embeddings, stamps = ajepa.hear_module.get_timestamp_embeddings(audio, hear)
    assert patch_centre_ms(hear.encoder) == pytest.approx(87.5)  # 16 frames from 0 to 175 ms
    torch.testing.assert_close(embeddings[0, 0], frames[0])  # 25 ms: before the first centre
    place = (float(stamps[0, 20]) - 87.5) / 160
    expected = torch.lerp(frames[int(place)], frames[int(place) + 1], place % 1)
    torch.testing.assert_close(embeddings[0, 20], expected, atol=1e-5, rtol=0)


def test_an_event_shows_at_its_time(hear: ajepa.hear_module.HearModel) -> None:
    """A burst at 1.0 s changes the time stamps around it most, for both modules."""
    quiet = 1e-3 * torch.randn(1, 32_000)
    loud = quiet.clone()
    loud[:, 16_000:17_600] += 0.5 * torch.randn(1, 1_600)
    for module in MODULES:
        model = load(module, hear)
        before, stamps = module.get_timestamp_embeddings(quiet, model)
        after, _ = module.get_timestamp_embeddings(loud, model)
        peak = stamps[0, (after - before)[0].norm(dim=1).argmax()]
        assert 850 <= peak <= 1250


def test_default_and_path(tiny_recipe: Recipe, tmp_path: Path) -> None:
    default = ajepa.hear_module.load_model()
    assert default.sample_rate == 16_000
    model = ajepa.hear_module.load_model(str(ajepa.pretrain(tiny_recipe)))
    assert model.scene_embedding_size == 8 * 32
    with pytest.raises(ValueError, match="no weights"):
        ajepa.eval.logmel.load_model("something")


def test_upstream_gives_what_s3prl_expects(tiny_recipe: Recipe) -> None:
    expert = UpstreamExpert(str(ajepa.pretrain(tiny_recipe)))
    rate = expert.get_downsample_rates("hidden_states")
    assert rate == 2_560
    wavs = [torch.randn(length) for length in (800, 2_700, 16_000, 33_001, 70_000)]
    states = expert(wavs)["hidden_states"]
    assert len(states) == 3  # two blocks and the normed output
    for state in states:
        assert state.shape == (5, math.ceil(70_000 / rate), 256)
        assert state.isfinite().all()
    for row, wav in enumerate(wavs):
        alone = expert([wav])["hidden_states"][-1][0]
        assert len(alone) == math.ceil(len(wav) / rate)
        torch.testing.assert_close(states[-1][row, : len(alone)], alone, atol=1e-4, rtol=0)
    states[-1].sum().backward()
    assert expert.model.encoder.patch_embed.weight.grad is not None


def test_twin_of_a_run_is_its_first_checkpoint(tiny_recipe: Recipe) -> None:
    from dataclasses import replace

    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, keep=9))
    out = ajepa.pretrain(recipe).parent
    first = checkpoint.load(out / "checkpoints" / "step-00000000.safetensors")
    assert first.step == 0
    weight = "patch_embed.weight"
    assert torch.equal(
        first.tensors[f"objective.encoder.{weight}"], first.tensors[f"objective.target_encoder.{weight}"]
    )
    twin = ajepa.load_model(out / "checkpoints" / "step-00000000.safetensors")
    assert torch.equal(twin.encoder.patch_embed.weight, first.tensors[f"objective.encoder.{weight}"])
