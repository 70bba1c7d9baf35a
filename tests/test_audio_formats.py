"""Every format: read whole as other decoders do, in parts as in whole, and joined, cut or hostile."""

from __future__ import annotations

import io
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch

from ajepa.audio import AudioBytes, AudioError, AudioWarning, info, isolate, load, random_crop, stream
from ajepa.audio import isolated as isolation
from tests.audio_files import generator, noise, write

RATE = 16_000


def encode(path: Path, codec: str, rate: int, channels: int = 1, seconds: float = 4.0) -> Path:
    """Noise over a tone by one of FFmpeg's encoders."""
    layout = "mono" if channels == 1 else "stereo"
    samples_SX = noise(round(rate * seconds), channels)
    container = "adts" if path.suffix == ".aac" else None
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec} to write a file with")
    with av.open(str(path), "w", format=container) as file:
        track: Any = file.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(track.codec_context.format.name, layout, rate)
        for first in range(0, len(samples_SX), 1024):
            values = np.ascontiguousarray(samples_SX[first : first + 1024].T)
            frame = av.AudioFrame.from_ndarray(values, "fltp", layout)
            frame.sample_rate, frame.pts = rate, first
            for part in resampler.resample(frame):
                file.mux(track.encode(part))
        file.mux(track.encode(None))
    return path


FFMPEG = {
    "a.m4a": ("aac", 44_100, 2),
    "lossless.m4a": ("alac", 44_100, 2),
    "a.mp4": ("aac", 16_000, 1),
    "a.aac": ("aac", 22_050, 2),
    "a.webm": ("libopus", 48_000, 2),
    "a.mka": ("flac", 44_100, 1),
    "a.mkv": ("aac", 32_000, 1),
    "a.amr": ("libopencore_amrnb", 8_000, 1),
    "a.3gp": ("libopencore_amrnb", 8_000, 1),
    "a.mp2": ("mp2", 44_100, 2),
    "mp3.wav": ("mp3", 44_100, 2),
}


def first_and_rest(path: Path) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A file's waveform, and pairs of its parts with what they have to be."""
    whole_S = load(path)
    pairs = []
    for start in (0.0, 0.31, 1.9, 2.75):
        first = round(start * RATE)
        pairs.append((load(path, start=start, seconds=0.8), whole_S[first : first + round(0.8 * RATE)]))
    return whole_S, pairs


@pytest.mark.parametrize("name", FFMPEG)
def test_a_format_of_ffmpeg(tmp_path: Path, name: str) -> None:
    codec, rate, channels = FFMPEG[name]
    path = encode(tmp_path / name, codec, rate, channels)
    whole_S, pairs = first_and_rest(path)
    assert info(path).seconds == pytest.approx(4.0, abs=0.1) and info(path).sample_rate == rate
    assert len(whole_S) == round(info(path).seconds * RATE) or rate != RATE
    for part_S, expected_S in pairs:
        torch.testing.assert_close(part_S, expected_S, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.cat(list(stream(path))), whole_S, rtol=0, atol=0)
    crop_S, expected_S = (random_crop(source, 1.0, generator()) for source in (path, whole_S))
    torch.testing.assert_close(crop_S, expected_S, rtol=0, atol=1e-5)
    bytes_ = path.read_bytes()
    within = AudioBytes("shard.tar/clip", len(bytes_), lambda offset, size: bytes_[offset : offset + size])
    assert torch.equal(load(within), whole_S)
    if codec in ("alac", "flac"):
        with av.open(str(path)) as file:
            frames = [np.atleast_2d(frame.to_ndarray()) for frame in file.decode(audio=0)]
        samples = np.concatenate(frames, axis=1).mean(axis=0) / 2.0 ** (8 * frames[0].dtype.itemsize - 1)
        np.testing.assert_allclose(load(path, sample_rate=rate).numpy(), samples, atol=1e-6)


@pytest.mark.parametrize("name", ["a.m4a", "lossless.m4a", "a.mp4", "a.webm", "a.mka", "a.mkv", "a.3gp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_format_of_ffmpeg_is_an_error(tmp_path: Path, name: str, share: float) -> None:
    path = encode(tmp_path / name, *FFMPEG[name])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(AudioError, match=r"truncated|not readable|no audio") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# --- MP3 ---


def speech(rate: int, seconds: int = 8) -> np.ndarray:
    """Harmonics with a moving pitch, pauses and bursts of noise: the bit reservoir fills and empties."""
    time_S = np.arange(seconds * rate) / rate
    phase_S = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.4 * time_S)) / rate
    voice_S = np.sum([np.sin(k * phase_S) / k for k in range(1, 25) if k * 200 < rate / 2], axis=0)
    gate_S = (np.sin(2 * np.pi * 1.3 * time_S) > -0.4) * (
        0.3 + 0.7 * np.abs(np.sin(2 * np.pi * 3.1 * time_S))
    )
    bursts_S = np.random.default_rng(0).standard_normal(len(time_S)) * (
        np.sin(2 * np.pi * 0.9 * time_S) > 0.8
    )
    return (0.12 * voice_S * gate_S + 0.05 * bursts_S).astype(np.float32)


@pytest.mark.parametrize("rate", [44_100, 22_050, 16_000])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("level", [0.3, 0.9])
def test_mp3_is_decoded_as_in_one_go(tmp_path: Path, rate: int, mode: str, level: float) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, speech(rate), rate, format="MP3", bitrate_mode=mode, compression_level=level)
    # mpg123 is right as long as it does not seek.
    expected_S = soundfile.read(path, dtype="float32")[0]
    whole_S = load(path, sample_rate=rate)
    np.testing.assert_allclose(whole_S.numpy(), expected_S, rtol=0, atol=2e-6)
    for first in range(1_000, len(whole_S) - 5_000, len(whole_S) // 13):
        part_S = load(path, start=first / rate, seconds=4_000 / rate, sample_rate=rate)
        assert torch.equal(part_S, whole_S[first : first + 4_000])


@pytest.fixture
def untagged(tmp_path: Path) -> bytes:
    """An MP3 without its first frame, which holds the tag."""
    path = tmp_path / "tagged.mp3"
    soundfile.write(path, speech(RATE, 3), RATE, format="MP3", bitrate_mode="CONSTANT")
    content = path.read_bytes()
    return content[content.find(content[:2], 100) :]


@pytest.mark.parametrize(
    "case", ["end cut", "begins in a frame", "junk before", "junk behind", "text behind"]
)
def test_an_mp3_without_a_tag_loads(tmp_path: Path, untagged: bytes, case: str) -> None:
    changed = {
        "end cut": untagged[:-1],
        "begins in a frame": untagged[100:],
        "junk before": bytes(512) + untagged,
        "junk behind": untagged + bytes(2000),
        "text behind": untagged + b"hello there " * 300,
    }[case]
    whole, path = tmp_path / "whole.mp3", tmp_path / "a.mp3"
    whole.write_bytes(untagged)
    path.write_bytes(changed)
    assert 0 <= len(load(whole)) - len(load(path)) <= 2 * 1152
    assert info(path).samples == len(load(path))


def test_frames_that_cannot_be_decoded_are_said(tmp_path: Path, untagged: bytes) -> None:
    changed, path = bytearray(untagged), tmp_path / "a.mp3"
    starts = [place for place in range(len(changed)) if changed.startswith(changed[:2], place)]
    for start in starts[4:-4:8]:
        changed[start + 4 : start + 21] = b"\xfe" * 17  # what says how the frame is coded
    path.write_bytes(changed)
    with pytest.warns(AudioWarning, match=r"a\.mp3: \d\.\d+ s of it cannot be decoded and are silence"):
        load(path)


def test_joined_files_are_read_to_the_end(tmp_path: Path, untagged: bytes) -> None:
    (tmp_path / "j.mp3").write_bytes(untagged * 3)
    assert info(tmp_path / "j.mp3").seconds == pytest.approx(9.0, abs=0.4)
    tagged = (tmp_path / "tagged.mp3").read_bytes()
    (tmp_path / "t.mp3").write_bytes(tagged * 3)
    whole_S, pairs = first_and_rest(tmp_path / "t.mp3")
    assert len(whole_S) / RATE == pytest.approx(9.0, abs=0.4)
    assert all(torch.equal(part_S, expected_S) for part_S, expected_S in pairs)
    for name in ("a.ogg", "a.opus"):
        path = write(tmp_path / name, seconds=2)
        path.write_bytes(path.read_bytes() * 3)
        assert load(path).numel() / RATE == pytest.approx(6.0, abs=0.1)
        assert load(path, start=5.0).numel() / RATE == pytest.approx(1.0, abs=0.1)


# --- Codings of libsndfile ---


@pytest.mark.parametrize(
    ("container", "coding"),
    [
        ("WAV", "GSM610"),
        ("AIFF", "GSM610"),
        ("WAV", "G721_32"),
        ("AU", "G723_24"),
        ("AU", "G723_40"),
        ("WAV", "NMS_ADPCM_32"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "MS_ADPCM"),
        ("WAV", "ULAW"),
        ("CAF", "ALAC_16"),
    ],
)
def test_parts_of_every_coding(tmp_path: Path, container: str, coding: str) -> None:
    path = tmp_path / f"a.{container.lower()}"
    soundfile.write(path, noise(4 * RATE), RATE, format=container, subtype=coding)
    whole_S, pairs = first_and_rest(path)
    assert whole_S.abs().max() > 0.1
    for part_S, expected_S in pairs:
        assert torch.equal(part_S, expected_S)


def test_parts_of_long_opus(tmp_path: Path) -> None:
    path = tmp_path / "a.opus"
    soundfile.write(path, speech(RATE, 40), RATE, format="OGG", subtype="OPUS")
    whole_S = load(path)
    for start in (31.0, 38.6):
        first = round(start * RATE)
        part_S = load(path, start=start, seconds=1.0)
        torch.testing.assert_close(part_S, whole_S[first : first + RATE], rtol=0, atol=1e-6)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    soundfile.write(tmp_path / "a.wav", noise(RATE), RATE)
    (tmp_path / "a.wav").rename(path)
    assert load(path).numel() == RATE


# --- Bounds ---


def pcm(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    path = pcm(tmp_path / "a.wav", noise(RATE), rate)
    for use in (info, load):
        with pytest.raises(AudioError, match="sample rate"):
            use(path)


@pytest.mark.parametrize("peak", [1.1e4, 3e37, -1e30])
def test_a_sample_beyond_every_scale(tmp_path: Path, peak: float) -> None:
    samples = noise(2 * RATE)
    samples[RATE + 1] = peak
    path = pcm(tmp_path / "a.wav", samples)
    with pytest.raises(AudioError, match=r"times full scale after \d\.\d\d s"):
        load(path)
    assert load(path, seconds=1.0).numel() == RATE
    samples[RATE + 1] = 9e3
    assert load(pcm(tmp_path / "a.wav", samples)).max() == 9e3


def absurd_flac(samples: int) -> bytes:
    """A FLAC of a second that declares another length."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(RATE), RATE, format="FLAC")
    content = bytearray(buffer.getvalue())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("samples", [2**36 - 1, 2**31])
def test_a_length_is_not_allocated_because_a_header_says_so(tmp_path: Path, samples: int) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(absurd_flac(samples))
    with pytest.raises(AudioError, match=r"hours|truncated"):
        load(path)
    with pytest.raises(AudioError, match=r"hours|truncated"):
        random_crop(path, 1.0, generator())
    mp3 = tmp_path / "a.mp3"
    soundfile.write(mp3, noise(RATE), RATE, format="MP3")
    content = bytearray(mp3.read_bytes())
    at = max(content.find(b"Info"), content.find(b"Xing"))
    content[at + 8 : at + 12] = b"\xff" * 4
    mp3.write_bytes(content)
    assert info(mp3).seconds == pytest.approx(1.0, abs=0.2)
    assert random_crop(mp3, 0.5, generator()).numel() == RATE // 2


def test_channels_that_cancel_each_other_are_named(tmp_path: Path) -> None:
    samples = noise(RATE)
    path = pcm(tmp_path / "a.wav", np.concatenate([samples, -samples], axis=1))
    with pytest.warns(AudioWarning, match=rf"{path}: its channels cancel"):
        load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(pcm(tmp_path / "b.wav", np.concatenate([samples, samples], axis=1)))
        load(pcm(tmp_path / "c.wav", np.zeros((RATE, 2), dtype=np.float32)))


# --- In a process that may die ---


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(isolation.VARIABLE, "")
    isolate()


def test_isolated_decoding_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / name) for name in ("a.wav", "a.ogg", "vbr.mp3")]
    expected = [(load(path), load(path, start=1.0, seconds=0.5), info(path)) for path in paths]
    monkeypatch.setenv(isolation.VARIABLE, "1")
    for path, (whole_S, part_S, about) in zip(paths, expected, strict=True):
        assert torch.equal(load(path), whole_S) and info(path) == about
        assert torch.equal(load(path, start=1.0, seconds=0.5), part_S)
        content = path.read_bytes()
        within = AudioBytes(
            "t.tar/a", len(content), lambda at, size, content=content: content[at : at + size]
        )
        assert torch.equal(load(within), whole_S)
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"text\.wav: not readable"):
        load(tmp_path / "text.wav")


@pytest.mark.usefixtures("isolated")
def test_a_crash_of_the_decoder_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", seconds=10)
    blocks = stream(path)
    next(blocks)
    os.kill(isolation._helper()._process.pid, signal.SIGSEGV)
    with pytest.raises(AudioError, match=r"a\.wav: its decoder crashed \(SIGSEGV\)"):
        list(blocks)
    assert load(path).numel() == 160_000  # by a new process
    blocks = stream(path)
    next(blocks)
    monkeypatch.setattr(isolation, "PATIENCE_SECONDS", 0.2)
    os.kill(isolation._helper()._process.pid, signal.SIGSTOP)
    with pytest.raises(AudioError, match=r"a\.wav: its decoder hangs"):
        list(blocks)


# --- Files found by mutation ---


def test_the_damaged_files_found_so_far(shared: Path) -> None:
    folder = shared / "cases" / "damaged"
    if not folder.is_dir():
        pytest.skip("shared/cases/damaged is not here")
    for path in sorted(folder.iterdir()):
        for use in (
            info,
            load,
            lambda path: load(path, start=0.5, seconds=0.5),
            lambda path: random_crop(path, 1.0, generator()),
        ):
            try:
                result = use(path)
            except AudioError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            else:
                assert not isinstance(result, torch.Tensor) or result.isfinite().all()
