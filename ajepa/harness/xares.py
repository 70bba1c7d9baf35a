"""The cure of X-ARES 0.1.3: audio in tars, which it decodes by way of torchaudio.

torchaudio 2.9 and later decode with TorchCodec and the system's FFmpeg. If one of them is missing, X-ARES
treats every clip as damaged, skips it with a warning, and ends with `Empty dataloader`. Here soundfile
decodes WAV, FLAC, Ogg (Vorbis and Opus) and MP3.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import soundfile
import torch
from torch import Tensor

from .overlay import with_names

SUFFIXES = ("flac", "mp3", "ogg", "wav")


def decode(key: str, data: bytes) -> tuple[Tensor, int] | None:
    """As `webdataset.torch_audio`: samples [channels, S] within -1..1 and the rate; None for other files."""
    if key.rpartition(".")[2].lower() not in SUFFIXES:
        return None
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(samples).t().contiguous(), rate


@contextmanager
def audio_by_soundfile(module: Any) -> Iterator[None]:
    """Give a module of X-ARES a webdataset whose `torch_audio` needs no TorchCodec."""
    yield
    module.wds = with_names(module.wds, torch_audio=decode)
