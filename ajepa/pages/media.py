"""Sound and pictures of clips as data URIs, within a limit of size."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch

from ajepa.audio import AudioError, AudioSource, load
from ajepa.audio.mp3 import mp3_bytes
from ajepa.features import LogMel, LogMelConfig

RATE = 16_000
LONGEST = 10.0  # seconds of a clip that can be heard
PICTURE = (256, 64)  # frames and bands at most
COLOURS = 64  # half the bytes of 256, and the eye sees no difference


class Media:
    """Sound and spectrograms of clips for a page. A clip that is added twice is kept once.

    Attributes:
        limit: bytes that may be used; a page may raise it on the way.
        used: bytes that are used.
        clips: what was added, "audio" and "image" of each.
        left_out: clips for which there was no room.
        lost: clips whose files are gone or cannot be decoded.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = self.left_out = self.lost = 0
        self.clips: list[dict[str, str]] = []
        self._places: dict[tuple[str, float, float | None], int | None] = {}
        self._front_end = LogMel(LogMelConfig(sample_rate=RATE))

    def add(self, source: AudioSource, start: float = 0.0, seconds: float | None = None) -> int | None:
        """The clip's number on the page; None if there is no room for it, or it cannot be decoded."""
        key = (str(source), start, seconds)
        if key not in self._places:
            self._places[key] = self._made(source, start, seconds)
        return self._places[key]

    @torch.no_grad()
    def _made(self, source: AudioSource, start: float, seconds: float | None) -> int | None:
        if self.used >= self.limit:
            self.left_out += 1
            return None
        try:
            length = min(LONGEST, seconds or LONGEST)
            waveform_S = load(source, start=start, seconds=length, sample_rate=RATE)
        except (AudioError, OSError):
            self.lost += 1
            return None
        spectrogram_LC = self._front_end(waveform_S[None])[0].numpy()
        clip = {"audio": sound(waveform_S.numpy(), RATE), "image": picture(_smaller(spectrogram_LC))}
        size = sum(map(len, clip.values()))
        if self.used + size > self.limit:
            self.limit = self.used  # clips come in the order of their worth: none that is smaller goes first
            self.left_out += 1
            return None
        self.used += size
        self.clips.append(clip)
        return len(self.clips) - 1


def sound(waveform_S: np.ndarray, rate: int) -> str:
    """An MP3."""
    return _uri("audio/mpeg", mp3_bytes(waveform_S, rate))


def picture(values_LC: np.ndarray) -> str:
    """A spectrogram as a PNG, time to the right and low bands at the bottom."""
    from matplotlib import colormaps
    from PIL import Image

    low, high = np.quantile(values_LC, [0.02, 0.995])
    level_CL = ((values_LC.T[::-1] - low) / max(high - low, 1e-6)).clip(0, 1)
    image = Image.fromarray((level_CL * (COLOURS - 1)).astype(np.uint8), mode="P")
    palette = (colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3] * 255).astype(np.uint8)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def file_uri(path: Path) -> str:
    """A PNG or MP3 file."""
    kind = {".png": "image/png", ".mp3": "audio/mpeg"}[path.suffix]
    return _uri(kind, path.read_bytes())


def packed(values: np.ndarray) -> str:
    """Bytes in base64, for arrays of numbers from 0 to 255."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.uint8).tobytes()).decode()


def _smaller(values_LC: np.ndarray) -> np.ndarray:
    """Neighbours averaged until the picture has at most PICTURE's size."""
    frames, bands = values_LC.shape
    over, across = -(-frames // PICTURE[0]), -(-bands // PICTURE[1])
    whole_LC = values_LC[: frames // over * over, : bands // across * across]
    return whole_LC.reshape(frames // over, over, bands // across, across).mean((1, 3))


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
