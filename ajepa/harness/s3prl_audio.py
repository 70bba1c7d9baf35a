"""What s3prl needs of torchaudio before 2.9: reading files, and sox effects.

Files are read and written with soundfile. The sox effects of SUPERB's keyword spotting and of a few other
tasks are here, in torch and soxr; any other effect is refused by name.

Axes: A audio channels, S samples.
"""

import math
from pathlib import Path
from typing import NamedTuple

import soundfile
import soxr
import torch
from torch import Tensor

from ajepa.files import naming

from .errors import HarnessError


class AudioMetaData(NamedTuple):
    """What `torchaudio.info` returned."""

    sample_rate: int
    num_frames: int
    num_channels: int
    bits_per_sample: int
    encoding: str


def set_audio_backend(backend: str | None) -> None:
    """Ignored: files are always read with soundfile."""


def load(
    filepath: str | Path,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    **_format: object,
) -> tuple[Tensor, int]:
    """Samples [A, S] within -1..1 and the sample rate, as `torchaudio.load` returned them."""
    if not normalize:
        raise HarnessError("torchaudio.load(normalize=False) has no stand-in; leave out normalize")
    samples_SA, rate = soundfile.read(
        filepath, frames=num_frames, start=frame_offset, dtype="float32", always_2d=True
    )
    waveform_SA = torch.from_numpy(samples_SA)
    return (waveform_SA.t().contiguous() if channels_first else waveform_SA), rate


def info(filepath: str | Path, **_format: object) -> AudioMetaData:
    """As `torchaudio.info`."""
    found = soundfile.info(filepath)
    bits = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
    encoding = "PCM_S" if found.subtype.startswith("PCM") else found.subtype
    return AudioMetaData(found.samplerate, found.frames, found.channels, bits.get(found.subtype, 0), encoding)


def save(filepath: str | Path, src: Tensor, sample_rate: int, **_format: object) -> None:
    """Write samples [A, S], as `torchaudio.save` did: floating-point WAVs from floating-point samples."""
    single = src.dtype == torch.float32 and Path(filepath).suffix.lower() == ".wav"
    with naming(Path(filepath)):
        samples_SA = src.detach().cpu().t().numpy()
        soundfile.write(filepath, samples_SA, sample_rate, subtype="FLOAT" if single else None)


def apply_effects_file(path: str | Path, effects: list[list[str]], **_options: object) -> tuple[Tensor, int]:
    """As `torchaudio.sox_effects.apply_effects_file`, for channels, rate, gain and norm."""
    return apply_effects_tensor(*load(path), effects)


def apply_effects_tensor(
    tensor: Tensor, sample_rate: int, effects: list[list[str]], channels_first: bool = True
) -> tuple[Tensor, int]:
    """As `torchaudio.sox_effects.apply_effects_tensor`; `tensor` is [A, S].

    Raises:
        HarnessError: an effect has no stand-in; the message names it.
    """
    waveform_AS = tensor if channels_first else tensor.t()
    for name, *values in effects:
        if name == "channels" and values == ["1"]:
            waveform_AS = waveform_AS.mean(0, keepdim=True)
        elif name == "rate" and len(values) == 1:
            if int(values[0]) != sample_rate:  # soxr is the resampler of sox
                resampled_SA = soxr.resample(waveform_AS.t().numpy(), sample_rate, int(values[0]))
                waveform_AS = torch.from_numpy(resampled_SA).t()
            sample_rate = int(values[0])
        elif name == "gain" and len(values) == 1:
            waveform_AS = waveform_AS * math.pow(10.0, float(values[0]) / 20)
        elif name == "norm" and not values:
            waveform_AS = waveform_AS / waveform_AS.abs().max().clamp_min(1e-7)
        else:
            raise HarnessError(
                f"the sox effect {' '.join([name, *values])!r} has no stand-in; for this task install "
                "torchaudio<2.9 with its torch, or apply the effect to the files first"
            )
    waveform_AS = waveform_AS.clamp(-1, 1)  # as sox does at the end of its chain
    return (waveform_AS if channels_first else waveform_AS.t()), sample_rate
