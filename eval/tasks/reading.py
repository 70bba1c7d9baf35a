"""The audio of clips."""

from __future__ import annotations

from torch import Tensor

from ajepa import audio
from ajepa.audio import AudioError
from ajepa.data.labelled import BEYOND_SECONDS

from .task import Clip


def read_clip(clip: Clip, sample_rate: int) -> Tensor:
    """A clip, mono [S] float32.

    Raises AudioError for a file that cannot be decoded, and for one that ends before the clip does.
    """
    waveform_S = audio.load(clip.source, start=clip.start, seconds=clip.seconds, sample_rate=sample_rate)
    found = len(waveform_S) / sample_rate
    if clip.seconds is not None and found < clip.seconds - BEYOND_SECONDS:
        raise AudioError(
            f"{clip.name}: ends at {clip.start + found:.2f} s, but its labels say that a clip of it ends at "
            f"{clip.start + clip.seconds:.2f} s; correct them",
            path=clip.name,
        )
    return waveform_S


def own_rate(clip: Clip) -> int:
    """The sample rate of a clip's file."""
    return audio.info(clip.source).sample_rate


def clip_seconds(clip: Clip) -> float:
    """A clip's length, from the file's header where the clip goes to its end."""
    return clip.seconds or audio.info(clip.source).seconds - clip.start
