"""Fine-tuning on every round of a task with every seed, and the resulting record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from ajepa.eval.models.open import EncoderModel, FrameModel, Named
from ajepa.eval.results.kept import answers_of
from ajepa.eval.results.provenance import about_task, provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import Scored, joined_folds, summary
from ajepa.eval.tasks import Round, Task
from ajepa.model.fingerprint import fingerprint

from .classifier import Classifier
from .config import FinetuneConfig
from .foreign import UNUSED, ForeignClassifier
from .training import FinetuneError, Outcome, Waveforms, finetune


class Kept(NamedTuple):
    """The network that is kept, of the first seed.

    Without folds it is the one that is tested. With folds, each test fold has a network of its own; the kept
    one is trained on all folds.

    Attributes:
        splits: that it is trained on.
        held_out: clips scored by networks that were not trained on them: the validation split, or all folds;
            None: there are no such clips.
        tested: the test splits as they were scored.
    """

    network: Classifier | ForeignClassifier
    splits: frozenset[str]
    held_out: Scored | None
    tested: list[Scored]


def finetune_model(
    model: Named,
    task: Task,
    config: FinetuneConfig,
    *,
    seeds: Sequence[int] = (0,),
    bf16: bool = False,
    report: Callable[[str, int, dict[str, float]], Any] = lambda split, seed, line: None,
    keep: Callable[[Result, Kept], None] | None = None,
) -> Result:
    """Fine-tune a model for every round of a task and every seed.

    The score is averaged over the test splits, then over the seeds. Its interval is a bootstrap over clips,
    with the same draws for all seeds.

    Args:
        report: called with the test split, the seed and a line of the history after each epoch; last, with
            the score.
        keep: called with the result and the network. With folds that takes one more training.

    Raises:
        FinetuneError: the model has nothing to train, or training diverged.
        AudioError: a clip cannot be decoded.
    """
    module = model.module
    if not (isinstance(module, FrameModel) and module.trainable):
        raise FinetuneError(f"{model.name}: has no weights to train; fine-tune an encoder that does")
    encoder = module.encoder if isinstance(module, EncoderModel) else module
    weights = fingerprint(module)
    waveforms = Waveforms(task.clips, encoder.sample_rate)
    runs, chosen, seconds = [], [], 0.0
    kept: Outcome | None = None

    def trained_on(one: Round, seed: int) -> Outcome:
        return finetune(
            encoder,
            task,
            one,
            config,
            seed=seed,
            bf16=bf16,
            waveforms=waveforms,
            report=partial(report, one.test or "all folds", seed),
        )

    for seed in seeds:
        splits = []
        for one in task.rounds():
            outcome = trained_on(one, seed)
            if keep is not None and not task.folds and seed == seeds[0]:
                kept = outcome
            splits.append(outcome.test)
            report(one.test, seed, {"score": outcome.test.score})
            last = outcome.history[outcome.epoch - 1]
            choice = {"seed": seed, "split": one.test, "epoch": outcome.epoch}
            chosen.append(choice | {"loss": last["loss"], "valid": last.get("valid")})
            seconds += outcome.seconds
        runs.append(splits)
    trained = sum(
        config.clips_an_epoch(sum(task.counts[split] for split in one.train)) for one in task.rounds()
    )
    fields, draws_S = summary(runs)
    record = Record(
        model=model.name,
        source=model.source,
        task=task.name,
        protocol="finetune",
        protocol_kind="finetune",
        metric=task.metric,
        seeds=tuple(seeds),
        chosen=tuple(chosen),
        seconds=seconds,
        clips_per_s=len(seeds) * config.epochs * trained / seconds,  # trained on, with evaluation's time
        weights=weights,  # the weights before fine-tuning
        details={
            "pool": "mean",
            "precision": "bf16" if bf16 else "float32",
            "config": asdict(config),
            # An encoder of other people takes waveforms, to which these settings do not apply.
            **({} if isinstance(module, EncoderModel) else {"unused": list(UNUSED)}),
        },
        **fields,
        **about_task(task),
        **provenance(encoder.device),
    )
    result = Result(record, draws_S, answers=answers_of(task, runs, seeds=seeds))
    if keep is not None:
        every = frozenset(task.counts)
        kept = kept or trained_on(Round("", every, ()), seeds[0])
        held_out = joined_folds(runs[0]) if task.folds else kept.valid
        keep(result, Kept(kept.network, every if task.folds else task.rounds()[0].train, held_out, runs[0]))
    return result
