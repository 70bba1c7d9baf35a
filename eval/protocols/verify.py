"""Verification as a protocol: do two recordings have the same speaker, by the cosine of their embeddings?

Trials are lines `1 PATH PATH` or `0 PATH PATH`, as in VoxCeleb1's `veri_test.txt` (VoxCeleb1-O). The score is
the equal error rate: the lower, the better. Nothing is trained; SUPERB's speaker verification trains an
x-vector on the encoder and is another protocol.

Shape suffixes: N trials, S draws, U utterances, D features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ajepa.data.tables import TaskError, locate
from ajepa.eval.digest import digest
from ajepa.eval.probe.embeddings import POOLS, TIMES, embed_clips
from ajepa.eval.results.provenance import provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import interval
from ajepa.eval.tasks import Clip
from ajepa.model.embedding import parse_layers

from .base import Bench, Protocol, ProtocolError, TaskEntry
from .probing import check_has_layer

DRAWS, DRAWS_A_PASS = 1_000, 25
MOST_LEFT_OUT = 0.05  # of the draws
TARGET_PRIOR = 0.05  # of the detection cost, as in the VoxCeleb speaker recognition challenges


class Trials(NamedTuple):
    """Trials of a list.

    Attributes:
        utterances: the files, each once.
        first_N, second_N: the two utterances of each trial, as places in `utterances`.
        same_N: whether they have one speaker.
        speaker_N: a number for the first utterance's speaker, which the bootstrap draws.
    """

    utterances: tuple[Path, ...]
    first_N: Tensor
    second_N: Tensor
    same_N: Tensor
    speaker_N: Tensor


def read_trials(path: Path) -> Trials:
    """Read a list of trials; files are relative to its folder, or to `wav/` in it.

    The speaker is the first folder of a name, as in `id10270/x6uYqmx31kE/00001.wav`.

    Raises:
        TaskError: there is no such list, a line has another form, a file is missing, or all trials are alike.
    """
    if not path.is_file():
        raise TaskError(f"{path}: no such list; expected lines `1 speaker/.../a.wav speaker/.../b.wav`")
    root = path.parent / "wav" if (path.parent / "wav").is_dir() else path.parent
    place: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    speakers: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise TaskError(f"{path}, line {number}: {line!r}; expected `1 PATH PATH` or `0 PATH PATH`")
        both = [place.setdefault(name, len(place)) for name in words[1:]]
        speaker = speakers.setdefault(Path(words[1]).parts[0], len(speakers))
        rows.append((*both, int(words[0]), speaker))
    table = torch.tensor(rows).T if rows else torch.empty(4, 0)
    if not 0 < int(table[2].sum()) < table.shape[1]:
        raise TaskError(f"{path}: needs trials of one speaker (1) and of two (0), at least one of each")
    utterances = tuple(locate(root, name) for name in place)
    if missing := [file for file in utterances if not file.is_file()]:
        raise TaskError(
            f"{path}: {len(missing)} of {len(utterances)} files are missing, such as {missing[0]}; "
            "the list must be next to the speakers' folders, or to wav/ with them"
        )
    return Trials(utterances, table[0], table[1], table[2].bool(), table[3])


@dataclass(frozen=True)
class Verify(Protocol):
    """Speaker verification by cosines.

    Attributes:
        layer: "last" (the model's output), a block's number from 1, or several joined such as "2+4+6".
        pool: frequency patches of a time step side by side ("concat") or averaged ("mean").
        time: over time the mean ("mean"), followed by the standard deviation ("mean+std").
        center: subtract the mean over all utterances of the trials from each embedding first. It uses no
            labels, but the test utterances.
    """

    protocol: str = "verify"
    layer: str = "last"
    pool: str = "concat"
    time: str = "mean"
    center: bool | str = "no"

    reads: ClassVar[str] = "verify"
    example: ClassVar[str] = "{verify: voxceleb1/veri_test.txt}"

    def __post_init__(self) -> None:
        if isinstance(self.center, bool):  # YAML's no and yes
            object.__setattr__(self, "center", "yes" if self.center else "no")
        super().__post_init__()
        for name, known in (("pool", POOLS), ("time", TIMES), ("center", ("no", "yes"))):
            if getattr(self, name) not in known:
                raise ProtocolError(f"{name} is {getattr(self, name)!r}; choose {' or '.join(known)}")
        try:
            parse_layers(self.layer, None, "layer")
        except ValueError as error:
            raise ProtocolError(str(error)) from error

    @property
    def embeds(self) -> int:
        """The last layer or all."""
        return 1 if self.layer == "last" else 2

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """Also the list and its files."""
        path = entry.folder(self.reads)
        trials = read_trials(path)
        stats = (f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in trials.utterances)
        return (
            *super().depends_on(entry, task),
            digest([path.read_text(encoding="utf-8")], 32),
            digest(stats, 32),
        )

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Embed, or take what is cached, and score."""
        conditions, path = bench.conditions, entry.folder(self.reads)
        model, trials, started = bench.model(conditions.precision), read_trials(path), time.perf_counter()
        clips = tuple(Clip(file, (file.parts[-3],), "test") for file in trials.utterances)
        embedded = embed_clips(
            model,
            clips,
            entry.name,
            all_layers=self.embeds == 2,
            cache=conditions.cache,
            before=lambda: check_has_layer(model, self.layer),
        )
        try:
            (make,) = embedded.representations(self.layer, self.pool, self.time).values()
        except ValueError as error:
            raise ProtocolError(f"{model.name}: {error}") from error
        features_UD = make().double()
        if self.center == "yes":
            features_UD = features_UD - features_UD.mean(0)
        unit_UD = functional.normalize(features_UD, dim=1)
        cosine_N = (unit_UD[trials.first_N] * unit_UD[trials.second_N]).sum(1)
        draws_S = bootstrap(cosine_N, trials.same_N, trials.speaker_N)
        speakers = int(trials.speaker_N.max()) + 1
        record = Record(
            model=model.name,
            source=model.source,
            task=entry.name,
            protocol=self.protocol,
            protocol_kind=self.protocol,
            metric="EER",
            score=float(equal_error_rate(cosine_N, trials.same_N)),
            interval=interval(draws_S),
            interval_method=f"95 %, bootstrap of {len(draws_S):,} draws over {speakers} first speakers"
            if len(draws_S)
            else f"none: {speakers} first speakers, too few of whom have trials of both kinds",
            layer=self.layer,
            seconds=time.perf_counter() - started,
            weights=embedded.weights,
            clips=len(clips),
            clips_by_split={"test": len(clips)},
            classes=2,
            notes=("the score is the equal error rate: lower is better",),
            task_hash=digest([path.read_text(encoding="utf-8")], 32),
            details={
                "pool": self.pool,
                "time": self.time,
                "center": self.center,
                "trials": len(cosine_N),
                "same": int(trials.same_N.sum()),
                "min_dcf": float(detection_cost(cosine_N, trials.same_N)),
                "features": features_UD.shape[1],
                "precision": model.precision,
                "embeddings_cached": embedded.cached,
            },
            **provenance(torch.device("cpu")),
        )
        return [Result(record, draws_S)]


def _rates(cosine_N: Tensor, same_N: Tensor, weight_SN: Tensor) -> tuple[Tensor, Tensor]:
    """Rates of false rejections and of false acceptances [S, thresholds], from "accept none" to "accept all".

    Trials of equal cosine are accepted together.
    """
    order_N = cosine_N.argsort(descending=True)
    falling_N, same_N = cosine_N[order_N], same_N[order_N]
    last_N = torch.cat([falling_N[1:] != falling_N[:-1], torch.ones(1, dtype=torch.bool)])
    weight_SN = weight_SN[:, order_N].double()
    rates = []
    for kind_N in (same_N, ~same_N):
        counted_SN = (weight_SN * kind_N).cumsum(1)
        accepted_SN = counted_SN[:, last_N] / counted_SN[:, -1:].clamp_min(1e-12)
        rates.append(functional.pad(accepted_SN, (1, 0)))
    return 1 - rates[0], rates[1]


def equal_error_rate(cosine_N: Tensor, same_N: Tensor, weight_SN: Tensor | None = None) -> Tensor:
    """The rate at which false rejections equal false acceptances, [] or for each row of weights [S].

    Between two thresholds both rates are taken to change linearly.
    """
    weights = torch.ones(1, len(cosine_N)) if weight_SN is None else weight_SN
    rejected_ST, accepted_ST = _rates(cosine_N, same_N, weights)
    after_S = (accepted_ST >= rejected_ST).long().argmax(1, keepdim=True).clamp_min(1)
    before = [rate.gather(1, after_S - 1)[:, 0] for rate in (rejected_ST, accepted_ST)]
    after = [rate.gather(1, after_S)[:, 0] for rate in (rejected_ST, accepted_ST)]
    gap_before, gap_after = before[0] - before[1], after[1] - after[0]
    share_S = gap_before / (gap_before + gap_after).clamp_min(1e-12)
    rate_S = before[1] + share_S * (after[1] - before[1])
    return rate_S[0] if weight_SN is None else rate_S


def detection_cost(cosine_N: Tensor, same_N: Tensor, prior: float = TARGET_PRIOR) -> Tensor:
    """The least cost of detection over all thresholds, with equal costs, relative to that without audio."""
    rejected_ST, accepted_ST = _rates(cosine_N, same_N, torch.ones(1, len(cosine_N)))
    return (prior * rejected_ST + (1 - prior) * accepted_ST).min() / min(prior, 1 - prior)


def bootstrap(cosine_N: Tensor, same_N: Tensor, speaker_N: Tensor, seed: int = 0) -> Tensor:
    """Equal error rates in resamples of the speakers of first utterances [S]; models share the draws.

    Resamples without a trial of one kind have no such rate and are left out. Where more than a few are
    (`MOST_LEFT_OUT`), so would be the speakers that decide it: then there are no draws.
    """
    speakers, generator = int(speaker_N.max()) + 1, torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(DRAWS // DRAWS_A_PASS):
        chosen_SG = torch.randint(speakers, (DRAWS_A_PASS, speakers), generator=generator)
        times_SG = torch.zeros(DRAWS_A_PASS, speakers)
        times_SG.scatter_add_(1, chosen_SG, torch.ones_like(times_SG))
        weight_SN = times_SG[:, speaker_N]
        both_S = ((weight_SN * same_N).sum(1) > 0) & ((weight_SN * ~same_N).sum(1) > 0)
        drawn.append(equal_error_rate(cosine_N, same_N, weight_SN)[both_S])
    drawn_S = torch.cat(drawn)
    return drawn_S if len(drawn_S) >= (1 - MOST_LEFT_OUT) * DRAWS else drawn_S[:0]
