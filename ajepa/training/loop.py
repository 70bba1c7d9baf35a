"""The pre-training loop: read it from top to bottom.

A run's folder holds
    recipe.yaml          the full recipe, which `ajepa pretrain` reads again
    run.json             versions, git commit, data fingerprint, hardware; one entry for each start
    metrics.jsonl        one JSON line every `log_every` steps, and where gauges or the probe are due;
                         tensorboard/ has the same
    broken.txt           files that could not be used, with the reason (with --skip-broken)
    checkpoints/         step-00000500.safetensors, ...: everything that resuming needs
    encoder.safetensors  the finished encoder with its front end, for `ajepa.load_model`; the other of
                         A-JEPA's two encoders is encoder-context.safetensors
    best.safetensors     the encoder of the best online probe, where one was asked for
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ajepa.audio import AudioError
from ajepa.audio.errors import REMOVE
from ajepa.checkpoints.layout import checkpoint_path
from ajepa.data.clips import say_left_out
from ajepa.data.lengths import TrainingSet
from ajepa.distributed import sum_over_ranks
from ajepa.nn.encoder import parameter_count
from ajepa.recipes import Recipe

from .devices import make_fabric
from .folder import claimed, finished_run
from .guard import FiniteGuard, TrainingError, lost_peers, signals
from .health import CollapseWatch
from .metrics import MetricsLog
from .optimiser import set_schedules
from .prepare import check_shared_memory, prepare, record_start
from .run import Run
from .state import (
    BestEncoder,
    check_space,
    export_encoders,
    first_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)
from .step import batches, clip_gradients, gauges, gradients, mean_metrics

__all__ = ["TrainingError", "pretrain"]


def pretrain(recipe: Recipe, untrained: bool = False) -> Path:
    """Pre-train as the recipe says; a run that was interrupted continues from its last checkpoint.

    Args:
        untrained: stop before the first step, with the run's random weights.

    Returns:
        The finished encoder's file; with `untrained` the first checkpoint.

    Raises:
        RecipeError: the recipe lacks what a run needs, the folder holds a run of another recipe or on other
            data, or another process trains in it.
        AudioError: no audio is found, or a file cannot be used and `data.skip_broken` is off.
        DataError: a manifest or the index of shards cannot be used or fetched.
        TrainingError: a loss or a gradient is not finite, or another process of the run has ended.
    """
    training_set, recipe, info = prepare(recipe)
    out = Path(recipe.run.out)
    finished = finished_run(recipe)
    if finished and not untrained:
        return finished

    fabric = make_fabric(recipe.run)
    fabric.launch()
    with lost_peers(), claimed(fabric, recipe, info) as last:
        if untrained and (last or finished):
            return first_checkpoint(out)
        run = Run.set_up(fabric, recipe, info, last)
        log, best = _begin(run, training_set, begins=last is None)
        if untrained:
            log.close()
            fabric.barrier()
            return checkpoint_path(out, 0)
        return _train(run, training_set, log, best)


def _begin(run: Run, training_set: TrainingSet, *, begins: bool) -> tuple[MetricsLog, BestEncoder]:
    """Record this start; where a run begins, also its random weights and what they score."""
    recipe, optim = run.recipe, run.recipe.optim
    if run.first_process:
        say_left_out(training_set.clips, recipe.data.source)
        check_space(run.objective, recipe)
        check_shared_memory(recipe, run.fabric.world_size // recipe.run.nodes)
        record_start(recipe, run.info, run.device, run.start, begins=begins)
        print(
            f"{recipe.name}: {parameter_count(run.objective.encoder) / 1e6:.1f} M encoder parameters, "
            f"{counted(training_set)}, steps {run.start} to {optim.steps} of {optim.batch_size} clips each, "
            f"on {run.fabric.world_size} x {run.device.type}{', compiled' if run.compiled else ''}",
            file=sys.stderr,
        )
    log = MetricsLog(recipe.run, run.start, run.first_process, recipe.as_dict())
    best = BestEncoder(run.out, recipe.run.probe)
    if begins:
        if run.first_score is not None:
            log.write(0, {"probe": run.first_score})
            best.offer(run.first_score, run, 0)
        # Last: if this start is interrupted earlier, there is no checkpoint and the next one begins the run.
        write_checkpoint(run, 0)
    return log, best


def counted(training_set: TrainingSet) -> str:
    """Clips, and where that is another number the crops of an epoch."""
    clips, draws = len(training_set.clips), training_set.draws
    return f"{clips} clips" if clips == draws else f"{clips} clips, {draws} crops an epoch"


def _train(run: Run, training_set: TrainingSet, log: MetricsLog, best: BestEncoder) -> Path:
    """All steps from `run.start` on; returns the finished encoder's file."""
    fabric, optim = run.fabric, run.recipe.optim
    watch, guard = CollapseWatch(log.history, run.recipe.objective), FiniteGuard()
    quiet = None if run.first_process else True  # None: a bar only on a terminal
    bar = tqdm(total=optim.steps, initial=run.start, unit="step", disable=quiet)
    waiting_since = time.perf_counter()
    with signals() as stop:
        for step, batch in enumerate(batches(run, training_set), start=run.start):
            waited = time.perf_counter() - waiting_since
            if batch.failure:
                bar.close()
                raise _unusable(run, step, batch.failure)
            rate = set_schedules(run.stepper, optim, step)
            losses, spectrogram_BLC = gradients(run, batch, step)
            norm = clip_gradients(run)
            value = torch.stack([loss.value.detach() for loss in losses]).sum()
            # Before the optimiser's step: once in the weights, a NaN would be in every later checkpoint.
            guard.note(step, value, norm, batch.files)
            run.stepper.step()
            run.stepper.zero_grad(set_to_none=True)
            followed = run.objective.after_step(step)

            done = step + 1
            due = due_after(done, run.recipe)
            log.count(len(batch.files) * fabric.world_size, waited, batch.broken)
            if due.line:
                metrics: dict[str, Any] = {"loss": sum_over_ranks(value), "lr": rate, "grad_norm": norm}
                metrics |= mean_metrics(losses, fabric.world_size) | followed
                if due.gauges:
                    metrics |= gauges(run, spectrogram_BLC, losses[-1])
                if due.probe:
                    metrics["probe"] = run.score()
                record = log.write(done, metrics)
                for warning in watch.look(record) if run.first_process else ():
                    bar.write(warning, file=sys.stderr)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {record['clips_per_s']:.0f} clips/s")
                if due.probe:
                    guard.settle()
                    best.offer(record["probe"], run, done)
            bar.update()
            stopping = stop.agreed(run.device, due.line) and done < optim.steps
            if due.checkpoint or stopping:
                guard.settle()
                path = write_checkpoint(run, done)
                if run.first_process:
                    prune_checkpoints(run.recipe)
                    if bar.disable:  # not on a terminal: a line for each checkpoint
                        print(f"step {done} of {optim.steps}: {path}", file=sys.stderr)
            if stopping:
                bar.close()
                log.close()
                fabric.barrier()  # a process that ends ends the others too: the checkpoint first
                raise KeyboardInterrupt(f"stopped after step {done}; the same command goes on from {path}")
            waiting_since = time.perf_counter()
    bar.close()
    log.close()
    finished = export_encoders(run, optim.steps)
    fabric.barrier()
    return finished


def _unusable(run: Run, step: int, failure: str) -> AudioError:
    """The error of a file that cannot be used; what has been learnt before it is kept.

    Before the first regular checkpoint it is little, and the run may be begun again without the file. A
    process alone among others cannot write a checkpoint: there the last one is what is left.
    """
    if run.start == 0 and step < run.recipe.run.checkpoint_every:
        return AudioError(failure)
    place = "the last checkpoint"
    if run.fabric.world_size == 1:
        place = f"step {step}"
        if step > run.start:
            write_checkpoint(run, step)
    problem = failure.removesuffix(f"; {REMOVE}")
    return AudioError(
        f"{problem}; repair the file, or go on from {place} by the same command with --skip-broken (removing "
        "the file would make it another set)"
    )


class Due(NamedTuple):
    """What follows a step; gauges and scores always come with a line of metrics.jsonl."""

    line: bool
    gauges: bool  # those that take time
    probe: bool
    checkpoint: bool


def due_after(done: int, recipe: Recipe) -> Due:
    """What is due once `done` steps are done; everything after the last."""
    run, at_end = recipe.run, done == recipe.optim.steps
    gauges_due = at_end or done % run.health_every == 0
    probe_due = bool(run.probe.table) and (at_end or done % run.probe.every == 0)
    return Due(
        line=gauges_due or probe_due or done % run.log_every == 0,
        gauges=gauges_due,
        probe=probe_due,
        checkpoint=at_end or done == recipe.optim.decay_start or done % run.checkpoint_every == 0,
    )
