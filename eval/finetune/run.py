"""Fine-tuning on every round of a task with every seed, and the resulting record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ajepa.eval.models.open import EncoderModel, Named
from ajepa.eval.results.provenance import about_task, interval_method, provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import Scored, bootstrap, interval, score
from ajepa.eval.tasks import Task
from ajepa.model.fingerprint import fingerprint

from .config import FinetuneConfig
from .targets import Targets
from .training import FinetuneError, Outcome, Waveforms, finetune


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
        FinetuneError: the model is a baseline and has nothing to train, or training diverged.
        AudioError: a clip cannot be decoded.
    """
    if not isinstance(model.module, EncoderModel):
        raise FinetuneError(f"{model.name}: only encoders that ajepa.load_model loads can be fine-tuned")
    encoder, weights = model.module.encoder, fingerprint(model.module)
    waveforms = Waveforms(task.clips, encoder.sample_rate)
    targets = Targets(task)
    scores, draws, outcomes = [], [], []
    for seed in seeds:
        splits = []
        for chosen in task.rounds():
            outcome = finetune(
                encoder,
                task,
                chosen,
                config,
                score=lambda numbers, logits: float(
                    score(torch.from_numpy(logits), _truth(targets, numbers, task.multilabel))
                ),
                seed=seed,
                bf16=bf16,
                waveforms=waveforms,
                report=partial(report, chosen.test, seed),
            )
            outcomes.append((seed, chosen.test, outcome))
            groups = tuple(task.clips[number].group for number in outcome.test)
            logits_BC = torch.from_numpy(outcome.logits)
            target = _truth(targets, outcome.test, task.multilabel)
            splits.append(Scored(chosen.test, logits_BC, target, groups))
            report(chosen.test, seed, {"score": splits[-1].score})
        scores.append({split.split: split.score for split in splits})
        draws.append(bootstrap(splits))
    draws_S = torch.stack(draws).mean(0)
    by_seed = [float(np.mean(list(by_split.values()))) for by_split in scores]
    several = len(by_seed) > 1
    record = Record(
        model=model.name,
        source=model.source,
        task=task.name,
        protocol="finetune",
        protocol_kind="finetune",
        metric=task.metric,
        score=float(np.mean(by_seed)),
        interval=interval(draws_S),
        interval_method=interval_method(task) + (f", the mean of {len(by_seed)} seeds" if several else ""),
        spread=float(np.std(by_seed, ddof=1)) if several else None,
        folds={split: float(np.mean([one[split] for one in scores])) for split in scores[0]},
        seeds=tuple(seeds),
        by_seed=tuple(by_seed),
        chosen=tuple(_chosen(seed, split, outcome) for seed, split, outcome in outcomes),
        seconds=sum(outcome.seconds for _, _, outcome in outcomes),
        clips_per_s=_rate(task, config, [outcome for _, _, outcome in outcomes], len(seeds)),
        weights=weights,  # the weights before fine-tuning
        details={
            "pool": "mean",
            "precision": "bf16" if bf16 else "float32",
            "config": asdict(config),
        },
        **about_task(task),
        **provenance(encoder.device),
    )
    return Result(record, draws_S)


def _truth(targets: Targets, numbers: np.ndarray, multilabel: bool) -> Tensor:
    """The target for `scores.score`: 0 and 1 for each class [B, C], or class numbers [B]."""
    target_BC = targets.dense(numbers)
    return target_BC if multilabel else target_BC.argmax(1)


def _chosen(seed: int, split: str, outcome: Outcome) -> dict[str, Any]:
    last = outcome.history[outcome.epoch - 1]
    return {
        "seed": seed,
        "split": split,
        "epoch": outcome.epoch,
        "loss": last["loss"],
        "valid": last.get("valid"),
    }


def _rate(task: Task, config: FinetuneConfig, outcomes: Sequence[Outcome], seeds: int) -> float:
    """Clips trained on per second, with the time for evaluation included."""
    counts = task.counts
    trained = sum(
        config.clips_an_epoch(sum(counts[split] for split in chosen.train)) for chosen in task.rounds()
    )
    return seeds * config.epochs * trained / sum(outcome.seconds for outcome in outcomes)
