"""The s3prl upstream by itself: what it returns, its options, its names. s3prl need not be installed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajepa.features import LogMelConfig
from ajepa.model.loading import ModelError
from ajepa.recipes import Recipe, dump_recipe
from ajepa.s3prl_upstream import UpstreamError, UpstreamExpert, UpstreamOptions, hubconf

RATE = 2_560  # samples of a time step: 16 frames of 10 ms


@pytest.fixture
def expert(source: str) -> UpstreamExpert:
    return UpstreamExpert(source).eval()


def noise(*seconds: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(round(16_000 * length), generator=generator) for length in seconds]


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.9999, 1.0, 1.001, 7.3, 30.0])
def test_lengths(expert: UpstreamExpert, seconds: float) -> None:
    wavs = noise(seconds)
    with torch.no_grad():
        found = expert(wavs)
    assert expert.get_downsample_rates("hidden_states") == RATE
    assert len(found["hidden_states"]) == 3  # two blocks, and the last one normed
    for state in found["hidden_states"]:
        assert state.shape == (1, math.ceil(len(wavs[0]) / RATE), 8 * 32)
        assert state.dtype == torch.float32
        assert state.isfinite().all()
    assert found["last_hidden_state"] is found["hidden_states"][-1]


@given(lengths=st.lists(st.integers(1, 40_000), min_size=2, max_size=5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_clip_is_the_same_alone_and_in_any_batch(expert: UpstreamExpert, lengths: list[int]) -> None:
    wavs = noise(*(length / 16_000 for length in lengths))
    with torch.no_grad():
        together = expert(wavs)["hidden_states"]
        for row, wav in enumerate(wavs):
            alone = expert([wav])["hidden_states"]
            frames = math.ceil(len(wav) / RATE)
            for layer, state in enumerate(alone):
                assert state.shape[1] == frames
                torch.testing.assert_close(together[layer][row, :frames], state[0], atol=1e-4, rtol=0)


def test_options_change_shape_and_rate(source: str, expert: UpstreamExpert) -> None:
    wavs = noise(1.0, 0.3)
    average = UpstreamExpert(source, "{frequency: average}").eval()
    fine = UpstreamExpert(source, repeat=4).eval()
    with torch.no_grad():
        plain = expert(wavs)["hidden_states"]
        for state, averaged in zip(plain, average(wavs)["hidden_states"], strict=True):
            torch.testing.assert_close(averaged, state.unflatten(2, (8, 32)).mean(2))
        repeated = fine(wavs)["hidden_states"]
    assert fine.get_downsample_rates("hidden_states") == RATE // 4
    assert repeated[0].shape[1] == math.ceil(16_000 / (RATE // 4))
    torch.testing.assert_close(repeated[1][:, ::4], plain[1])
    torch.testing.assert_close(repeated[1][:, 3:-1:4], plain[1][:, :-1])


def test_other_sample_rates_are_resampled(tiny_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "faster.yaml"
    path.write_text(dump_recipe(replace(tiny_recipe, front_end=LogMelConfig(sample_rate=32_000))))
    expert = UpstreamExpert(str(path)).eval()
    assert expert.model.sample_rate == 32_000
    assert expert.get_downsample_rates("hidden_states") == RATE
    wavs = noise(0.7, 1.3)
    with torch.no_grad():
        states = expert(wavs)["hidden_states"]
        alone = expert(wavs[:1])["hidden_states"]
    assert states[0].shape[1] == math.ceil(len(wavs[1]) / RATE)
    frames = alone[0].shape[1]
    torch.testing.assert_close(states[-1][:1, :frames], alone[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(source: str, expert: UpstreamExpert, dtype: torch.dtype) -> None:
    half = UpstreamExpert(source).eval().to(dtype)
    wavs = noise(1.0, 0.4)
    with torch.no_grad():
        wanted = expert(wavs)["hidden_states"][-1]
        given = half([wav.to(dtype) for wav in wavs])["hidden_states"][-1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = expert(wavs)["hidden_states"][-1]
    assert not torch.equal(cast, wanted), "a caller's autocast region holds"
    for found in (half(wavs)["hidden_states"][-1], given, cast):
        assert torch.nn.functional.cosine_similarity(found.float(), wanted, dim=2).min() > 0.98


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu(expert: UpstreamExpert) -> None:
    wavs = noise(1.0, 0.4, 3.0)
    with torch.no_grad():
        wanted = expert(wavs)["hidden_states"]
        found = expert.cuda()([wav.cuda() for wav in wavs])["hidden_states"]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)


def test_every_parameter_learns_when_fine_tuned(expert: UpstreamExpert) -> None:
    expert.train()
    wavs = [wav.requires_grad_() for wav in noise(1.0, 0.4)]
    states = expert(wavs)["hidden_states"]
    sum(state.square().sum() for state in states).backward()
    for name, parameter in expert.model.encoder.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("qkv.bias"):  # a key's bias shifts all scores of a query alike
            assert parameter.grad.abs().sum() > 0, name
    assert all(wav.grad is not None and wav.grad.abs().sum() > 0 for wav in wavs)


def test_options_from_a_file_inline_and_by_keyword(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump({"frequency": "average", "repeat": 2}))
    assert UpstreamOptions.read(str(path)) == UpstreamOptions(frequency="average", repeat=2)
    assert UpstreamOptions.read(str(path), {"repeat": 8}) == UpstreamOptions(frequency="average", repeat=8)
    assert UpstreamOptions.read("{seed: 3, cache: here}") == UpstreamOptions(seed=3, cache="here")
    assert UpstreamOptions.read(None) == UpstreamOptions()


@pytest.mark.parametrize(
    "config, message",
    [
        ("{frequencey: average}", "no option is called 'frequencey' .did you mean frequency"),
        ("{frequency: mean}", "frequency"),
        ("{repeat: two}", "repeat"),
        ("{repeat: 0}", "at least 1"),
        ("{cache_gigabytes: 0}", "above 0"),
        ("no-such-file.yaml", "give a YAML file"),
        ("{a", "give a YAML file"),
    ],
)
def test_wrong_options_are_refused(config: str, message: str) -> None:
    with pytest.raises(UpstreamError, match=message):
        UpstreamOptions.read(config)


def test_repeat_must_divide_a_time_step(source: str) -> None:
    with pytest.raises(UpstreamError, match="must divide the 2560 samples"):
        UpstreamExpert(source, repeat=7)


def test_wrong_checkpoints_are_refused(source: str, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pt"
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, foreign)
    for entry in (hubconf.ajepa, hubconf.ajepa_local):
        with pytest.raises(ModelError, match=r"foreign\.pt"):
            entry(str(foreign))
    with pytest.raises(UpstreamError, match="no such file or folder"):
        hubconf.ajepa_local("ajepa-small-cpu")
    with pytest.raises(UpstreamError, match="not a web address"):
        hubconf.ajepa_url(source)
    with pytest.raises(UpstreamError, match="this is tiny, not audio-mae"):
        hubconf.audio_mae_local(source)
    assert hubconf.ajepa_local(source).model.source.recipe == "tiny"


def test_named_systems(tiny_recipe: Recipe, tmp_path: Path) -> None:
    for entry, name in [
        (hubconf.audio_mae_local, "audio-mae-tiny"),
        (hubconf.audio_jepa_local, "audio-jepa-tiny"),
    ]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_recipe(replace(tiny_recipe, name=name)))
        assert entry(str(path), "{frequency: average}").options.frequency == "average"
