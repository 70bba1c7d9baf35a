"""Waveforms as MP3, which every browser plays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ajepa.files import write


def mp3_bytes(waveform_S: np.ndarray, rate: int) -> bytes:
    """An MP3 of a mono waveform within ±1; louder samples are clipped, NaN is silence.

    Args:
        rate: one that MP3 has, such as 16000, 22050, 32000, 44100 or 48000 Hz.
    """
    import soundfile

    # LAME ends the whole process at a NaN.
    samples_S = np.nan_to_num(waveform_S).clip(-1, 1)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_S, rate, format="MP3", compression_level=0.7)
    return buffer.getvalue()


def write_mp3(path: Path, waveform_S: np.ndarray, rate: int) -> None:
    """Write such a file; it appears whole or not at all."""
    write(path, mp3_bytes(waveform_S, rate))
