"""One clip as bytes for a shard."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile

from ajepa.audio import SAMPLE_RATE, AudioError, info, load
from ajepa.audio.errors import RATES

from .clips import Clip, DataError

# libsndfile's names of container and coding.
FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
COPY = "copy"
_FLAC_RATE = 655_350  # the highest of libsndfile's FLAC
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_BLOCK = 65_536  # samples encoded at a time


@dataclass(frozen=True)
class Packing:
    """How shards are written.

    Args:
        format: wav and flac (16 bits: exact if the source is mono at this rate with at most 16 bits), opus,
            or copy for the unchanged bytes.
        sample_rate: of the mono clips in the shards; ignored for copy.
        shard_megabytes: a shard is closed before it grows beyond this. A single clip may be larger.
    """

    format: str = "flac"
    sample_rate: int = SAMPLE_RATE
    shard_megabytes: int = 256

    def __post_init__(self) -> None:
        if self.format not in (*FORMATS, COPY):
            raise DataError(f"format {self.format!r}: must be one of {', '.join((*FORMATS, COPY))}")
        if self.format == "opus" and self.sample_rate not in _OPUS_RATES:
            rates = ", ".join(map(str, _OPUS_RATES))
            raise DataError(f"Opus has no sample rate {self.sample_rate}; choose one of {rates}")
        low, high = RATES[0], _FLAC_RATE if self.format == "flac" else RATES[1]
        if not low <= self.sample_rate <= high:
            raise DataError(f"--sample-rate is {self.sample_rate} Hz; give {low:,} to {high:,}")
        if self.shard_megabytes < 1:
            raise DataError(f"--shard-megabytes is {self.shard_megabytes}; give at least 1")


@dataclass(frozen=True)
class Encoded:
    """One clip ready for a tar, or why it is not; `about` is JSON."""

    suffix: str = ""
    audio: bytes = b""
    about: bytes = b""
    seconds: float = 0.0
    error: AudioError | None = None


def encode_clip(clip: Clip, packing: Packing) -> Encoded:
    """Decode, mix, resample and encode a clip, or copy its bytes."""
    try:
        if packing.format == COPY:
            suffix, audio, seconds = _copy(clip)
        else:
            suffix = packing.format
            waveform_S = load(
                clip.audio, start=clip.start, seconds=clip.seconds, sample_rate=packing.sample_rate
            )
            # Decoders divide by 2**15; libsndfile's own conversion multiplies by 2**15 - 1.
            pcm_S = (waveform_S * 32_768).round().clamp(-32_768, 32_767).short().numpy()
            seconds = len(pcm_S) / packing.sample_rate
            buffer = io.BytesIO()
            container, coding = FORMATS[packing.format]
            with soundfile.SoundFile(buffer, "w", packing.sample_rate, 1, coding, format=container) as file:
                for first in range(0, len(pcm_S), _BLOCK):
                    file.write(pcm_S[first : first + _BLOCK])
            audio = buffer.getvalue()
    except AudioError as error:
        where = f" ({clip.origin})" if clip.origin else ""
        return Encoded(error=AudioError(f"{error}{where}", path=error.path))
    about: dict[str, Any] = {"path": clip.name, "duration": seconds}
    about |= {"start": clip.start} if clip.start else {}
    about |= {"labels": clip.labels} if clip.labels is not None else {}
    return Encoded(suffix, audio, json.dumps(about, ensure_ascii=False).encode(), seconds)


def _copy(clip: Clip) -> tuple[str, bytes, float]:
    seconds = info(clip.audio).seconds
    is_whole = not clip.start and (clip.seconds is None or abs(clip.seconds - seconds) < 1e-3)
    if not is_whole or not isinstance(clip.audio, str):
        raise DataError(
            f"{clip.audio}: {clip.origin or 'it'} is a part of a file, but `copy` keeps files whole; "
            "choose wav, flac or opus"
        )
    path = Path(clip.audio)
    return PurePosixPath(clip.name).suffix[1:].lower(), path.read_bytes(), seconds
