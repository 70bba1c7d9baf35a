"""Sound and spectrograms of clips as data URIs."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from ajepa.audio import AudioSource, load
from ajepa.features import LogMel, LogMelConfig

RATE = 16_000
LONGEST = 10.0  # seconds of a clip that can be heard
PICTURE = (200, 64)  # frames and bands at most
COLOURS = 64  # half the bytes of 256, and the eye sees no difference


def heard(source: AudioSource, start: float = 0.0, end: float | None = None) -> Tensor:
    """The samples of a clip, at most LONGEST seconds at RATE, [S].

    Raises AudioError if it cannot be decoded.
    """
    seconds = LONGEST if end is None else min(LONGEST, max(end - start, 1 / RATE))
    return load(source, start=start, seconds=seconds, sample_rate=RATE)


def sound(waveform_S: Tensor) -> str:
    """An MP3, which every browser plays."""
    buffer = io.BytesIO()
    samples = waveform_S.clamp(-1, 1).numpy()
    soundfile.write(buffer, samples, RATE, format="MP3", compression_level=0.7)
    return _uri("audio/mpeg", buffer)


@torch.no_grad()
def picture(waveform_S: Tensor) -> str:
    """A log-mel spectrogram as a PNG, time to the right and low bands at the bottom."""
    from matplotlib import colormaps
    from PIL import Image

    values_LC = _smaller(_front_end()(waveform_S[None])[0].numpy())
    low, high = np.quantile(values_LC, [0.02, 0.995])
    level_CL = ((values_LC.T[::-1] - low) / max(high - low, 1e-6)).clip(0, 1)
    image: Any = Image.fromarray((level_CL * (COLOURS - 1)).astype(np.uint8), mode="P")
    palette = (colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3] * 255).astype(np.uint8)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _uri("image/png", buffer)


@cache
def _front_end() -> LogMel:
    return LogMel(LogMelConfig(sample_rate=RATE))


def _smaller(values_LC: np.ndarray) -> np.ndarray:
    """Neighbours averaged until the picture has at most PICTURE's size."""
    frames, bands = values_LC.shape
    over, across = -(-frames // PICTURE[0]), -(-bands // PICTURE[1])
    whole_LC = values_LC[: frames // over * over, : bands // across * across]
    return whole_LC.reshape(frames // over, over, bands // across, across).mean((1, 3))


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
