"""Copies of clips: the same samples, and the same recording after a codec, in noise, at another level, cut.

Candidates are the nearest clips in two spaces: statistics of a narrow log-mel spectrogram, which survive
codecs and noise, and the encoder's embeddings, which survive cuts better. A candidate is a copy if its
spectrogram and then its wave agree with the other's over at least half of the shorter one; docs/audit.md has
what was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ajepa.audio import AudioError, load
from ajepa.features import LogMel, LogMelConfig
from ajepa.search.cosine import Space, neighbours

from .clips import AuditClip, Finding
from .signal import HEARD_SECONDS, RATE

# Below 3.6 kHz, which every codec and telephone keeps; only the loudest 20 dB, which noise does not reach.
FRONT_END = LogMelConfig(
    sample_rate=RATE, mels=32, window_seconds=0.032, hop_seconds=0.02, low_hz=60.0, high_hz=3600.0
)
RANGE = 20 / 10 * np.log(10)  # of natural logarithms of energy
WAVE_RATE = 8_000
CANDIDATES = 5  # for each clip, in each of the two spaces
LEAST_COSINE = 0.2
# Correlations of a copy: of spectrograms, of waves, and of the waves' differences from sample to sample, in
# which the lowest partial of a tone does not outweigh the others.
LEAST_SPECTROGRAM, LEAST_WAVE, LEAST_DIFFERENCE = 0.8, 0.9, 0.85
FRACTIONS = 4  # of a sample: a copy that was cut elsewhere is not shifted by whole ones
OVERLAP = 0.5  # of the shorter clip, and of the variance of one of the two
HELD_WAVES = 256


class Prints:
    """Narrow spectrograms of clips, one byte a value: 50 kB for a clip of 30 s."""

    def __init__(self) -> None:
        self._front_end = LogMel(FRONT_END)

    @torch.no_grad()
    def of(self, heard_S: Tensor) -> np.ndarray:
        """[L, C] uint8, 255 for the loudest value and 0 for what is RANGE or more below it."""
        energy_LC = self._front_end.fbank(heard_S[None])[0].numpy()
        above_LC = (energy_LC - energy_LC.max()) / RANGE + 1
        return np.rint(above_LC.clip(0, 1) * 255).astype(np.uint8)


def statistics(print_LC: np.ndarray) -> Tensor:
    """Mean and deviation over time of each band, [2 C]."""
    values_LC = print_LC.astype(np.float32) / 255
    return torch.from_numpy(np.concatenate([values_LC.mean(0), values_LC.std(0)]))


def same_samples(digests: Sequence[bytes]) -> dict[int, list[int]]:
    """The clips with the same samples as an earlier one, by the number of the earliest."""
    first: dict[bytes, int] = {}
    copies: dict[int, list[int]] = defaultdict(list)
    for number, digest in enumerate(digests):
        if digest and first.setdefault(digest, number) != number:
            copies[first[digest]].append(number)
    return dict(copies)


def candidates(places: Sequence[int], spaces: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Pairs of clips that may be copies, the lower number first.

    Args:
        places: the number of the clip of each row.
        spaces: vectors of these clips, [N, D] each.
    """
    pairs = set()
    for values_ND in spaces:
        if len(values_ND) < 2:
            continue
        found = neighbours(values_ND, min(CANDIDATES, len(values_ND) - 1), Space.of(values_ND))
        near = (found.scores_QK >= LEAST_COSINE).nonzero()
        for row, place in near.tolist():
            one, other = places[row], places[int(found.rows_QK[row, place])]
            pairs.add((min(one, other), max(one, other)))
    return sorted(pairs)


class Waves:
    """The waves of clips, those used last at hand."""

    def __init__(self, clips: Sequence[AuditClip]) -> None:
        self._clips = clips
        self.of = lru_cache(HELD_WAVES)(self._of)

    def _of(self, number: int) -> np.ndarray:
        """[S, 1]; a clip that has become unreadable is one sample, which is like nothing."""
        clip = self._clips[number]
        seconds = min(HEARD_SECONDS, clip.seconds or HEARD_SECONDS)
        try:
            return load(clip.audio, start=clip.start, seconds=seconds, sample_rate=WAVE_RATE)[:, None].numpy()
        except AudioError:
            return np.zeros((1, 1), np.float32)


def likeness(one: int, other: int, prints: dict[int, np.ndarray], waves: Waves) -> float | None:
    """The correlation of the waves of two clips, if one is a copy of the other."""
    if correlation(prints[one], prints[other]) < LEAST_SPECTROGRAM:
        return None
    wave, other_wave = waves.of(one), waves.of(other)
    found = correlation(wave, other_wave, inverted=True, fractions=FRACTIONS)
    if found < LEAST_WAVE:
        return None
    steps, other_steps = np.diff(wave, axis=0), np.diff(other_wave, axis=0)
    differences = correlation(steps, other_steps, inverted=True, fractions=FRACTIONS)
    return found if differences >= LEAST_DIFFERENCE else None


def correlation(
    one_LC: np.ndarray, other_LC: np.ndarray, inverted: bool = False, fractions: int = 1
) -> float:
    """The highest correlation of two signals over all shifts, each channel's mean over the overlap removed.

    Only shifts count at which at least OVERLAP of the shorter signal is compared, with at least OVERLAP of
    the smaller variance of the two in both parts; -1 if there are none.

    Args:
        one_LC, other_LC: [L, C] with the same C; a wave has one channel.
        inverted: one may be upside down.
        fractions: of a step by which the second one is shifted too; 1 for whole steps alone.
    """
    one, other = (values.astype(np.float64) for values in (one_LC, other_LC))
    one, other = one - one.mean(0), other - other.mean(0)  # for the sums' precision
    first, second = len(one), len(other)
    shifts = np.arange(first + second - 1) - (first - 1)
    size = 1 << (len(shifts) - 1).bit_length()
    spectra = np.fft.rfft(one[::-1], size, axis=0) * np.fft.rfft(other, size, axis=0)
    turns = np.exp(2j * np.pi / size * np.arange(len(spectra)) / fractions)  # a fraction earlier
    turned = spectra.sum(1) * turns ** np.arange(fractions)[:, None]
    products = np.fft.irfft(turned, size)[:, : len(shifts)]  # [fractions, shifts]
    from_one, to_one = np.maximum(0, -shifts), np.minimum(first, second - shifts)
    from_other, to_other = np.maximum(0, shifts), np.minimum(second, first + shifts)
    length = (to_one - from_one)[:, None]
    sums_one, squares_one = _sums(one)
    sums_other, squares_other = _sums(other)
    part_one = sums_one[to_one] - sums_one[from_one]
    part_other = sums_other[to_other] - sums_other[from_other]
    variance_one = squares_one[to_one] - squares_one[from_one] - (part_one**2 / length).sum(1)
    variance_other = squares_other[to_other] - squares_other[from_other] - (part_other**2 / length).sum(1)
    covariance = products - (part_one * part_other / length).sum(1)
    enough = OVERLAP * min(squares_one[-1], squares_other[-1])
    counts = (length[:, 0] >= OVERLAP * min(first, second)) & (enough > 0)
    counts &= (variance_one >= enough) & (variance_other >= enough)
    if not counts.any():
        return -1.0
    found = covariance[:, counts] / np.sqrt(variance_one[counts] * variance_other[counts])
    return float(np.abs(found).max() if inverted else found.max())


def _sums(values_LC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of each channel, and of the squares of all, from the beginning to before each place."""
    sums = np.zeros((len(values_LC) + 1, values_LC.shape[1]))
    np.cumsum(values_LC, axis=0, out=sums[1:])
    squares = np.zeros(len(values_LC) + 1)
    np.cumsum((values_LC**2).sum(1), out=squares[1:])
    return sums, squares


def copy_finding(clips: Sequence[AuditClip], one: int, other: int, likeness: float | None) -> Finding:
    """The later clip as a copy of the earlier one; `likeness` None for the same samples."""
    first, second = clips[one], clips[other]
    leak = bool(first.split and second.split and first.split != second.split)
    notes = ["the same samples"] if likeness is None else [f"waves correlate by {likeness:.3f}"]
    if leak:
        notes.append(f"in {second.split} and {first.split}")
    if first.label != second.label:
        notes.append(f"labels {second.label} and {first.label}")
    kind = "copy" if likeness is None else "near copy"
    value = (1.0 if likeness is None else likeness) + leak + (first.label != second.label)
    return Finding(kind, other, value, "; ".join(notes), other=one, leak=leak)
