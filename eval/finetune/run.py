"""Fine-tuning on every round of a task with every seed, and the resulting record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ajepa.eval.models.open import EncoderModel, FrameModel, Named
from ajepa.eval.results.kept import answers_of
from ajepa.eval.results.provenance import about_task, provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import summary
from ajepa.eval.tasks import Task
from ajepa.model.fingerprint import fingerprint

from .config import FinetuneConfig
from .foreign import UNUSED
from .training import FinetuneError, Waveforms, finetune


def finetune_model(
    model: Named,
    task: Task,
    config: FinetuneConfig,
    *,
    seeds: Sequence[int] = (0,),
    bf16: bool = False,
    report: Callable[[str, int, dict[str, float]], Any] = lambda split, seed, line: None,
) -> Result:
    """Fine-tune a model for every round of a task and every seed.

    The score is averaged over the test splits, then over the seeds. Its interval is a bootstrap over clips,
    with the same draws for all seeds.

    Args:
        report: called with the test split, the seed and a line of the history after each epoch; last, with
            the score.

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
    for seed in seeds:
        splits = []
        for one in task.rounds():
            outcome = finetune(
                encoder,
                task,
                one,
                config,
                seed=seed,
                bf16=bf16,
                waveforms=waveforms,
                report=partial(report, one.test, seed),
            )
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
    return Result(record, draws_S, answers=answers_of(task, runs, seeds=seeds))
