"""Decode audio files to mono float32 waveforms at one sample rate, whole or in crops.

Files are read through libsndfile (soundfile) in blocks, mixed down (mean of the channels) block by block
and resampled by soxr in streaming mode, so loading an hour of 44.1 kHz stereo needs little more memory
than its 16 kHz mono result. Only the needed part of a file is decoded.

What counts as truncated, and how it is known:

- WAV, RF64, AIFF, AU, W64: the header declares more bytes than the file has. Streamed WAVs, whose header
  was written before the length was known (sizes 0, 0x7FFFxxxx or more), are read to their end instead.
- FLAC: the decoder fails before the declared number of samples. A crop sees this only where it reads.
- Ogg (Vorbis, Opus): the last page is incomplete. A stream that stops between two pages without an end
  mark is what a live capture looks like; it is read to its end.
- MP3 with a Xing/Info tag: more than 1 % of the bytes that the tag declares are missing. A smaller loss
  (the last frames), a VBRI tag or no tag at all says nothing: what is there is loaded.

Nothing here keeps global state: every function may be called from threads and forked workers.
Shape suffix: S samples.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

SAMPLE_RATE = 16_000

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
)

# A peak below this is digital silence: a third of the smallest non-zero 16-bit value (2**-15 = 3.1e-5), and
# well above the residue that lossy codecs and the resampler leave of zeros.
SILENCE_PEAK = 1e-5
_SILENT_REDRAWS = 8

_BLOCK = 65_536  # source samples decoded at a time: 0.5 MB for stereo
# Context on each side of a part before resampling, in samples of the lower of the two rates. The soxr HQ
# filter is shorter: from 160 samples on, parts agree with the resampled whole to 2e-7.
_MARGIN = 320

_REMOVE = "remove it or pass --skip-broken"


class AudioError(ValueError):
    """Audio that cannot be used. The message starts with the path, which is also in `path`.

    One positional argument only, so that a DataLoader worker can hand it on as what it is.
    """

    def __init__(self, message: str, *, path: str | os.PathLike[str] = ""):
        super().__init__(message)
        self.path = path


def _error(path: str | os.PathLike[str], problem: str) -> AudioError:
    return AudioError(f"{path}: {problem}", path=path)


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds, at its own rate: `samples` per channel, `seconds` = samples / sample_rate."""

    seconds: float
    sample_rate: int
    channels: int
    samples: int


def info(path: str | os.PathLike[str]) -> AudioInfo:
    """Length, rate and channels from the header (by decoding, where the header does not know the length).

    Raises AudioError for a file that is missing, unreadable, empty or known to be truncated.
    """
    with _open(path) as source:
        samples = source.samples
        if samples is None:
            samples = sum(len(block) for block in source.blocks())
        if samples == 0:
            raise _error(path, f"0 samples after decoding; {_REMOVE}")
        rate = source.file.samplerate
        return AudioInfo(samples / rate, rate, source.file.channels, samples)


def load(
    path: str | os.PathLike[str],
    *,
    start: float = 0.0,
    seconds: float | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> Tensor:
    """Decode `seconds` seconds from `start` (the rest of the file if None) -> [S] float32, mono.

    Times are rounded to samples of `sample_rate`. A file that ends sooner gives what there is. A part equals
    the same samples of the whole: exactly where the file is at `sample_rate` already, to about 1e-6 (of full
    scale) where it is resampled. Ogg Opus is the exception: its decoder is slow to recover its state after a
    seek, and low-rate speech may differ by some 1e-3. Silence is legal.

    Raises AudioError for a file that is missing, a folder, unreadable, empty, truncated (see the module) or
    has NaN or infinite samples in the part read, and for a `start` at or beyond the end.
    """
    if not start >= 0 or (seconds is not None and not seconds > 0):
        raise ValueError(f"start must be >= 0 and seconds > 0, got start={start} and seconds={seconds}")
    first = round(start * sample_rate)
    stop = None if seconds is None else first + max(1, round(seconds * sample_rate))
    with _open(path) as source:
        length = source.length(sample_rate)
        if length is None or (first == 0 and stop is None):
            waveform_S = source.whole(sample_rate)
            length = waveform_S.numel()
            part_S = waveform_S if first == 0 and stop is None else waveform_S[first:stop].clone()
        else:
            part_S = source.read(first, length if stop is None else min(stop, length), sample_rate)
    if part_S.numel() == 0:
        end = length / sample_rate
        raise _error(path, f"nothing to decode from {start:g} s on, it ends at {end:g} s; start earlier")
    return part_S


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample [..., S] -> [..., round(S * target_rate / source_rate)] float32 (soxr HQ, linear phase).

    The result is on the device of `waveform`; gradients do not pass. Equal rates return the waveform itself.
    """
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {source_rate} and {target_rate}")
    if source_rate == target_rate:
        return waveform.float()
    length = _resampled_length(waveform.shape[-1], source_rate, target_rate)
    signals_CS = waveform.detach().float().cpu().reshape(math.prod(waveform.shape[:-1]), waveform.shape[-1])
    resampled_CS = np.empty((len(signals_CS), length), dtype=np.float32)
    for signal_S, out_S in zip(signals_CS.numpy(), resampled_CS, strict=True):
        out_S[:] = soxr.resample(signal_S, source_rate, target_rate, quality="HQ")
    return torch.from_numpy(resampled_CS).reshape(*waveform.shape[:-1], length).to(waveform.device)


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """All audio files (AUDIO_SUFFIXES, any case) in `folder` and below, sorted by their path inside it.

    Symbolic links to folders are followed, each folder once. Names that start with a dot are skipped: these
    are caches and the `._*` files that macOS leaves in archives.

    Raises AudioError if the folder is missing or holds no audio.
    """
    root = Path(folder)
    if not root.is_dir():
        problem = "is a file, not a folder" if root.exists() else "no such folder"
        raise _error(folder, f"{problem}; name a folder of audio files")
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            files = (Path(parent, name) for name in names if not name.startswith("."))
            found += [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES]
        seen.add(real)
    if not found:
        looked_for = " ".join(sorted(AUDIO_SUFFIXES))
        raise _error(folder, f"no audio files here or in its subfolders (looked for {looked_for})")
    return sorted(found, key=lambda file: file.relative_to(root).parts)


def cyclic(waveform_S: Tensor, samples: int, start: int = 0) -> Tensor:
    """`samples` samples from `start` on, going round at the end: [S] -> [samples], a copy."""
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
    source: str | os.PathLike[str] | Tensor,
    seconds: float,
    generator: torch.Generator,
    *,
    sample_rate: int = SAMPLE_RATE,
    gain_db: float = 6.0,
) -> Tensor:
    """The A-JEPA training crop (arXiv 2311.15830, section 4.1) -> [round(seconds * sample_rate)] float32.

    A start drawn uniformly over the file, a segment that goes round at the file's end (a file shorter than
    the crop is tiled), a level jitter uniform within ±gain_db. A digitally silent crop (SILENCE_PEAK) is
    drawn again; where that does not help, the crop is placed on a sample drawn from those that are not
    silent.

    `source` is a file, of which only the needed part is decoded, or its decoded waveform [S] at
    `sample_rate`. Both use the same random numbers in the same order, so a memory cache of `load(path)`
    gives the same crops, as closely as a part equals the whole in `load`. (An MP3 whose tag declares a wrong
    length may differ; one without a tag, and a FLAC of undeclared length, are decoded whole for each crop.)
    The crop never shares memory with `source`.

    Raises AudioError as `load` does, and for a source that is silent from end to end.
    """
    samples = round(seconds * sample_rate)
    if samples < 1:
        raise ValueError(f"a crop needs at least one sample, got {seconds} s at {sample_rate} Hz")
    if isinstance(source, Tensor):
        name = f"waveform {list(source.shape)}"
        if source.dim() != 1 or source.numel() == 0:
            raise _error(name, "random_crop needs one axis with at least one sample")
        crop_S = _draw_from_waveform(source, samples, generator, name)
        return jitter_level(crop_S, generator, gain_db)
    with _open(source) as opened:
        length = opened.length(sample_rate)
        if length is None or length <= samples:
            crop_S = _draw_from_waveform(opened.whole(sample_rate), samples, generator, source)
        else:
            crop_S = _draw_from_file(opened, length, samples, generator, sample_rate)
    return jitter_level(crop_S, generator, gain_db)


def _draw_from_waveform(
    waveform_S: Tensor, samples: int, generator: torch.Generator, name: str | os.PathLike[str]
) -> Tensor:
    return _draw_sounding(
        waveform_S.numel(),
        lambda start: cyclic(waveform_S, samples, start),
        lambda: waveform_S,
        samples,
        generator,
        name,
    )


def _draw_from_file(
    source: _Source, length: int, samples: int, generator: torch.Generator, sample_rate: int
) -> Tensor:
    whole = partial(source.whole, sample_rate)

    def crop(start: int) -> Tensor:
        crop_S = source.read(start, min(start + samples, length), sample_rate)
        if start + samples > length:
            crop_S = torch.cat((crop_S, source.read(0, start + samples - length, sample_rate)))
        # Only an MP3 whose tag declares too much comes out short.
        return crop_S if crop_S.numel() == samples else cyclic(whole(), samples, start)

    return _draw_sounding(length, crop, whole, samples, generator, source.path)


def _draw_sounding(
    length: int,
    crop: Callable[[int], Tensor],
    whole: Callable[[], Tensor],
    samples: int,
    generator: torch.Generator,
    name: str | os.PathLike[str],
) -> Tensor:
    """Draw starts in [0, length) until `crop(start)` is not silent; then place it on what sounds."""

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator, device=generator.device))

    for _ in range(_SILENT_REDRAWS):
        crop_S = crop(draw(length))
        if crop_S.abs().max() >= SILENCE_PEAK:
            return crop_S
    waveform_S = whole()
    sounding = (waveform_S.abs() >= SILENCE_PEAK).nonzero()
    if len(sounding) == 0:
        raise _error(name, f"silent from end to end (peak below {SILENCE_PEAK:g}); {_REMOVE}")
    position = int(sounding[draw(len(sounding))])
    return cyclic(waveform_S, samples, position - draw(samples))


def _resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """What soxr gives: rounded, halves up."""
    return (2 * samples * target_rate + source_rate) // (2 * source_rate)


@dataclass(frozen=True)
class _Source:
    """An open file; `samples` is None where only decoding to the end can tell."""

    path: str | os.PathLike[str]
    file: soundfile.SoundFile
    samples: int | None

    def length(self, sample_rate: int) -> int | None:
        if self.samples is None:
            return None
        return _resampled_length(self.samples, self.file.samplerate, sample_rate)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Mono float32 blocks of the source samples [first, stop), at the file's rate."""
        stop = self.samples if stop is None else stop
        position = first
        try:
            if self.samples is not None:
                self.file.seek(first)
            while stop is None or position < stop:
                wanted = _BLOCK if stop is None else min(_BLOCK, stop - position)
                block = self.file.read(wanted, dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                if not np.isfinite(block).all():
                    seconds = position / self.file.samplerate
                    raise _error(self.path, f"NaN or infinite samples after {seconds:.2f} s; {_REMOVE}")
                position += len(block)
                yield _mono(block)
        except soundfile.LibsndfileError as error:
            raise self._cut(position, error.error_string) from error
        # Of an MP3 the length is an estimate or a tag that cutting tools leave unchanged.
        if stop is not None and position < stop and self.file.format != "MP3":
            raise self._cut(position, "the data ends there")

    def _cut(self, position: int, reason: str) -> AudioError:
        at = position / self.file.samplerate
        declared = f" of {self.samples / self.file.samplerate:.2f} s" if self.samples else ""
        return _error(self.path, f"truncated or damaged after {at:.2f} s{declared} ({reason}); {_REMOVE}")

    def whole(self, sample_rate: int) -> Tensor:
        """Everything, resampled: [S], S > 0."""
        length = self.length(sample_rate)
        if length is None:
            chunks = list(_resampled(self.blocks(), self.file.samplerate, sample_rate))
            waveform_S = torch.from_numpy(np.concatenate([np.empty(0, dtype=np.float32), *chunks]))
        else:
            waveform_S = self.read(0, length, sample_rate)
        if waveform_S.numel() == 0:
            raise _error(self.path, f"0 samples after decoding; {_REMOVE}")
        return waveform_S

    def read(self, first: int, stop: int, sample_rate: int) -> Tensor:
        """Samples [first, stop), stop <= length(), of the file resampled to `sample_rate`."""
        if first >= stop:
            return torch.empty(0)
        rate = self.file.samplerate
        # Both rates meet every `source_step` source samples = `target_step` resampled ones. A part that
        # begins on such a step has the resampler in the phase it has within the whole.
        common = math.gcd(rate, sample_rate)
        source_step, target_step = rate // common, sample_rate // common
        margin = 0 if rate == sample_rate else math.ceil(_MARGIN / min(source_step, target_step))
        first_step = max(0, first // target_step - margin)
        stop_step = math.ceil(stop / target_step) + margin
        blocks = self.blocks(first_step * source_step, min(stop_step * source_step, self.samples or 0))
        out_S = np.empty(stop - first, dtype=np.float32)
        position = first_step * target_step - first  # of the next resampled sample within out_S
        for chunk in _resampled(blocks, rate, sample_rate):
            begin, end = max(position, 0), min(position + len(chunk), len(out_S))
            if begin < end:
                out_S[begin:end] = chunk[begin - position : end - position]
            position += len(chunk)
        return torch.from_numpy(out_S[: max(position, 0)])


def _mono(block: np.ndarray) -> np.ndarray:
    """Mean over the channels. One add per channel is ten times as fast as numpy's mean over a short axis,
    and unlike a matrix product it rounds each sample alike wherever a block begins."""
    if block.shape[1] == 1:
        return block[:, 0]
    total = block[:, 0] + block[:, 1]
    for channel in range(2, block.shape[1]):
        total += block[:, channel]
    return total * np.float32(1 / block.shape[1])


def _resampled(blocks: Iterable[np.ndarray], rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    if rate == sample_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


# --- Containers: data that is missing, and lengths that the header leaves open ---

# Sizes in the logs of libsndfile's header readers. W64 spells "riff" small, RF64 writes "Riff size".
_SIZE_CUT = re.compile(
    r"^\s*(?:data|SSND|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
# Streaming writers declare as much as they can: 0xFFFFFFFF (ffmpeg), 0x7FFFF000 (SoX), 0x80000000 (arecord).
_STREAMED_SIZE = 0x7FFF_0000
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_UNDECLARED = 2**63 - 1  # libsndfile's SF_COUNT_MAX: a FLAC encoder that wrote to a pipe
# The first MPEG frame of a tagged file: header, side information, name, then flags, frames and bytes.
_XING = re.compile(rb"\xff[\xe2-\xff].{11,36}?(?:Xing|Info)(.{4})(.{4})(.{4})", re.DOTALL)
_VBRI = re.compile(rb"\xff[\xe2-\xff].{34}VBRI", re.DOTALL)


class _Sequential(soundfile.SoundFile):
    """Omits soundfile's seek after each read, which fails at the end of a file of undeclared length."""

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class _Rewrite:
    """A file as the decoder should see it: `head`, then the bytes from `offset` on."""

    head: bytes
    offset: int


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[_Source]:
    """Open a file and look for missing data; AudioError says why it cannot be used."""
    file_path = Path(path)
    if not file_path.exists():
        raise _error(path, "no such file; check the path")
    if file_path.is_dir():
        raise _error(path, "is a folder, not a file; find_audio lists the files in it")
    if file_path.stat().st_size == 0:
        raise _error(path, f"0 bytes; {_REMOVE}")
    rewrite = None
    with _reader(path, file_path) as file:
        missing = _missing_data(file.extra_info)
        if file.format == "OGG":
            missing = _cut_ogg_page(file_path)
        elif file.format == "MP3":
            missing, rewrite = _inspect_mp3(file_path)
        elif file.format in ("WAV", "WAVEX") and file.frames == 0:
            rewrite = _open_ended_wav(file_path)
        if missing:
            raise _error(path, f"truncated: {missing}; copy it again, {_REMOVE}")
        if rewrite is None and file.frames < _UNDECLARED:
            yield _Source(path, file, file.frames)
            return
    if rewrite is None:
        with _reader(path, file_path, _Sequential) as file:
            yield _Source(path, file, None)
    else:
        with _piped(file_path, rewrite) as pipe, _reader(path, pipe, _Sequential) as file:
            yield _Source(path, file, None)


def _reader(
    path: str | os.PathLike[str], file: Path | int, kind: type[soundfile.SoundFile] = soundfile.SoundFile
) -> soundfile.SoundFile:
    try:
        return kind(file, closefd=False)
    except soundfile.LibsndfileError as error:
        raise _error(path, f"not readable as audio ({error.error_string}); {_REMOVE}") from error


def _missing_data(log: str) -> str | None:
    """What libsndfile's header log says of missing data; it shortens the file and reports no error."""
    for declared, present in _SIZE_CUT.findall(log):
        if int(present) < int(declared) < _STREAMED_SIZE:
            return f"its header declares {declared} bytes, {present} are there"
    return None


def _cut_ogg_page(path: Path) -> str | None:
    """Compare the last page with its header: 27 bytes, a table of segment sizes, the segments (RFC 3533)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _LARGEST_OGG_PAGE))
        tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or (len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])):
        return None
    return "its last Ogg page is incomplete"


def _inspect_mp3(path: Path) -> tuple[str | None, _Rewrite | None]:
    """(what is missing, how to read it to its end if no tag gives its length).

    Without a tag the decoder extrapolates the length from the first frame's bit rate. With a variable rate
    that is far off, and libsndfile would stop there; through a pipe it reads on to the end.
    """
    with path.open("rb") as file:
        id3 = file.read(10)
        offset = 0
        if id3[:3] == b"ID3":  # its size comes in four bytes of seven bits; a footer repeats the header
            offset = 10 + sum(byte << shift for byte, shift in zip(id3[6:], (21, 14, 7, 0), strict=True))
            offset += 10 if id3[5] & 0x10 else 0
        file.seek(offset)
        head = file.read(4096)
    if _VBRI.search(head):
        return None, None
    tag = _XING.search(head)
    flags, frames, declared = (int.from_bytes(field, "big") for field in tag.groups()) if tag else (0, 0, 0)
    if not flags & 1 or frames == 0:
        return None, _Rewrite(b"", offset)
    present = path.stat().st_size - offset
    if flags & 2 and present < 0.99 * declared:
        return f"its tag declares {declared} bytes, {present} are there", None
    return None, None


def _open_ended_wav(path: Path) -> _Rewrite | None:
    """For a WAV whose data chunk declares 0 bytes but is followed by samples, not by another chunk."""
    with path.open("rb") as file:
        head = file.read(_BLOCK)
    at = head.find(b"data\0\0\0\0")
    follows = head[at + 8 : at + 16]
    left = path.stat().st_size - (at + 16)
    is_chunk = re.match(rb"[ -~]{4}", follows) and int.from_bytes(follows[4:], "little") <= left
    if at < 0 or not follows or is_chunk:
        return None
    return _Rewrite(head[: at + 4] + b"\xff" * 4, at + 8)


@contextmanager
def _piped(path: Path, rewrite: _Rewrite) -> Iterator[int]:
    """The reading end of a pipe that a thread fills with the rewritten file."""
    reading, writing = os.pipe()

    def feed() -> None:
        # The reader may have enough before the end.
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe, path.open("rb") as file:
            pipe.write(rewrite.head)
            file.seek(rewrite.offset)
            shutil.copyfileobj(file, pipe)

    feeder = Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield reading
    finally:
        os.close(reading)
        feeder.join()
