"""Corruptions of clips: each does what it says, to the same clip always the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from ajepa.eval.robustness.corruptions import Corruption, CorruptionError, find_noises, parse

RATE = 16_000


@pytest.fixture
def tones() -> Tensor:
    """A second of two tones, 200 and 1,000 Hz, and one at 6 kHz."""
    time_S = torch.arange(RATE) / RATE
    return sum(0.1 * torch.sin(2 * torch.pi * hertz * time_S) for hertz in (200, 1000, 6000))


def decibels(signal_S: Tensor, other_S: Tensor) -> float:
    return float(10 * (signal_S.square().sum() / other_S.square().sum()).log10())


def level_at(waveform_S: Tensor, hertz: float) -> float:
    """Amplitude of a tone in dB of full scale, past the first tenth of a second."""
    part_S = waveform_S[RATE // 10 :].double()
    phase_S = 2 * torch.pi * hertz * torch.arange(len(part_S)) / RATE
    window_S = torch.hann_window(len(part_S), dtype=torch.float64)
    sums = [(part_S * window_S * wave).sum() for wave in (phase_S.sin(), phase_S.cos())]
    amplitude = 2 * torch.hypot(*sums) / window_S.sum()
    return float(20 * amplitude.log10())


@pytest.mark.parametrize(
    "text", ["noise:10dB", "reverb:0.6s", "telephone", "codec:8kbps", "level:-20dB", "level:+20dB"]
)
def test_written_as_it_is_read(text: str) -> None:
    (corruption,) = parse(text)
    assert str(corruption) == text


def test_the_standard_set() -> None:
    assert [str(one) for one in parse("standard")] == [
        "noise:20dB",
        "noise:10dB",
        "noise:5dB",
        "noise:0dB",
        "reverb:0.6s",
        "telephone",
        "codec:8kbps",
        "level:-20dB",
        "level:+20dB",
    ]


@pytest.mark.parametrize(
    "text",
    ["noise", "noise:10", "noise:1.2.3dB", "loud", "reverb:0s", "codec:1kbps", "level:100dB", "noise:nandB"],
)
def test_refuses_others(text: str) -> None:
    with pytest.raises(CorruptionError, match="give "):
        parse(text)


@pytest.mark.parametrize("ratio", [20.0, 0.0])
@pytest.mark.parametrize("recorded", [True, False])
def test_noise_has_the_ratio(ratio: float, recorded: bool, tones: Tensor, tmp_path: Path) -> None:
    if recorded:
        noise_S = 0.01 * torch.randn(RATE // 4, generator=torch.Generator().manual_seed(5))
        soundfile.write(tmp_path / "a.wav", noise_S.numpy(), 8_000)
        noises = find_noises(tmp_path)
    (corruption,) = parse(f"noise:{ratio:g}dB", noises if recorded else ())
    noisy_S = corruption(tones, RATE, "clip")
    assert decibels(tones, noisy_S - tones) == pytest.approx(ratio, abs=0.01)


def test_a_curve_over_ratios_has_one_noise(tones: Tensor) -> None:
    noises = [one(tones, RATE, "clip") - tones for one in (*parse("noise:20dB"), *parse("noise:0dB"))]
    torch.testing.assert_close(noises[0] * 10, noises[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("corruption", parse("standard"), ids=str)
def test_same_clip_same_result_and_length(corruption: Corruption, tones: Tensor) -> None:
    first_S, again_S, other_S = (corruption(tones, RATE, clip) for clip in ("a", "a", "b"))
    assert torch.equal(first_S, again_S)
    assert first_S.shape == tones.shape and first_S.dtype == torch.float32 and first_S.isfinite().all()
    drawn = corruption.kind in ("noise", "reverb")
    assert torch.equal(first_S, other_S) is not drawn


@pytest.mark.parametrize("corruption", parse("standard"), ids=str)
@pytest.mark.parametrize("samples", [1, 100])
def test_silence_and_clips_of_a_few_samples(corruption: Corruption, samples: int) -> None:
    silent_S = torch.zeros(samples)
    assert corruption(silent_S, RATE, "a").abs().max() < 1e-3  # a codec's and mu-law's rounding
    assert corruption(torch.full((samples,), 0.1), RATE, "a").isfinite().all()


def test_the_telephone_s_band(tones: Tensor) -> None:
    (telephone,) = parse("telephone")
    heard_S = telephone(tones, RATE, "a")
    assert level_at(heard_S, 1000) == pytest.approx(-20, abs=1.0)
    assert level_at(heard_S, 6000) < -60
    assert -40 < level_at(heard_S, 200) < -25  # two filters of 12 dB an octave, half an octave off


def test_a_codec_of_few_bits_changes_more(tones: Tensor) -> None:
    noisy_S = tones + 0.05 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    errors = [
        decibels(one(noisy_S, RATE, "a") - noisy_S, noisy_S)
        for one in (*parse("codec:8kbps"), *parse("codec:128kbps"))
    ]
    assert errors[0] > errors[1] + 6


def test_levels() -> None:
    wave_S = torch.full((8,), 0.5)
    (louder,), (softer,) = parse("level:+20dB"), parse("level:-20dB")
    torch.testing.assert_close(louder(wave_S, RATE, "a"), wave_S * 10)
    torch.testing.assert_close(softer(wave_S, RATE, "a"), wave_S / 10)


def test_a_room_rings_on(tones: Tensor) -> None:
    (room,) = parse("reverb:0.5s")
    click_S = torch.zeros(RATE)
    click_S[100] = 1.0
    heard_S = room(click_S, RATE, "a")
    assert heard_S[:100].abs().max() < 1e-5 and heard_S[100] == pytest.approx(1.0, abs=1e-4)
    early = heard_S[1000:1800].square().mean()
    late = heard_S[1000 + RATE // 4 : 1800 + RATE // 4].square().mean()
    assert 10 * (early / late).log10() == pytest.approx(30, abs=2)


def test_noise_without_sound_is_refused(tmp_path: Path, tones: Tensor) -> None:
    soundfile.write(tmp_path / "silent.wav", torch.zeros(100).numpy(), RATE)
    (corruption,) = parse("noise:0dB", find_noises(tmp_path))
    with pytest.raises(CorruptionError, match="silent"):
        corruption(tones, RATE, "a")


def test_a_folder_without_noise(tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match="folder of noise recordings"):
        find_noises(tmp_path)
    with pytest.raises(CorruptionError, match="missing"):
        find_noises(tmp_path / "missing")
