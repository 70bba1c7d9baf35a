"""Probes on frozen features as protocols: a linear probe and nearest neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ajepa.eval.classifiers.folder import save_classifier
from ajepa.eval.classifiers.made import of_probe
from ajepa.eval.models.open import Named
from ajepa.eval.probe.embeddings import (
    CHOSEN,
    POOLS,
    TIMES,
    Embedded,
    check_layer,
    count_layers,
    embed_task,
)
from ajepa.eval.probe.final import FinalProbe, final_probe
from ajepa.eval.probe.probes import BALANCED, PROBES, Probe
from ajepa.eval.probe.selection import describe, run_probe
from ajepa.eval.results.kept import answers_of, features_of
from ajepa.eval.results.provenance import about_task, provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import Scored, bootstrap, deviation, mean, summary
from ajepa.eval.robustness.corruptions import Corruption, find_noises, parse
from ajepa.eval.robustness.curve import robustness
from ajepa.eval.tasks import Task
from ajepa.model.embedding import LAST

from .base import Bench, Protocol, ProtocolError, TaskEntry

CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class Probing(Protocol):
    """How models are probed.

    Attributes:
        protocol: "linear" or "knn".
        layer: "last" (the model's output: its last layer, or the blocks that an exported encoder joins), a
            block's number from 1, several joined such as "2+4+6", "best" on validation of the blocks and the
            output, "each" (a record for each of them), or "weighted": a sum of the blocks and the normed
            last one, with weights that are learned with the linear probe.
        pool: "concat" joins the frequency patches of a time step, "mean" averages them, "best" takes the
            better of the two on validation.
        time: "mean" over time, "mean+std" (with the standard deviation), or "best" on validation. `logmel`
            always has both.
        corrupt: corruptions with which the test clips are scored again, such as noise:10dB or standard. The
            probe is trained and chosen on clean clips. See `ajepa.eval.robustness.corruptions.parse`.
        noise: folder of recordings that noise is cut from; empty for synthetic noise.
        class_weight: in the linear probe, all clips ("none") or all classes ("balanced") have equal weight.
            The samplers of s3prl's keyword spotting balance the classes.
    """

    protocol: str = "linear"
    layer: str = "last"
    pool: str = "concat"
    time: str = "mean"
    class_weight: str = "none"
    corrupt: tuple[str, ...] = ()
    noise: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(
            protocol=tuple(PROBES), class_weight=CLASS_WEIGHTS, pool=(*POOLS, "best"), time=(*TIMES, "best")
        )
        if self.layer == "weighted" and self.protocol != "linear":
            raise ProtocolError(
                f"weights of layers are learned with a linear probe, not with {self.protocol}"
            )
        if self.class_weight == "balanced" and self.protocol != "linear":
            raise ProtocolError(f"classes are balanced in a linear probe, not with {self.protocol}")
        given = (self.corrupt,) if isinstance(self.corrupt, str) else self.corrupt
        if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) for text in given):
            raise ProtocolError(f"corrupt is {self.corrupt!r}; give a list such as [noise:10dB, telephone]")
        given = tuple(given)
        object.__setattr__(self, "corrupt", given)
        if self.noise and not any(text == "standard" or text.startswith("noise") for text in given):
            raise ProtocolError(f"noise is {self.noise!r}, but corrupt asks for none; add noise:10dB to it")
        for text in given:
            parse(text)
        try:
            check_layer(self.layer)
        except ValueError as error:
            raise ProtocolError(str(error)) from error

    def corruptions(self) -> list[Corruption]:
        """The corruptions, each once. Raises CorruptionError if the folder of noises has no audio."""
        noises = find_noises(self.noise) if self.noise else ()
        return list({str(one): one for text in self.corrupt for one in parse(text, noises)}.values())

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """Also the corruptions and their noise files."""
        # "drawn": cells of corrupted clips once kept no draws of them, and are not read again.
        return (*super().depends_on(entry, task), *(("drawn", one.key) for one in self.corruptions()))

    @property
    def embeds(self) -> int:
        """The last layer, or all."""
        return 1 if self.layer == "last" else 2

    def probe(self, task: Task) -> Probe:
        """The probe for a task. Raises ProtocolError for balanced classes if clips have several labels."""
        if self.class_weight == "none":
            return PROBES[self.protocol]
        if task.multilabel:
            raise ProtocolError(f"{task.name}: clips have several labels; balanced classes need one a clip")
        return BALANCED

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Embed the clips, or read the cache, and probe."""
        conditions, task = bench.conditions, bench.task(entry)
        model = bench.model(conditions.precision)
        if conditions.save is None:
            return list(probe_model(model, task, self, conditions.cache))
        folder_to_save = conditions.save

        def save(result: Result, final: FinalProbe, tested: Sequence[Scored], shape: torch.Size) -> None:
            made = of_probe(bench.model(), task, result.record, final, tested, shape)
            save_classifier(made, folder_to_save)

        return list(probe_model(model, task, self, conditions.cache, save))


def check_has_layer(model: Named, layer: str) -> None:
    """Raises ProtocolError if a model has no such layer: before its hours, not after."""
    if layer not in (LAST, *CHOSEN):
        try:
            check_layer(layer, count_layers(model))
        except ValueError as error:
            raise ProtocolError(f"{model.name}: {error}") from error


def probe_model(
    model: Named,
    task: Task,
    how: Probing,
    cache: str | Path | None = None,
    keep: Callable[[Result, FinalProbe, Sequence[Scored], torch.Size], None] | None = None,
) -> Iterator[Result]:
    """The result of one model; with `layer="each"`, one for each layer.

    Args:
        keep: called with each result, its probe, the scored test splits, and the shape of the embeddings.

    Raises:
        ProtocolError: there is no such layer.
        AudioError: a clip cannot be decoded.
        EmbeddingError: an embedding is not finite.
    """
    embedded = embed_task(
        model,
        task,
        all_layers=how.layer != "last",
        cache=cache,
        before=lambda: check_has_layer(model, how.layer),
    )
    corrupted = {
        one: embed_task(model, task, all_layers=how.layer != "last", cache=cache, corruption=one)
        for one in how.corruptions()
    }
    layers = [how.layer]
    if how.layer == "each":
        layers = [*(str(number) for number in range(1, embedded.values.shape[1])), "last"]
    for layer in layers:
        yield _probe(model, task, embedded, corrupted, layer, how, keep)


def _probe(
    model: Named,
    task: Task,
    embedded: Embedded,
    corrupted: Mapping[Corruption, Embedded],
    layer: str,
    how: Probing,
    keep: Callable[[Result, FinalProbe, Sequence[Scored], torch.Size], None] | None,
) -> Result:
    probe, started = how.probe(task), time.perf_counter()
    try:
        representations = embedded.representations(layer, how.pool, how.time)
    except ValueError as error:
        raise ProtocolError(f"{model.name}: {error}") from error
    heard = {str(one): others.representations(layer, how.pool, how.time) for one, others in corrupted.items()}
    outcome = run_probe(representations, task, probe, heard)
    seconds = time.perf_counter() - started
    fields, draws_S = summary([outcome.splits])
    # One clip is enough to find the width; the representations of all clips take gigabytes.
    one = embedded._replace(values=embedded.values[:1]).representations(layer, how.pool, how.time)
    chosen = describe(outcome.choices, task.rounds(), probe)
    for choice, weights in zip(chosen, outcome.layer_weights, strict=True):
        if weights:
            # From the first block to the last one, then the normed output of the last one.
            choice["layer_weights"] = weights
    drawn = [bootstrap(splits) for splits in outcome.corrupted.values()]
    drawn_XS = torch.stack(drawn) if drawn else torch.empty(0)
    scores = [mean([split.score for split in splits]) for splits in outcome.corrupted.values()]
    curve, area = robustness(list(outcome.corrupted), scores, drawn_XS, fields["score"], draws_S)
    record = Record(
        model=model.name,
        source=model.source,
        task=task.name,
        protocol=how.protocol,
        protocol_kind=how.protocol,
        metric=task.metric,
        chosen=chosen,
        layer=layer,
        seconds=seconds,
        clips_per_s=len(task.clips) / embedded.seconds,
        weights=embedded.weights,
        corrupted=curve,
        noise_area=area,
        details={
            "pool": how.pool,
            "time": how.time,
            "class_weight": how.class_weight,
            "precision": model.precision,
            "features": next(iter(one.values()))().shape[-1],
            "embed_seconds": embedded.seconds,
            "embeddings_cached": embedded.cached,
            **({"noise": how.noise or "synthetic"} if any(one.kind == "noise" for one in corrupted) else {}),
        },
        **fields | {"by_seed": (), "spread": deviation(list(fields["folds"].values()))},
        **about_task(task),
        **provenance(torch.device("cpu")),  # the probe's; embedding may have run elsewhere
    )
    answers = answers_of(task, [outcome.splits], layer=layer)
    # Of all layers' probes the last one's map is enough.
    features = None
    if how.layer != "each" or layer == "last":
        probed = representations[outcome.choices[0].representation]()
        features = features_of(task, probed if probed.ndim == 2 else probed.mean(1))
    result = Result(record, draws_S, drawn_XS, answers, features)
    if keep is not None:
        final = final_probe(representations, task, probe, outcome)
        keep(result, final, outcome.splits, embedded.values.shape)
    return result
