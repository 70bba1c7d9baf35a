"""Events as a protocol: a linear layer on frozen frames says which sounds begin when.

Recordings and their events are the clips of a task: the parts of one file are its events, and a whole file
without a label is a recording without any. The layer is fitted to the frames of the training recordings, its
penalty is chosen by the loss on the frames of the validation recordings, and the threshold, median filter
and shortest event by their onset F-measure. The HEAR toolkit's own training of events is the protocol hear.

Shape suffixes: R recordings, C classes, S draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ajepa.eval.probe.embeddings import POOLS
from ajepa.eval.probe.event_probe import EventProbe, recordings_of
from ajepa.eval.probe.events import f_measure
from ajepa.eval.probe.frames import embed_recordings, with_timed_frames
from ajepa.eval.results.provenance import about_task, provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import deviation, interval, mean, mean_of_splits, resampling
from ajepa.eval.tasks import Clip
from ajepa.eval.toolkits.commands import versions
from ajepa.model.embedding import parse_layers

from .base import Bench, Protocol, ProtocolError, TaskEntry

DRAWS = 1_000


@dataclass(frozen=True)
class Events(Protocol):
    """A linear layer on frames.

    Attributes:
        layer: "last" (the model's output), a block's number from 1, or several joined such as "2+4+6".
        pool: frequency patches of a time step side by side ("concat") or averaged ("mean").
        collar: how far the onset of a found event may be from that of a true one, in seconds; 0.2 as in
            HEAR's task of DCASE 2016, 0.05 as in its task of MAESTRO.
    """

    protocol: str = "events"
    layer: str = "last"
    pool: str = "concat"
    collar: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(pool=POOLS)
        try:
            parse_layers(self.layer, None, "layer")
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if not self.collar > 0:
            raise ProtocolError(f"collar is {self.collar}; give seconds above 0")

    def can_score(self, module: nn.Module) -> bool:
        """Whether it gives frames."""
        return with_timed_frames(module) is not None

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """Also the version of sed_eval."""
        found = versions("sed_eval")["sed_eval"]
        if found == "not installed":
            raise ProtocolError("events are scored by sed_eval: pip install 'ajepa[events]'")
        return (*super().depends_on(entry, task), found)

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Embed, or take what is cached, fit and score."""
        model, task = bench.model(bench.conditions.precision), bench.task(entry)
        recordings = recordings_of(task)
        clips = tuple(recording.clip for recording in recordings)
        frames = embed_recordings(
            model, clips, task.name, layer=self.layer, pool=self.pool, cache=bench.conditions.cache
        )
        for recording, seconds in zip(recordings, frames.seconds_R.tolist(), strict=True):
            if late := [event.onset for event in recording.events if event.onset >= seconds]:
                raise ProtocolError(
                    f"{recording.clip.name}: ends at {seconds:.2f} s, but an event of it begins at "
                    f"{late[0]:.2f} s; correct the labels"
                )
        started = time.perf_counter()
        probe = EventProbe(task, recordings, frames, self.collar)
        fitted = [probe.run(one) for one in task.rounds()]
        draws_S = bootstrap([(one.scores.onset_R3, [clips[row] for row in one.rows]) for one in fitted])
        how = resampling(
            [len({_unit(clips[row]) for row in one.rows}) for one in fitted],
            "groups of recordings" if _grouped(clips) else "recordings",
        )
        folds = {one.test: _f(part.scores.onset_R3) for one, part in zip(task.rounds(), fitted, strict=True)}
        hits, true, found = torch.cat([one.scores.onset_R3 for one in fitted]).sum(0).tolist()
        by_class_C3 = torch.stack([one.scores.by_class_C3 for one in fitted]).sum(0).tolist()
        splits = {split: sum(clip.split == split for clip in clips) for split in sorted(task.counts)}
        record = Record(
            model=model.name,
            source=model.source,
            task=task.name,
            protocol=self.protocol,
            protocol_kind=self.protocol,
            metric="onset F",
            score=mean(list(folds.values())),
            interval=interval(draws_S),
            interval_method=f"95 %, bootstrap of {DRAWS:,} draws over {how}" if len(draws_S) else how,
            spread=deviation(list(folds.values())),
            folds=folds,
            chosen=tuple(one.chosen for one in fitted),
            layer=self.layer,
            seconds=time.perf_counter() - started,
            clips_per_s=len(clips) / frames.seconds,
            weights=frames.weights,
            details={
                "collar": self.collar,
                "pool": self.pool,
                "precision": model.precision,
                "events": sum(len(recording.events) for recording in recordings),
                "frames": len(frames.values_LD),
                "step_seconds": frames.step_seconds,
                "features": frames.values_LD.shape[1],
                "segment_f": _f(torch.cat([one.scores.segment_R3 for one in fitted])),
                "onset_precision": hits / found if found else 0.0,
                "onset_recall": hits / true if true else 0.0,
                "onset_f_by_label": {
                    label: f_measure(*counts)
                    for label, counts in zip(task.classes, by_class_C3, strict=True)
                    if counts[1]
                },
                "embed_seconds": frames.seconds,
                "embeddings_cached": frames.cached,
            },
            **about_task(task) | {"clips": len(clips), "clips_by_split": splits},
            **_versions(),
        )
        return [Result(record, draws_S)]


def bootstrap(splits: Sequence[tuple[Tensor, Sequence[Clip]]], seed: int = 0) -> Tensor:
    """Onset F-measures, averaged over the test splits, in resamples of their recordings' groups [S].

    Args:
        splits: for each test split the counts [R, 3] of its recordings, and the recordings.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn, groups = [], []
    for counts_R3, clips in splits:
        names = [_unit(clip) for clip in clips]
        number = {name: index for index, name in enumerate(dict.fromkeys(names))}
        group_R = torch.tensor([number[name] for name in names])
        counts_G3 = torch.zeros(len(number), 3, dtype=torch.float64).index_add_(0, group_R, counts_R3)
        drawn_SG = torch.randint(len(number), (DRAWS, len(number)), generator=generator)
        hits_S, true_S, found_S = counts_G3[drawn_SG].sum(1).unbind(1)
        events_S = true_S + found_S
        drawn.append(torch.where(events_S > 0, 2 * hits_S / events_S.clamp_min(1), torch.ones_like(events_S)))
        groups.append(len(number))
    return mean_of_splits(torch.stack(drawn), groups, generator)


def _f(counts_R3: Tensor) -> float:
    return f_measure(*counts_R3.sum(0).tolist())


def _grouped(clips: Sequence[Clip]) -> bool:
    """Whether some group has several recordings."""
    return len({_unit(clip) for clip in clips}) < len(clips)


def _unit(clip: Clip) -> str:
    """What is drawn: its group, or the recording itself."""
    return clip.group or clip.name


def _versions() -> dict[str, Any]:
    about = provenance(torch.device("cpu"))  # the probe's; embedding may have run elsewhere
    return about | {"versions": about["versions"] | versions("sed_eval")}
