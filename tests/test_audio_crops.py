"""Random crops: of files and of decoded audio alike, from anywhere, at a jittered level, never silent."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajepa.audio import AudioError, cyclic, find_audio, info, load, random_crop
from ajepa.audio import reading as audio
from ajepa.audio.reading import jitter_level
from tests.audio_files import FORMATS, generator, noise, write


@given(st.integers(1, 50), st.integers(0, 200), st.integers(-300, 300))
def test_cyclic(length: int, samples: int, start: int) -> None:
    waveform_S = torch.arange(length)
    assert cyclic(waveform_S, samples, start).tolist() == [(start + i) % length for i in range(samples)]


def test_cyclic_copies() -> None:
    waveform_S = torch.zeros(10)
    cyclic(waveform_S, 5).add_(1)
    assert waveform_S.sum() == 0


def test_level_jitter_is_uniform_in_decibels() -> None:
    one_S, draw = torch.ones(1), generator()
    gains = torch.stack([20 * torch.log10(jitter_level(one_S, draw, 6.0)) for _ in range(4_000)])
    assert gains.min() >= -6.001 and gains.max() <= 6.001
    shares = torch.histc(gains, bins=6, min=-6, max=6) / len(gains)
    torch.testing.assert_close(shares, torch.full((6,), 1 / 6), rtol=0, atol=0.03)
    assert torch.equal(jitter_level(one_S, draw, 0.0), one_S)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["a.wav", "a.flac", "a.ogg", "a.opus", "cbr.mp3"]),
    rate=st.sampled_from([16_000, 44_100]),
    seconds=st.floats(0.001, 4.0),
    seed=st.integers(0, 2**32),
)
def test_crop_from_file_and_from_cache_agree(
    tmp_path_factory: pytest.TempPathFactory, name: str, rate: int, seconds: float, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"crops{rate}"
    folder.mkdir(exist_ok=True)
    path = folder / name if (folder / name).exists() else write(folder / name, rate=rate, seconds=1.7)
    samples = round(seconds * 16_000)
    crop_S = random_crop(path, seconds, generator(seed))
    assert crop_S.shape == (samples,)
    assert torch.equal(crop_S, random_crop(path, seconds, generator(seed)))
    exact = rate == 16_000 and name in ("a.wav", "a.flac")
    cached_S = random_crop(load(path), seconds, generator(seed))
    torch.testing.assert_close(crop_S, cached_S, rtol=0, atol=0 if exact else 1e-5)


def test_crops_start_anywhere_and_go_round(tmp_path: Path) -> None:
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.linspace(0.1, 0.9, 1_000, dtype=np.float32), 16_000, subtype="FLOAT")
    draw = generator()
    starts, wrapped = [], 0
    for _ in range(1_000):
        crop_S = random_crop(path, 400 / 16_000, draw, gain_db=0.0)
        starts.append(round((float(crop_S[0]) - 0.1) / 0.8 * 999))
        wrapped += bool((crop_S.diff() < 0).any())
    shares = np.histogram(starts, bins=5, range=(0, 1_000))[0] / 1_000
    np.testing.assert_allclose(shares, 0.2, atol=0.05)
    assert wrapped / 1_000 == pytest.approx(0.4, abs=0.06)


def test_crop_reads_only_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", seconds=60)
    decoded: list[int] = []
    read = soundfile.SoundFile.read

    def counting_read(self: soundfile.SoundFile, *args: object, **options: object) -> np.ndarray:
        block = read(self, *args, **options)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    random_crop(path, 2.0, generator())
    assert 2.0 <= sum(decoded) / 44_100 < 3.0  # whole blocks


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mostly_silent_file_gives_crops_that_sound(tmp_path: Path, rate: int) -> None:
    samples = np.zeros(60 * rate, dtype=np.float32)
    samples[30 * rate : 30 * rate + 100] = noise(100)[:, 0]
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, rate)
    for seed in range(10):
        crop_S = random_crop(path, 0.5, generator(seed))
        assert crop_S.shape == (8_000,) and crop_S.abs().max() > 1e-3
        cached_S = random_crop(load(path), 0.5, generator(seed))
        torch.testing.assert_close(crop_S, cached_S, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.opus", "cbr.mp3"])
def test_silent_file_is_an_error_for_a_crop(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, np.zeros(48_000), 48_000, **FORMATS[name])
    for seconds in (0.2, 5.0):
        with pytest.raises(AudioError, match=r"silent.*; remove it$") as caught:
            random_crop(path, seconds, generator())
        assert str(caught.value).startswith(f"{path}: ")


def test_quietest_16_bit_sound_is_not_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "q.wav", np.tile(np.array([0, 1], dtype=np.int16), 8_000), 16_000)
    assert random_crop(tmp_path / "q.wav", 0.5, generator(), gain_db=0.0).max() == 2**-15


def test_crop_in_a_forked_worker(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac")
    expected = random_crop(path, 1.0, generator())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        level = pool.apply(_crop_sum, (path,))
    assert level == float(expected.double().sum())


def _crop_sum(path: Path) -> float:
    torch.set_num_threads(1)
    return float(random_crop(path, 1.0, generator()).double().sum())


# --- Real recordings ---


@pytest.mark.parametrize(("folder", "suffix"), [("pretrain", ".opus"), ("esc50/audio", ".ogg")])
def test_real_files(shared: Path, folder: str, suffix: str) -> None:
    root = shared / "data" / folder
    paths = [path for path in find_audio(root) if path.suffix == suffix]
    for path in paths[:: max(1, len(paths) // 12)]:
        whole_S = load(path)
        assert whole_S.numel() == info(path).samples  # these are at 16 kHz
        assert whole_S.isfinite().all() and whole_S.abs().max() > audio.SILENCE_PEAK
        for seed in range(5):
            crop_S, cached_S = (random_crop(source, 1.0, generator(seed)) for source in (path, whole_S))
            torch.testing.assert_close(crop_S, cached_S, rtol=0, atol=0)
