"""Decoding, resampling and cropping, against one-shot references and deliberately damaged files."""

from __future__ import annotations

import multiprocessing
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ajepa import audio
from ajepa.audio import AudioError, cyclic, find_audio, info, jitter_level, load, random_crop, resample

FORMATS: dict[str, dict[str, Any]] = {
    "a.wav": {"subtype": "PCM_16"},
    "float.wav": {"subtype": "FLOAT"},
    "a.flac": {},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "cbr.mp3": {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5},
    "vbr.mp3": {"format": "MP3", "bitrate_mode": "VARIABLE"},
    "a.aiff": {"format": "AIFF"},
    "a.au": {"format": "AU"},
    "a.caf": {"format": "CAF"},
    "a.w64": {"format": "W64"},
    "rf64.wav": {"format": "RF64"},
}
TRUNCATION_IS_KNOWN = sorted(set(FORMATS) - {"a.caf"})


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Band-limited noise over a tone: every codec keeps it, no two stretches are alike."""
    rng = np.random.default_rng(seed)
    smooth = np.convolve(rng.standard_normal(samples + 15), np.ones(16) / 16, mode="valid")
    tones = [0.2 * np.sin(0.05 * (channel + 1) * np.arange(samples)) for channel in range(channels)]
    return np.stack([0.3 * smooth + tone for tone in tones], axis=1).astype(np.float32)


def write(path: Path, rate: int = 44_100, seconds: float = 3.0, channels: int = 2, seed: int = 0) -> Path:
    rate = 48_000 if path.suffix == ".opus" else rate
    soundfile.write(path, noise(round(rate * seconds), channels, seed), rate, **FORMATS[path.name])
    return path


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    first = round(start * 16_000)
    expected = whole_S[first : first + max(1, round(seconds * 16_000))]
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


# --- Headers that do not know the length ---


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg into a pipe
        (0x7FFFF024, 0x7FFFF000),  # SoX into a pipe
        (0x80000024, 0x80000000),  # arecord
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0, None),
        (0, 0),  # a recorder that never closed its file
    ],
)
@pytest.mark.parametrize("leading_zeros", [0, 100])
def test_streamed_wav_loads_to_its_end(
    tmp_path: Path, riff: int, data: int | None, leading_zeros: int
) -> None:
    path = tmp_path / "a.wav"
    samples = noise(40_000)
    samples[:leading_zeros] = 0
    soundfile.write(path, samples, 16_000)
    expected = load(path)
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", riff)
    if data is not None:
        at = content.find(b"data") + 4
        content[at : at + 4] = struct.pack("<I", data)
    path.write_bytes(content)
    assert torch.equal(load(path), expected)
    assert torch.equal(load(path, start=1.0, seconds=0.5), expected[16_000:24_000])
    assert info(path).samples == 40_000
    assert torch.equal(random_crop(path, 1.0, generator()), random_crop(expected, 1.0, generator()))


def test_streamed_flac_loads_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", seconds=4.1)
    expected = load(path)
    content = bytearray(path.read_bytes())
    content[8 + 13] &= 0xF0  # the 36 bits of STREAMINFO's total samples, 0 for unknown
    content[8 + 14 : 8 + 18] = bytes(4)
    path.write_bytes(content)
    assert torch.equal(load(path), expected)
    assert info(path).samples == round(4.1 * 44_100)


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("id3_bytes", [None, 5000])
def test_untagged_variable_rate_mp3_loads_to_its_end(
    tmp_path: Path, loud_first: bool, id3_bytes: int | None
) -> None:
    """Extrapolating from the first frame's bit rate is wrong by a factor of 2 to 4 here."""
    samples = noise(4 * 44_100, 2)
    quiet = slice(2 * 44_100, None) if loud_first else slice(0, 2 * 44_100)
    samples[quiet] = 0
    path = tmp_path / "a.mp3"
    soundfile.write(path, samples, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)
    content = path.read_bytes()
    second_frame = content.find(content[:2], 100)
    id3 = b""
    if id3_bytes is not None:
        id3 = b"ID3\x04\0\0" + bytes([0, 0, id3_bytes >> 7, id3_bytes & 0x7F]) + bytes(id3_bytes)
    path.write_bytes(id3 + content[second_frame:])
    waveform_S = load(path)
    assert waveform_S.numel() / 16_000 == pytest.approx(4.0, abs=0.1)  # the tag held the encoder's padding
    assert info(path).seconds == pytest.approx(4.0, abs=0.1)
    halves = [half.square().mean() for half in waveform_S.tensor_split(2)]
    assert (halves[0] > 10 * halves[1]) == loud_first
    assert torch.equal(random_crop(path, 1.0, generator()), random_crop(waveform_S, 1.0, generator()))


# --- Errors ---


def failure(path: Path, start: float = 0.0) -> str:
    with pytest.raises(AudioError) as caught:
        load(path, start=start)
    assert str(caught.value).startswith(f"{path}: ") and caught.value.path == path
    return str(caught.value)


@pytest.mark.parametrize("name", TRUNCATION_IS_KNOWN)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_a_file_is_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = failure(path)
    assert "truncated" in message and "--skip-broken" in message


def test_half_a_caf_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.caf")
    path.write_bytes(path.read_bytes()[:10_000])
    assert "not readable" in failure(path)


@pytest.mark.parametrize("name", ["a.ogg", "a.opus"])
def test_ogg_capture_that_ends_between_pages_loads(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, seconds=6)
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"OggS")])
    assert 1 < load(path).numel() / 16_000 < 6


def test_crop_of_truncated_flac_fails_where_it_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", seconds=8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="truncated"):
        load(path, start=6.0, seconds=1.0)


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(1000), bytes(200_000)])
@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.opus", "cbr.mp3", "vbr.mp3"])
def test_bytes_behind_the_audio_are_harmless(tmp_path: Path, name: str, tail: bytes) -> None:
    path = write(tmp_path / name)
    expected = load(path)
    path.write_bytes(path.read_bytes() + tail)
    assert torch.equal(load(path), expected)


def test_unusable_files(tmp_path: Path) -> None:
    assert "no such file" in failure(tmp_path / "none.wav")
    assert "folder" in failure(tmp_path)
    (tmp_path / "zero.wav").touch()
    assert "0 bytes" in failure(tmp_path / "zero.wav")
    (tmp_path / "text.wav").write_text("not audio " * 100)
    assert "Format not recognised" in failure(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    assert "0 samples" in failure(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match="0 samples"):
        info(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match="0 samples"):
        random_crop(tmp_path / "empty.wav", 1.0, generator())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples(tmp_path: Path, bad: float) -> None:
    samples = noise(32_000)
    samples[20_000] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert "NaN or infinite" in failure(tmp_path / "a.wav")
    assert load(tmp_path / "a.wav", seconds=1.0).isfinite().all()


def test_start_beyond_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", seconds=2)
    assert "ends at 2 s" in failure(path, start=2.0)
    assert load(path, start=1.5, seconds=10.0).numel() == 8_000
    with pytest.raises(ValueError, match="start must be"):
        load(path, start=-1.0)


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(AudioError("a.wav: silent", path=Path("a.wav"))))
    assert type(error) is AudioError and str(error) == "a.wav: silent" and error.path == Path("a.wav")


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


# --- Crops ---


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
    assert 2.0 <= sum(decoded) / 44_100 < 2.2


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
        with pytest.raises(AudioError, match=r"silent.*--skip-broken") as caught:
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
