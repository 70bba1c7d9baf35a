"""Files whose headers do not know the length, and deliberately damaged ones."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.audio import AudioBytes, AudioError, info, load, random_crop
from ajepa.data.clips import DataError
from tests.audio_files import FORMATS, generator, noise, write

TRUNCATION_IS_KNOWN = sorted(set(FORMATS) - {"a.caf"})

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
    crop_S, expected_S = (random_crop(source, 1.0, generator()) for source in (path, waveform_S))
    torch.testing.assert_close(crop_S, expected_S, rtol=0, atol=1e-5)


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
    assert "truncated" in message and message.endswith("remove it")


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
    found = load(path)
    # FFmpeg believes an MP3's tag, and so the padding at its end, only if it fits the file's size.
    padded = len(tail) > 100_000 and path.suffix == ".mp3"
    assert 0 <= len(found) - len(expected) <= (1152 if padded else 0)
    settled = len(expected) - (320 if padded else 0)
    torch.testing.assert_close(found[:settled], expected[:settled], rtol=0, atol=1e-6 if padded else 0)


def test_unusable_files(tmp_path: Path) -> None:
    assert "no such file" in failure(tmp_path / "none.wav")
    assert "folder" in failure(tmp_path)
    (tmp_path / "zero.wav").touch()
    assert "0 bytes" in failure(tmp_path / "zero.wav")
    (tmp_path / "text.wav").write_text("not audio " * 100)
    assert "not readable as audio" in failure(tmp_path / "text.wav")
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


# --- Sources that fail while they are read ---


def encoded(kind: str) -> bytes:
    """160 s, more than is read at once; "streamed" is WAV of undeclared length, read through a pipe."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(160 * 16_000), 16_000, format="WAV" if kind == "streamed" else kind)
    content = bytearray(buffer.getvalue())
    if kind == "streamed":
        at = content.find(b"data") + 4
        content[4:8] = content[at : at + 4] = bytes(4)
    return bytes(content)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "streamed"])
@pytest.mark.parametrize("readable", [0, 2_000_000])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_source_is_no_end(kind: str, readable: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A shard that is gone is not audio that is damaged or short."""
    content = encoded(kind)

    def reader(failure: Exception) -> AudioBytes:
        def read(offset: int, count: int) -> bytes:
            if offset + count > readable:
                raise failure
            return content[offset : offset + count]

        return AudioBytes("shard.tar/clip", len(content), read)

    with pytest.raises(DataError, match="the shard is gone"):
        load(reader(DataError("the shard is gone")))
    with pytest.raises(AudioError, match=r"shard\.tar/clip: cannot be read \(.*Input/output error"):
        load(reader(OSError(5, "Input/output error")))
    assert capfd.readouterr().err == ""
