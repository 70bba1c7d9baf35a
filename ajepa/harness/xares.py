"""The cure of X-ARES 0.1.3: audio in tars, which it decodes by way of torchaudio.

torchaudio 2.9 and later decode with TorchCodec and the system's FFmpeg. If one of them is missing, X-ARES
treats every clip as damaged, skips it with a warning, and ends with `Empty dataloader`. Here soundfile
decodes WAV, FLAC, Ogg (Vorbis and Opus) and MP3.

webdataset unpickles members of a tar by their suffix. Tars come from the web: here pickles are refused.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import soundfile
import torch
from torch import Tensor

from .errors import HarnessError
from .overlay import with_names

PICKLES = ("pkl", "pickle", "pyd")
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


@contextmanager
def no_pickled_members(module: Any) -> Iterator[None]:
    """Let the webdataset of a module of X-ARES read no pickles; torch's files by their tensors alone."""
    yield
    module.wds = with_names(module.wds, decode=_decode)


def _decode(*handlers: Any, **options: Any) -> Any:
    import webdataset

    return webdataset.decode(*handlers, post=[_plain], **options)


def _plain(key: str, data: bytes) -> Any:
    """As webdataset's own decoders by suffix, without code."""
    from webdataset.autodecode import basichandlers

    suffix = key.rpartition(".")[2].lower()
    if suffix == "pth":
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    if suffix in PICKLES:
        raise HarnessError(f"{key}: a pickle, which could run code; leave it out of the tar")
    return basichandlers(key, data)
