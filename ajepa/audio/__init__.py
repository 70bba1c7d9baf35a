"""Audio files: their length, decoding, resampling, and random crops.

Names are imported on first use: the process that decodes for `isolate` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import AudioError, AudioWarning
from .isolated import isolate
from .source import AudioBytes, AudioSource

if TYPE_CHECKING:
    from .reading import (
        AUDIO_SUFFIXES,
        SAMPLE_RATE,
        AudioInfo,
        cyclic,
        find_audio,
        info,
        left_out,
        load,
        random_crop,
        resample,
        seconds_of,
        stream,
    )

__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLE_RATE",
    "AudioBytes",
    "AudioError",
    "AudioInfo",
    "AudioSource",
    "AudioWarning",
    "cyclic",
    "find_audio",
    "info",
    "isolate",
    "left_out",
    "load",
    "random_crop",
    "resample",
    "seconds_of",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".reading", __name__), name)
