"""Clips as the pieces that are embedded: whole clips or windows, decoded in threads ahead of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ajepa.audio import AudioError, stream
from ajepa.audio.source import AudioBytes, open_bytes
from ajepa.contents import sha256_of
from ajepa.data.clips import Clip

from .inputs import Item
from .options import Wanted

LONG_SECONDS = 60.0  # audio is decoded at once up to here, as a stream beyond


@dataclass
class Piece:
    """A stretch of audio that becomes one row.

    Attributes:
        item: the clip.
        start, end: seconds into the file.
        waveform_S: the samples; None where `blocks` brings them.
        blocks: the samples of a long clip, decoded while they are read; `end` is known after that.
    """

    item: Item
    start: float
    end: float
    waveform_S: Tensor | None = None
    blocks: Iterator[Tensor] | None = None


@dataclass
class Decoded:
    """What a thread made of a clip.

    Attributes:
        pieces: in order; of long audio they are decoded as they are taken.
        sha256: of the encoded bytes.
        failure: why the clip cannot be used.
    """

    item: Item
    pieces: Iterable[Piece] = ()
    sha256: str = ""
    failure: AudioError | None = None


def decode(item: Item, wanted: Wanted, sample_rate: int, checksum: bool = True) -> Decoded:
    """Read a clip; short audio whole, long audio as a stream.

    Args:
        checksum: also that of the file, which is read for it first; else it is empty.
    """
    clip = item.clip
    try:
        sha256 = _sha256(clip) if checksum else ""
        waveforms = stream(clip.audio, start=clip.start, seconds=clip.seconds, sample_rate=sample_rate)
        held, samples = [], 0
        for block in waveforms:
            held.append(block)
            samples += len(block)
            if samples > LONG_SECONDS * sample_rate:
                return Decoded(item, _long(item, held, waveforms, wanted, sample_rate), sha256)
        waveform_S = torch.cat(held)
    except AudioError as error:
        return Decoded(item, failure=error)
    except OSError as error:
        return Decoded(item, failure=AudioError(f"{item.name}: cannot be read ({error})", path=item.name))
    if wanted.window:
        return Decoded(item, list(_windows(item, iter([waveform_S]), wanted, sample_rate)), sha256)
    end = clip.start + len(waveform_S) / sample_rate
    return Decoded(item, [Piece(item, clip.start, end, waveform_S)], sha256)


def _long(
    item: Item, held: list[Tensor], rest: Iterator[Tensor], wanted: Wanted, sample_rate: int
) -> Iterator[Piece]:
    def blocks() -> Iterator[Tensor]:
        yield from held
        held.clear()
        yield from rest

    if wanted.window:
        yield from _windows(item, blocks(), wanted, sample_rate)
    else:
        yield Piece(item, item.clip.start, float("nan"), blocks=blocks())


def _windows(item: Item, blocks: Iterator[Tensor], wanted: Wanted, sample_rate: int) -> Iterator[Piece]:
    size, step = (max(1, round(seconds * sample_rate)) for seconds in (wanted.window, wanted.step))
    for begin, waveform_S in windows(blocks, size, step):
        seconds = item.clip.start + begin / sample_rate
        yield Piece(item, seconds, seconds + len(waveform_S) / sample_rate, waveform_S)


def windows(blocks: Iterable[Tensor], size: int, step: int) -> Iterator[tuple[int, Tensor]]:
    """Windows of a clip, the last one at its end, from blocks of its samples: (first sample, samples)."""
    held, first = torch.empty(0), 0  # `held` begins `first` samples into the clip
    start = 0  # of the next window
    for block in blocks:
        held = torch.cat([held, block])
        while len(held) > start - first + size:  # more follows: this is not the last window
            yield start, held[start - first : start - first + size].clone()
            start += step
        # The last window may begin anywhere from its turn backwards: keep a window's length.
        drop = max(0, min(start - first, len(held) - size))
        held, first = held[drop:], first + drop
    last = max(0, first + len(held) - size)
    yield last, held[max(0, last - first) :].clone()


def _sha256(clip: Clip) -> str:
    if not isinstance(clip.audio, AudioBytes) and not Path(clip.audio).is_file():
        raise AudioError(f"{clip.audio}: no such file; check the path", path=clip.audio)
    with open_bytes(clip.audio) as file:
        return sha256_of(file)
