"""Corruptions of a recording: noise, a room, the telephone, a codec, another level.

A corruption acts on a clip at its file's own sample rate, before any model resamples it, and its random draws
depend only on the clip's name and the corruption. Every model therefore hears the same corrupted clips, in
every run and on every machine with the same libraries.

Axes: S samples.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor
from torchaudio import functional

from ajepa.audio import find_audio, load, resample
from ajepa.errors import AjepaError

NOISE_DB = (20.0, 10.0, 5.0, 0.0)  # in the standard set, and for the area under its curve
TELEPHONE_HZ = (300.0, 3400.0)
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
OPUS_KBITS = (6.0, 256.0)  # the range of libsndfile's compression level
SILENT_RMS = 1e-5  # of full scale: noise this quiet cannot be scaled to a level
_DRAWS = 16  # noise excerpts to try before giving up on silent ones


class CorruptionError(AjepaError, ValueError):
    """A corruption is unknown, or its noise cannot be used; the message lists what can be."""


@dataclass(frozen=True)
class Corruption:
    """One corruption, as `parse` reads it.

    Attributes:
        kind: noise, reverb, telephone, codec or level.
        value: for noise, the ratio of the clip's power to the noise's in dB; for reverb, the seconds in which
            it falls by 60 dB; for codec (Opus), kbit/s; for level, dB; 0 for telephone.
        noises: recordings that noise is cut from; without any, the noise is synthetic.
    """

    kind: str
    value: float = 0.0
    noises: tuple[Path, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return KINDS[self.kind].form.format(format(self.value, "+g" if self.kind == "level" else "g"))

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that its results depend on besides the clip: for noises their names, sizes and dates."""
        states = ((path.name, path.stat()) for path in self.noises)
        return (str(self), *((name, state.st_size, state.st_mtime_ns) for name, state in states))

    def __call__(self, waveform_S: Tensor, sample_rate: int, clip: str) -> Tensor:
        """The clip as the corruption would record it, with the same length.

        Args:
            waveform_S: the clip, float32, at its own sample rate.
            sample_rate: Hz.
            clip: its name, which determines the random draws.
        """
        seed = hashlib.sha256(f"{self.kind} {clip}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
        return KINDS[self.kind].apply(self, waveform_S, sample_rate, generator)


def parse(text: str, noises: Sequence[Path] = ()) -> list[Corruption]:
    """The corruptions that a text specifies.

    Args:
        text: noise:10dB, reverb:0.6s, telephone, codec:8kbps, level:-20dB; or `standard`: noise at 20, 10, 5
            and 0 dB, reverb:0.6s, telephone, codec:8kbps, level:-20dB and level:+20dB.
        noises: recordings to take noise from; see `find_noises`.

    Raises:
        CorruptionError: the text is none of these.
    """
    if text == "standard":
        levels = [f"noise:{value:g}dB" for value in NOISE_DB]
        others = ["reverb:0.6s", "telephone", "codec:8kbps", "level:-20dB", "level:+20dB"]
        return [one for name in (*levels, *others) for one in parse(name, noises)]
    for name, kind in KINDS.items():
        if matched := re.fullmatch(kind.form.format(r"([+-]?(?:\d+\.?\d*|\.\d+))"), text):
            value = float(matched[1]) if matched.groups() else 0.0
            if not kind.low <= value <= kind.high:
                unit = kind.form.rpartition("}")[2]
                raise CorruptionError(f"{text}: give {kind.low:g} to {kind.high:g} {unit}")
            return [Corruption(name, value, tuple(noises) if name == "noise" else ())]
    examples = "noise:10dB, reverb:0.6s, telephone, codec:8kbps, level:-20dB or standard"
    raise CorruptionError(f"no corruption is called {text!r}; give {examples}")


def find_noises(folder: str | Path) -> tuple[Path, ...]:
    """The recordings of a folder, sorted.

    Raises:
        CorruptionError: there are none.
    """
    try:
        found = find_audio(folder)
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{error}; give a folder of noise recordings") from error
    return tuple(sorted(found))


def _noise(corruption: Corruption, waveform_S: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Add noise at a power ratio over the whole clip. A silent clip stays silent."""
    level = _rms(waveform_S)
    if level < SILENT_RMS:
        return waveform_S
    noise_S = torch.zeros(0)
    for _ in range(_DRAWS):
        if corruption.noises:
            noise_S = _excerpt(corruption.noises, len(waveform_S), rate, generator)
        else:
            noise_S = coloured_noise(len(waveform_S), generator)
        if _rms(noise_S) >= SILENT_RMS:
            break
    else:
        raise CorruptionError(
            f"{corruption.noises[0].parent}: {_DRAWS} excerpts in a row are silent; give other noises"
        )
    return waveform_S + noise_S * (level / _rms(noise_S) * 10 ** (-corruption.value / 20))


def coloured_noise(samples: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise whose power falls with frequency to an exponent from 0 (white) to 2 (brown)."""
    slope = 2 * torch.rand((), generator=generator)
    spectrum_K = torch.fft.rfft(torch.randn(samples, generator=generator))
    place_K = torch.arange(1, len(spectrum_K) + 1, dtype=torch.float32)
    return torch.fft.irfft(spectrum_K * place_K ** (-slope / 2), n=samples)


def _excerpt(noises: Sequence[Path], samples: int, rate: int, generator: torch.Generator) -> Tensor:
    """A stretch of one recording, which is repeated if it is too short."""
    index = int(torch.randint(len(noises), (), generator=generator))
    noise_S = _recording(noises[index], rate)
    start = int(torch.randint(len(noise_S), (), generator=generator))
    return noise_S[(start + torch.arange(samples)) % len(noise_S)]


@lru_cache(maxsize=512)
def _recording(path: Path, rate: int) -> Tensor:
    return load(path, sample_rate=rate)


def _reverb(corruption: Corruption, waveform_S: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """A synthetic room: the direct sound, then decaying noise from 5 ms on, both of equal energy."""
    length = max(1, min(len(waveform_S), math.ceil(corruption.value * rate)))
    time_S = torch.arange(length) / rate
    tail_S = torch.randn(length, generator=generator) * 10 ** (-3 * time_S / corruption.value)
    tail_S = tail_S * (time_S >= 0.005)
    energy = tail_S.square().sum()
    response_S = tail_S / energy.sqrt() if energy > 0 else tail_S
    response_S[0] += 1.0
    return functional.fftconvolve(waveform_S, response_S)[: len(waveform_S)]


def _telephone(corruption: Corruption, waveform_S: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Limit the band to 300 to 3,400 Hz at 8 kHz, with the 8 bits of G.711's mu-law."""
    narrow_S = resample(waveform_S, rate, 8_000)
    for _ in range(2):
        narrow_S = functional.highpass_biquad(narrow_S, 8_000, TELEPHONE_HZ[0])
        narrow_S = functional.lowpass_biquad(narrow_S, 8_000, TELEPHONE_HZ[1])
    coded_S = functional.mu_law_encoding(narrow_S.clamp(-1.0, 1.0), 256)
    return _fitted(resample(functional.mu_law_decoding(coded_S, 256), 8_000, rate), len(waveform_S))


def _codec(corruption: Corruption, waveform_S: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Encode with Opus and decode. Samples above full scale are limited to it, as in a file."""
    coded_rate = min((one for one in OPUS_RATES if one >= rate), default=OPUS_RATES[-1])
    coded_S = resample(waveform_S, rate, coded_rate).clamp(-1.0, 1.0).numpy()
    low, high = OPUS_KBITS
    level = 1 - (corruption.value - low) / (high - low)
    memory = io.BytesIO()
    soundfile.write(memory, coded_S, coded_rate, "OPUS", format="OGG", compression_level=level)
    memory.seek(0)
    decoded_S = torch.from_numpy(soundfile.read(memory, dtype="float32")[0])
    return _fitted(resample(decoded_S, coded_rate, rate), len(waveform_S))


def _level(corruption: Corruption, waveform_S: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Make the clip louder or softer, in floating point: nothing is clipped."""
    return waveform_S * 10 ** (corruption.value / 20)


def _fitted(waveform_S: Tensor, samples: int) -> Tensor:
    """Cut a clip, or append silence, to a given length."""
    return torch.nn.functional.pad(waveform_S[:samples], (0, max(0, samples - len(waveform_S))))


def _rms(waveform_S: Tensor) -> float:
    return float(waveform_S.double().square().mean().sqrt())


class Kind(NamedTuple):
    """How a kind is written, the values that it takes, and the function that applies it."""

    form: str
    low: float
    high: float
    apply: Callable[[Corruption, Tensor, int, torch.Generator], Tensor]


KINDS = {
    "noise": Kind("noise:{}dB", -30.0, 60.0, _noise),
    "reverb": Kind("reverb:{}s", 0.05, 10.0, _reverb),
    "telephone": Kind("telephone", 0.0, 0.0, _telephone),
    "codec": Kind("codec:{}kbps", *OPUS_KBITS, _codec),
    "level": Kind("level:{}dB", -60.0, 60.0, _level),
}
