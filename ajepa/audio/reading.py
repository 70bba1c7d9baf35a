"""Decode audio files to mono float32 waveforms at one sample rate, whole or in crops.

`ajepa.audio.file` decodes and resamples; `ajepa.audio.containers` says what counts as truncated. Threads and
forked workers may call every function. Shape suffix: S samples.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from .errors import REMOVE, AudioError, check_target
from .file import inspect_file, resampled_length
from .source import AudioSource

SAMPLE_RATE = 16_000

AUDIO_SUFFIXES = frozenset(
    {".wav", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".ogg", ".oga"}
    | {".opus", ".mp3", ".mp2", ".m4a", ".m4b", ".mp4", ".aac", ".webm", ".weba", ".mka", ".mkv", ".amr"}
    | {".3gp", ".3ga", ".wma"}
)

# A peak below this is digital silence: a third of the smallest non-zero 16-bit value (2**-15 = 3.1e-5), well
# above what lossy codecs and the resampler make of zeros.
SILENCE_PEAK = 1e-5
_SILENT_REDRAWS = 8
KINDS_SHOWN = 6  # of files that are left out


@dataclass(frozen=True)
class AudioInfo:
    """A file's length and format at its own rate: `samples` a channel, `seconds` = samples / sample_rate."""

    seconds: float
    sample_rate: int
    channels: int
    samples: int


def info(path: AudioSource) -> AudioInfo:
    """Length, rate and channels from the header; a length that the header lacks is found by decoding.

    Raises AudioError for a file that is missing, unreadable, empty or known to be truncated.
    """
    file = inspect_file(path)
    samples = file.samples
    if samples is None:
        samples = sum(len(block) for block in file.blocks())
    if samples == 0:
        raise AudioError.of(path, f"0 samples after decoding; {REMOVE}")
    return AudioInfo(samples / file.rate, file.rate, file.channels, samples)


def seconds_of(path: AudioSource) -> float:
    """About how long it lasts, as its header says: for plans. Only what declares no length is decoded.

    Raises AudioError for a file that is missing, unreadable, empty or known to be truncated.
    """
    file = inspect_file(path)
    if file.samples is not None:
        return file.samples / file.rate
    return file.seconds or info(path).seconds


def load(
    path: AudioSource,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> Tensor:
    """Decode `seconds` seconds from `start` (the rest of the file if None) -> [S] float32, mono.

    Times are rounded to samples of `sample_rate`. A file that ends sooner gives a shorter waveform. A part
    equals the same samples of the whole, in every format: exactly if the file is at `sample_rate`, to about
    1e-6 of full scale if it is resampled. Silence is allowed.

    Raises AudioError for a file that is missing, a folder, unreadable, empty, truncated (see
    `ajepa.audio.containers`), for a rate, a length or a sample that no recording has (`ajepa.audio.errors`;
    NaN and infinity are two), and for a `start` at or beyond the end. Warns (AudioWarning) of channels that
    cancel each other.
    """
    first, stop = _span(start, seconds, sample_rate)
    file = inspect_file(path)
    length = file.length(sample_rate)
    if length is not None:
        stop = length if stop is None else min(stop, length)
    part_S = file.read(first, stop, sample_rate)
    if len(part_S) == 0:
        raise _ends_before(path, start, None if length is None else length / sample_rate)
    return torch.from_numpy(part_S)


def stream(
    path: AudioSource,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> Iterator[Tensor]:
    """What `load` gives, in blocks [S] of a few seconds as they are decoded: an hour needs no more memory.

    Raises what `load` does, when the audio is reached that cannot be used.
    """
    first, stop = _span(start, seconds, sample_rate)
    found = 0
    for block in inspect_file(path).stream(first, stop, sample_rate):
        found += len(block)
        yield torch.from_numpy(block)
    if not found:
        raise _ends_before(path, start, None)


def _ends_before(path: AudioSource, start: float, end: float | None) -> AudioError:
    if end == 0:
        return AudioError.of(path, f"0 samples after decoding; {REMOVE}")
    before = "it ends before" if end is None else f"the file ends at {end:g} s"
    return AudioError.of(path, f"nothing to decode from {start:g} s on: {before}; start earlier")


def _span(start: float, seconds: float | None, sample_rate: int) -> tuple[int, int | None]:
    """Times as samples [first, stop), halves rounded up as in the resampler.

    The seconds of a whole file, in double precision, give exactly the length of that file at `sample_rate`.
    Raises ValueError for times that are none.
    """
    if not 0 <= start < math.inf or (seconds is not None and not 0 < seconds < math.inf):
        raise ValueError(f"start must be >= 0 and seconds > 0, got start={start} and seconds={seconds}")

    def to_samples(time: float) -> int:
        return math.floor(time * sample_rate + 0.5001)

    first = to_samples(start)
    return first, None if seconds is None else first + max(1, to_samples(seconds))


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample [..., S] -> [..., round(S * target_rate / source_rate)] float32 (soxr HQ, linear phase).

    The result is on the device of `waveform`, without gradients. Equal rates return the waveform itself.
    """
    for rate in (source_rate, target_rate):
        check_target(rate)
    if source_rate == target_rate:
        return waveform.float()
    length = resampled_length(waveform.shape[-1], source_rate, target_rate)
    signals_CS = waveform.detach().float().cpu().reshape(math.prod(waveform.shape[:-1]), waveform.shape[-1])
    resampled_CS = np.empty((len(signals_CS), length), dtype=np.float32)
    for signal_S, out_S in zip(signals_CS.numpy(), resampled_CS, strict=True):
        out_S[:] = soxr.resample(signal_S, source_rate, target_rate, quality="HQ")
    return torch.from_numpy(resampled_CS).reshape(*waveform.shape[:-1], length).to(waveform.device)


def find_audio(folder: str | os.PathLike[str], others: Counter[str] | None = None) -> list[Path]:
    """All audio files (AUDIO_SUFFIXES, any case) in `folder` and below, sorted by their path inside it.

    Symbolic links to folders are followed, each folder once. Names that start with a dot are skipped, such as
    caches and the `._*` files that macOS leaves in archives.

    Args:
        others: counts the files that are left out, by their suffix in lower case.

    Raises AudioError if the folder is missing or holds no audio.
    """
    root = Path(folder)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise AudioError.of(folder, f"{problem}; name a folder of audio files")
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            for name in names:
                if name.startswith("."):
                    continue
                file = Path(parent, name)
                if (suffix := file.suffix.lower()) in AUDIO_SUFFIXES:
                    found.append(file)
                elif others is not None:
                    others[suffix] += 1
        seen.add(real)
    if not found:
        looked_for = " ".join(sorted(AUDIO_SUFFIXES))
        raise AudioError.of(folder, f"no audio files here or in its subfolders (looked for {looked_for})")
    return sorted(found, key=lambda file: file.relative_to(root).parts)


def left_out(others: Counter[str]) -> str:
    """What `find_audio` left out, such as "5 files of other kinds (3 .txt, 1 .zip, 1 without an ending)"."""
    kinds = [f"{count:,} {suffix or 'without an ending'}" for suffix, count in others.most_common()]
    shown = [*kinds[:KINDS_SHOWN], *(["others"] if len(kinds) > KINDS_SHOWN else [])]
    total = others.total()
    return f"{total:,} file{'s' * (total > 1)} of other kinds ({', '.join(shown)})"


def cyclic(waveform_S: Tensor, samples: int, start: int = 0) -> Tensor:
    """`samples` samples from `start`, wrapping around at the end: [S] -> [samples], a copy."""
    length = waveform_S.shape[-1]
    if length == 0 or samples < 0:
        raise ValueError(f"cannot take {samples} samples cyclically from {length}")
    start %= length
    head_S = waveform_S[start : start + samples]
    rest = samples - head_S.numel()
    turn_S = waveform_S[: min(rest, length)]
    return torch.cat((head_S, turn_S.repeat(math.ceil(rest / length))[:rest]))


def jitter_level(waveform_S: Tensor, generator: torch.Generator, gain_db: float) -> Tensor:
    """Multiply by one random gain, uniform in decibels within ±gain_db. Nothing is clipped."""
    if not gain_db >= 0:
        raise ValueError(f"gain_db must be >= 0, got {gain_db}")
    uniform = torch.rand((), generator=generator, device=generator.device).item()
    return waveform_S * 10.0 ** (gain_db * (2.0 * uniform - 1.0) / 20.0)


def random_crop(
    source: AudioSource | Tensor,
    seconds: float,
    generator: torch.Generator,
    *,
    sample_rate: int = SAMPLE_RATE,
    gain_db: float = 6.0,
    start: float = 0.0,
    duration: float | None = None,
) -> Tensor:
    """The A-JEPA training crop (arXiv 2311.15830, section 4.1) -> [round(seconds * sample_rate)] float32.

    The start is drawn uniformly over the file. The crop wraps around at the file's end; a file shorter than
    the crop is tiled. A level jitter is uniform within ±gain_db. A digitally silent crop (SILENCE_PEAK) is
    drawn again; if that does not help, the crop is placed on a sample drawn from those that are not silent.

    `source` is a file, of which only the part needed is decoded, or its decoded waveform [S] at
    `sample_rate`. Both use the same random numbers in the same order, so a memory cache of `load(path)`
    gives the same crops, as closely as a part equals the whole in `load`. (A file of unknown length, such as
    AAC or a streamed FLAC, is decoded whole for each crop.)
    The crop never shares memory with `source`. `start` and `duration`, in seconds, restrict the source to
    that part: crops begin in it and wrap around at its end.

    Raises AudioError as `load` does, and for a source that is silent from end to end.
    """
    samples = round(seconds * sample_rate)
    if samples < 1:
        raise ValueError(f"a crop needs at least one sample, got {seconds} s at {sample_rate} Hz")
    name = f"waveform {list(source.shape)}" if isinstance(source, Tensor) else source
    length, read = _reader(source, sample_rate)
    first, stop = _part(start, duration, sample_rate, length, name)
    return jitter_level(_draw_sounding(read, first, stop, samples, generator, name), generator, gain_db)


def _reader(source: AudioSource | Tensor, sample_rate: int) -> tuple[int, Callable[[int, int], Tensor]]:
    """The length of a source, and a function that reads its samples [first, stop)."""
    if not isinstance(source, Tensor):
        file = inspect_file(source)
        length = file.length(sample_rate)
        if length is not None:
            return length, lambda first, stop: torch.from_numpy(file.read(first, stop, sample_rate))
        source = torch.from_numpy(file.whole(sample_rate))
    elif source.dim() != 1 or source.numel() == 0:
        name = f"waveform {list(source.shape)}"
        raise AudioError.of(name, "random_crop needs one axis with at least one sample")
    waveform_S = source
    return len(waveform_S), lambda first, stop: waveform_S[first:stop]


def _part(
    start: float, seconds: float | None, sample_rate: int, length: int, name: AudioSource
) -> tuple[int, int]:
    """The part of a file of `length` samples that `start` and `seconds` name, within its end."""
    first, stop = _span(start, seconds, sample_rate)
    if first >= max(1, length):
        end = length / sample_rate
        raise AudioError.of(name, f"its part starts at {start:g} s, but it ends at {end:g} s; start earlier")
    return first, length if stop is None else min(stop, length)


def _draw_sounding(
    read: Callable[[int, int], Tensor],
    first: int,
    stop: int,
    samples: int,
    generator: torch.Generator,
    name: AudioSource,
) -> Tensor:
    """Draw crops of `read(first, stop)` until one is not silent, else place the crop on a sound."""

    @cache
    def whole() -> Tensor:
        waveform_S = read(first, stop)
        if len(waveform_S) == 0:
            raise AudioError.of(name, f"0 samples after decoding; {REMOVE}")
        return waveform_S

    length = stop - first if stop - first > samples else len(whole())

    def crop(start: int) -> Tensor:
        if length > samples:
            crop_S = read(first + start, first + min(start + samples, length))
            if start + samples > length:
                crop_S = torch.cat((crop_S, read(first, first + start + samples - length)))
            if len(crop_S) == samples:  # fewer only from an MP3 whose tag declares too much
                return crop_S
        return cyclic(whole(), samples, start)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator, device=generator.device))

    for _ in range(_SILENT_REDRAWS):
        crop_S = crop(draw(length))
        if crop_S.abs().max() >= SILENCE_PEAK:
            return crop_S
    sounding = (whole().abs() >= SILENCE_PEAK).nonzero()
    if len(sounding) == 0:
        raise AudioError.of(name, f"silent from end to end (peak below {SILENCE_PEAK:g}); {REMOVE}")
    position = int(sounding[draw(len(sounding))])
    return cyclic(whole(), samples, position - draw(samples))
