"""One pass over a clip's samples: its level, its length, a hash, and its beginning for what listens to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ajepa.audio import AudioError, resample
from ajepa.audio.file import REMOVE, AudioFile, inspect_file
from ajepa.audio.source import AudioBytes
from ajepa.data.labelled import BEYOND_SECONDS

from .clips import AuditClip, Finding

RATE = 16_000  # of the part that is listened to
HEARD_SECONDS = 30.0  # copies and labels are judged by this much of a clip
STEPS = 2**15  # magnitudes are counted in steps of 16-bit samples
MOST = 2 * STEPS  # magnitudes above are counted as this

QUIET = 1e-3  # -60 dB
MOSTLY = 0.5
SHORTEST_SECONDS = 0.1
OFFSET, OFFSET_TO_LEVEL = 0.01, 0.1  # of full scale, and of the level without it
# A wave that is cut off has many samples at its peak and few just below it.
CUT, BELOW, FEWEST_CUT, TIMES = 0.999, 0.99, 10, 2.0
OVER, OVER_SHARE = 1.001, 1e-4  # magnitudes that a 16-bit file cannot hold


class Measured(NamedTuple):
    """What a clip's samples say.

    Attributes:
        seconds: its length.
        peak, level: highest magnitude and root mean square, of full scale.
        offset: mean of the samples.
        silent: share of the samples that are digital silence.
        cut: samples at the peak, if the wave is cut off there, else 0.
        over: share of the samples above full scale.
        digest: of the rate and of the samples in 16 bits.
        heard_S: its first seconds at 16 kHz.
        failure: why it cannot be decoded; then all else is empty.
    """

    seconds: float = 0.0
    peak: float = 0.0
    level: float = 0.0
    offset: float = 0.0
    silent: float = 0.0
    cut: int = 0
    over: float = 0.0
    digest: bytes = b""
    heard_S: Tensor = torch.empty(0)
    failure: str = ""


def measure(clip: AuditClip) -> Measured:
    """Decode a clip and measure it, in constant memory. Threads may call this."""
    if isinstance(clip.audio, AudioBytes):
        clip = clip._replace(audio=replace(clip.audio))  # an object of its own, since it keeps what it reads
    try:
        return _measured(clip)
    except AudioError as error:
        # The path is in a column of its own, and what to do is up to the reader.
        reason, _, remedy = str(error).removeprefix(f"{clip.audio}: ").rpartition("; ")
        if not remedy.endswith(REMOVE):
            reason = f"{reason}; {remedy}" if reason else remedy
        return Measured(failure=" ".join(reason.split()))
    except OSError as error:
        return Measured(failure=f"cannot be read ({error})")


def _measured(clip: AuditClip) -> Measured:
    file = inspect_file(clip.audio)
    digest = hashlib.sha256(f"{file.rate}\n".encode())
    counts = np.zeros(MOST + 1, dtype=np.int64)
    samples, total, squares = 0, 0.0, 0.0
    heard: list[np.ndarray] = []
    left = round(HEARD_SECONDS * file.rate)
    for block_S in _blocks(clip, file):
        magnitudes = np.minimum(np.rint(np.abs(block_S) * STEPS), MOST).astype(np.int32)
        counts += np.bincount(magnitudes, minlength=MOST + 1)
        digest.update(np.clip(np.rint(block_S * STEPS), -MOST, MOST).astype("<i4").tobytes())
        total += float(block_S.sum(dtype=np.float64))
        squares += float(np.vdot(block_S, block_S))
        samples += len(block_S)
        if left > 0:
            heard.append(block_S[:left])
            left -= len(block_S)
    if not samples:
        raise AudioError.of(clip.audio, "0 samples after decoding")
    offset = total / samples
    peak = int(counts.nonzero()[0][-1])
    return Measured(
        seconds=samples / file.rate,
        peak=peak / STEPS,
        level=(squares / samples) ** 0.5,
        offset=offset,
        silent=counts[0] / samples,
        cut=_cut(counts, peak),
        over=counts[round(OVER * STEPS) :].sum() / samples,
        digest=digest.digest(),
        heard_S=resample(torch.from_numpy(np.concatenate(heard)), file.rate, RATE),
    )


def _blocks(clip: AuditClip, file: AudioFile) -> Iterator[np.ndarray]:
    rate, first = file.rate, round(clip.start * file.rate)
    if clip.seconds is None:
        return file.blocks(first)
    stop = first + max(1, round(clip.seconds * rate))
    if file.samples is not None and stop > file.samples:
        if stop > file.samples + BEYOND_SECONDS * rate:
            raise AudioError.of(
                clip.audio,
                f"ends at {file.samples / rate:.2f} s, its label at {stop / rate:.2f} s; correct the label",
            )
        stop = file.samples  # as an evaluation reads it: editors round
    return file.blocks(first, stop)


def _cut(counts: np.ndarray, peak: int) -> int:
    """The samples at the peak, if a wave was cut off there."""
    top = int(counts[round(CUT * peak) :].sum())
    below = int(counts[round(BELOW * peak) : round(CUT * peak)].sum())
    return top if top >= FEWEST_CUT and top > TIMES * below else 0


def signal_findings(number: int, clip: Measured) -> Iterator[Finding]:
    """What is wrong with a clip by itself."""
    if clip.failure:
        truncated = "truncated" in clip.failure or "its label" in clip.failure
        yield Finding("truncated" if truncated else "unreadable", number, 1.0, clip.failure)
        return
    if clip.peak < QUIET:
        level = "digital silence" if clip.peak == 0 else f"peak {decibels(clip.peak):.0f} dB"
        yield Finding("silent", number, 0.0 - clip.peak, level)
    elif clip.silent >= MOSTLY:
        yield Finding("mostly silent", number, clip.silent, f"{clip.silent:.0%} digital silence")
    if clip.seconds < SHORTEST_SECONDS:
        yield Finding("short", number, -clip.seconds, f"{clip.seconds:.3f} s")
    if clip.over >= OVER_SHARE:
        yield Finding("clipped", number, clip.over, f"{clip.over:.2%} of the samples above full scale")
    elif clip.cut and clip.peak >= QUIET:
        share = clip.cut / (clip.seconds or 1)
        yield Finding("clipped", number, share / 1e6, f"{clip.cut:,} samples cut off at {clip.peak:.3f}")
    varying = max(clip.level**2 - clip.offset**2, 0.0) ** 0.5
    if abs(clip.offset) >= OFFSET and abs(clip.offset) >= OFFSET_TO_LEVEL * varying:
        yield Finding("dc offset", number, abs(clip.offset), f"mean {clip.offset:+.3f} of full scale")


def decibels(magnitude: float) -> float:
    """Relative to full scale."""
    return 20 * float(np.log10(max(magnitude, 1e-10)))
