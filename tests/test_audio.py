"""Decoding, resampling and finding audio, against one-shot references."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ajepa.audio import AudioError, find_audio, info, load, resample
from ajepa.audio import reading as audio
from tests.audio_files import FORMATS, noise, write

# --- Decoding ---


@pytest.mark.parametrize("name", FORMATS)
def test_whole_file_equals_one_shot_resampling(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, seconds=4.1)  # more than two blocks
    decoded, rate = soundfile.read(path, dtype="float32", always_2d=True)
    expected = soxr.resample(decoded.mean(axis=1), rate, audio.SAMPLE_RATE, quality="HQ")
    waveform_S = load(path)
    assert waveform_S.dtype == torch.float32 and waveform_S.shape == expected.shape
    torch.testing.assert_close(waveform_S, torch.from_numpy(expected), rtol=0, atol=1e-6)
    assert info(path) == audio.AudioInfo(len(decoded) / rate, rate, 2, len(decoded))


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_mono_is_the_mean_of_the_channels(tmp_path: Path, channels: int) -> None:
    path = write(tmp_path / "float.wav", rate=16_000, channels=channels)
    expected = noise(48_000, channels).mean(axis=1)
    np.testing.assert_allclose(load(path).numpy(), expected, rtol=0, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 44_101]),
    start=st.floats(0, 2.9),
    seconds=st.floats(0.001, 3.5),
)
def test_a_part_is_the_part_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rate: int, start: float, seconds: float
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"rate{rate}"
    folder.mkdir(exist_ok=True)
    path = folder / "a.wav"
    whole_S = load(path if path.exists() else write(path, rate=rate))
    first, length = (math.floor(time * 16_000 + 0.5001) for time in (start, seconds))  # halves up
    expected = whole_S[first : first + max(1, length)]
    torch.testing.assert_close(
        load(path, start=start, seconds=seconds), expected, rtol=0, atol=0 if rate == 16_000 else 2e-6
    )


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.opus", "cbr.mp3", "vbr.mp3"])
def test_compressed_parts_are_parts_of_the_whole(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, seconds=20)
    whole_S = load(path)
    for start in (0.0, 0.37, 9.99, 18.5, 19.8, 19.97):
        first = round(start * 16_000)
        part_S = load(path, start=start, seconds=2.0)
        torch.testing.assert_close(part_S, whole_S[first : first + 32_000], rtol=0, atol=1e-5)


def test_silence_loads(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", np.zeros(1000), 16_000)
    assert torch.equal(load(tmp_path / "s.wav"), torch.zeros(1000))


def test_shortest_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.array([0.5]), 16_000)
    assert load(tmp_path / "one.wav").tolist() == [0.5]
    soundfile.write(tmp_path / "less.wav", np.array([0.5]), 44_100)
    with pytest.raises(AudioError, match="0 samples"):  # 0.36 samples at 16 kHz
        load(tmp_path / "less.wav")


def test_importing_it_loads_no_torchaudio() -> None:
    check = "import sys, ajepa.audio; sys.exit('torchaudio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# --- Resampling ---


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampled_tone_is_the_tone(rate: int) -> None:
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(rate, dtype=torch.float64) / rate).float()
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000, dtype=torch.float64) / 16_000).float()
    resampled = resample(tone, rate, 16_000)
    assert resampled.shape == (16_000,)
    torch.testing.assert_close(resampled[500:-500], expected[500:-500], rtol=0, atol=1e-4)


def test_frequencies_beyond_the_target_are_removed() -> None:
    tone = torch.sin(2 * torch.pi * 12_000 * torch.arange(44_100, dtype=torch.float64) / 44_100).float()
    assert resample(tone, 44_100, 16_000)[500:-500].abs().max() < 1e-4


def test_resampling_keeps_leading_axes() -> None:
    waveform = torch.from_numpy(noise(4_410, 6).T.copy()).reshape(2, 3, 4_410)
    resampled = resample(waveform, 44_100, 16_000)
    assert resampled.shape == (2, 3, 1_600)
    assert torch.equal(resampled[1, 2], resample(waveform[1, 2], 44_100, 16_000))
    assert torch.equal(resample(waveform, 16_000, 16_000), waveform)


@given(st.integers(0, 5_000), st.sampled_from([8_000, 11_025, 44_100, 48_000, 96_000]))
@settings(max_examples=50, deadline=None)
def test_resampled_length(samples: int, rate: int) -> None:
    assert resample(torch.zeros(samples), rate, 16_000).numel() == int(samples * 16_000 / rate + 0.5)


# --- Folders ---


def test_find_audio(tmp_path: Path) -> None:
    names = ["b/2.FLAC", "b/10.wav", "a.opus", "c/d/e.mp3", "._a.wav", ".cache/f.wav", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "c/loop").symlink_to(tmp_path, target_is_directory=True)
    expected = ["a.opus", "b/10.wav", "b/2.FLAC", "c/d/e.mp3"]
    assert [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)] == expected
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/linked").symlink_to(tmp_path / "c/d", target_is_directory=True)
    assert find_audio(tmp_path / "elsewhere") == [tmp_path / "elsewhere/linked/e.mp3"]


def test_find_audio_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AudioError, match=r"no audio files.*\.flac.*\.wav"):
        find_audio(tmp_path)
    with pytest.raises(AudioError, match="no such folder"):
        find_audio(tmp_path / "none")
    with pytest.raises(AudioError, match="not a folder"):
        find_audio(tmp_path / "notes.txt")
