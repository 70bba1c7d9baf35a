"""The audit of a set of clips: one pass over the audio, then comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ajepa.audio import resample
from ajepa.data.threads import in_order
from ajepa.model import AudioEncoder

from .clips import KINDS, AuditClip, Finding
from .copies import Prints, Waves, candidates, copy_finding, likeness, same_samples, statistics
from .labels import groups_of, suspects
from .signal import QUIET, RATE, measure, signal_findings

HELD = 16  # clips that wait to be embedded together with those of about their length

# What is done, and how many of how many.
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        clips: all that were looked at.
        findings: by kind in the order of KINDS, the worst of a kind first.
        seconds: of audio.
    """

    clips: Sequence[AuditClip]
    findings: list[Finding]
    seconds: float


@dataclass
class _Heard:
    """What the pass over the audio leaves of each clip, by number; of silent and broken ones the digest."""

    digests: list[bytes] = field(default_factory=list)
    prints: dict[int, np.ndarray] = field(default_factory=dict)
    embedded: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def audit(
    clips: Sequence[AuditClip],
    model: AudioEncoder | None,
    *,
    workers: int = 2,
    progress: Progress = lambda what, done, total: None,
) -> Audit:
    """Look at clips.

    Args:
        model: the encoder by which copies that were cut are found, and labels that look wrong; None finds
            neither.
        workers: threads that decode.
    """
    heard = _Heard()
    findings = list(_listen(clips, model, workers, heard, progress))
    same = same_samples(heard.digests)
    pairs = [(first, copy) for first, copies in same.items() for copy in copies]
    findings += [copy_finding(clips, first, copy, None) for first, copy in pairs]
    again = {copy for _, copy in pairs}
    near: dict[int, Finding] = {}
    for one, other, correlation in _near(clips, heard, again, progress):
        pairs.append((one, other))
        found = copy_finding(clips, one, other, correlation)
        if other not in near or near[other].value < found.value:  # of eight copies, seven are reported
            near[other] = found
    findings += near.values()
    findings += _labels(clips, heard, pairs)
    order = {kind: place for place, kind in enumerate(KINDS)}
    findings.sort(key=lambda one: (order[one.kind], -one.value, one.clip))
    return Audit(clips, findings, heard.seconds)


def _listen(
    clips: Sequence[AuditClip], model: AudioEncoder | None, workers: int, heard: _Heard, progress: Progress
) -> Iterator[Finding]:
    """The pass over the audio: what is wrong with each clip by itself, and what the comparisons need."""
    prints = Prints()
    waiting: dict[int, Tensor] = {}
    with closing(in_order(measure, clips, workers)) as measured:
        for number, one in enumerate(measured):
            yield from signal_findings(number, one)
            heard.seconds += one.seconds
            heard.digests.append(one.digest)
            if one.peak >= QUIET:  # silence is like all other silence
                heard.prints[number] = prints.of(one.heard_S)
                if model is not None:
                    waiting[number] = one.heard_S
            if model is not None and (len(waiting) == HELD or number + 1 == len(clips)):
                heard.embedded.update(_embedded(model, waiting))
                waiting = {}
            progress("clips", number + 1, len(clips))


@torch.inference_mode()
def _embedded(model: AudioEncoder, waiting: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
    device = next(model.parameters()).device
    waveforms = {number: resample(heard_S, RATE, model.sample_rate) for number, heard_S in waiting.items()}
    order = sorted(waveforms, key=lambda number: len(waveforms[number]))
    while order:
        longest = 2 * len(waveforms[order[0]])  # little padding
        together = [number for number in order if len(waveforms[number]) <= longest]
        order = order[len(together) :]
        lengths = [len(waveforms[number]) for number in together]
        padded_BS = pad_sequence([waveforms[number] for number in together], batch_first=True)
        yield from zip(together, model(padded_BS.to(device), lengths).clip.float().cpu(), strict=True)


def _near(
    clips: Sequence[AuditClip], heard: _Heard, again: set[int], progress: Progress
) -> Iterator[tuple[int, int, float]]:
    """Pairs of near copies; of clips with the same samples only the first is compared."""
    places = [number for number in heard.prints if number not in again]
    spaces = [[statistics(heard.prints[place]) for place in places]]
    if heard.embedded:
        spaces.append([heard.embedded[place] for place in places])
    pairs = candidates(places, [torch.stack(rows) for rows in spaces if rows])
    waves = Waves(clips)
    for done, (one, other) in enumerate(pairs, start=1):
        if (found := likeness(one, other, heard.prints, waves)) is not None:
            yield one, other, found
        progress("pairs", done, len(pairs))


def _labels(clips: Sequence[AuditClip], heard: _Heard, pairs: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    places = [number for number in heard.embedded if clips[number].label]
    if places:
        groups = groups_of(clips, pairs)
        values_ND = torch.stack([heard.embedded[place] for place in places])
        yield from suspects(clips, places, values_ND, [groups[place] for place in places])
