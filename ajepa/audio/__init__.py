"""Audio files: their length, decoding, resampling, and random crops."""

from .file import AudioError
from .reading import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    AudioInfo,
    cyclic,
    find_audio,
    info,
    load,
    random_crop,
    resample,
)
from .source import AudioBytes, AudioSource

__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLE_RATE",
    "AudioBytes",
    "AudioError",
    "AudioInfo",
    "AudioSource",
    "cyclic",
    "find_audio",
    "info",
    "load",
    "random_crop",
    "resample",
]
