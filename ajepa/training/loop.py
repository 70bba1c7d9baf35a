"""The pre-training loop: read it from top to bottom.

A run's folder holds
    recipe.yaml          the full recipe, which `ajepa pretrain` reads again
    run.json             versions, git commit, data fingerprint, hardware; one entry for each start
    metrics.jsonl        one JSON line every `log_every` steps, and where gauges or the probe are due;
                         tensorboard/ has the same
    broken.txt           files that could not be used, with the reason (with --skip-broken)
    checkpoints/         step-00000500.safetensors, ...: everything that resuming needs
    encoder.safetensors  the finished encoder with its front end, for `ajepa.load_model`
    best.safetensors     the encoder of the best online probe, where one was asked for
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ajepa.audio import AudioError
from ajepa.data.clips import Clips
from ajepa.data.crops import Batch, CropDataset, collate
from ajepa.data.order import StepSampler, mix_seed
from ajepa.data.remote import look_ahead
from ajepa.distributed import sum_over_ranks
from ajepa.features import LogMel, levelled
from ajepa.nn.encoder import Encoder, parameter_count
from ajepa.objectives.base import Loss, Objective, Share
from ajepa.recipes import Recipe, RecipeError

from .devices import lay_out, make_fabric
from .folder import claimed
from .guard import FiniteGuard, TrainingError, lost_peers, signals
from .health import CollapseWatch, attention_entropy, rankme
from .metrics import MetricsLog
from .optimiser import make_optimizer, set_schedules
from .prepare import prepare, record_start
from .probe import Probe
from .state import (
    BestEncoder,
    check_space,
    checkpoint_path,
    export_encoder,
    finished_encoder,
    first_checkpoint,
    prune_checkpoints,
    restore_optimizer,
    restore_weights,
    write_checkpoint,
)

__all__ = ["TrainingError", "pretrain"]


def pretrain(recipe: Recipe, untrained: bool = False) -> Path:
    """Pre-train as the recipe says, going on from the run folder's last checkpoint if there is one.

    Args:
        untrained: end before the first step, with the random weights that the run begins with.

    Returns:
        The path of the finished encoder; with `untrained` that of the first checkpoint.

    Raises:
        RecipeError: the recipe lacks what a run needs, the folder holds a run of another recipe or on other
            data, or another process trains in it.
        AudioError: no audio is found, or a file cannot be used and `data.skip_broken` is off.
        DataError: a manifest or the index of shards cannot be used or fetched.
        TrainingError: a loss or a gradient is not finite, or another process of the run has ended.
    """
    clips, recipe, info = prepare(recipe)
    out = Path(recipe.run.out)
    finished = finished_encoder(out)
    if finished and not untrained:
        return finished

    fabric = make_fabric(recipe.run)
    fabric.launch()
    with lost_peers(), claimed(fabric, recipe, info) as last:
        if untrained and (last or finished):
            return first_checkpoint(out)
        return _run(fabric, recipe, clips, info, last, untrained)


def _run(
    fabric: Fabric, recipe: Recipe, clips: Clips, info: dict[str, Any], last: Path | None, untrained: bool
) -> Path:
    out, optim, run = Path(recipe.run.out), recipe.optim, recipe.run
    first_process, device = fabric.is_global_zero, fabric.device
    if optim.batch_size % (fabric.world_size * optim.accumulate):
        raise RecipeError(
            f"optim.batch_size {optim.batch_size} cannot be shared by {fabric.world_size} processes in "
            f"{optim.accumulate} micro-batches each (optim.accumulate)"
        )

    torch.manual_seed(run.seed)  # the initial weights; every later draw has a generator of its own
    front_end = LogMel(recipe.front_end).to(device)
    objective = recipe.objective.build(recipe.encoder, optim.steps, recipe.front_end).to(device)
    evaluated = getattr(objective, recipe.objective.encoders[0])
    start = restore_weights(last, objective) if last else 0
    compiled = lay_out(objective, run, device)
    probe = Probe(recipe, front_end, evaluated) if run.probe.table else None
    # Before FSDP shares the weights out, whose first pass has to be the whole objective's.
    at_start = {"probe": fabric.broadcast(probe.score())} if probe and not last else {}
    model = fabric.setup_module(objective)
    plain_optimizer = make_optimizer(objective, optim)
    if last:
        restore_optimizer(last, objective, plain_optimizer)
    optimizer: Any = fabric.setup_optimizers(plain_optimizer)

    if first_process:
        check_space(objective, recipe)
        record_start(recipe, info, device, start, begins=last is None)
        print(
            f"{recipe.name}: {parameter_count(objective.encoder) / 1e6:.1f} M encoder parameters, "
            f"{len(clips)} clips, steps {start} to {optim.steps} of {optim.batch_size} clips, "
            f"on {fabric.world_size} x {device.type}{', compiled' if compiled else ''}",
            file=sys.stderr,
        )
    log, best = MetricsLog(run, start, first_process, recipe.as_dict()), BestEncoder(out, run.probe)
    if not last:
        if at_start:
            log.write(0, at_start)
            best.offer(at_start["probe"], recipe, objective, front_end, 0, info, first_process)
        # Behind the probe: a start that ends before this is not gone on with but made again.
        write_checkpoint(recipe, objective, plain_optimizer, front_end, 0, info, first_process)
    if untrained:
        log.close()
        fabric.barrier()
        return checkpoint_path(out, 0)

    loader = crop_loader(fabric, recipe, clips, start)
    watch, guard = CollapseWatch(log.history, recipe.objective), FiniteGuard()
    bar = tqdm(total=optim.steps, initial=start, unit="step", disable=None if first_process else True)
    waiting_since = time.perf_counter()
    with signals() as stop:
        for step, batch in enumerate(loader, start=start):
            waited = time.perf_counter() - waiting_since
            if batch.failure:
                raise AudioError(batch.failure)
            rate = set_schedules(optimizer, optim, step)
            losses, spectrogram_BLM = gradients(fabric, model, front_end, recipe, batch, step)
            norm = clip_gradients(fabric, model, optimizer, optim.clip_norm)
            value = torch.stack([loss.value.detach() for loss in losses]).sum()
            # Before the optimiser's step: once in the weights, a NaN would be in every later checkpoint.
            guard.note(step, value, norm, batch.files)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            momenta = objective.after_step(step)

            done = step + 1
            at_end = done == optim.steps
            gauging = done % run.health_every == 0 or at_end
            probing = probe is not None and (done % run.probe.every == 0 or at_end)
            look = done % run.log_every == 0 or gauging or probing
            log.count(len(batch.files) * fabric.world_size, waited, batch.broken)
            if look:
                metrics: dict[str, Any] = {"loss": sum_over_ranks(value), "lr": rate, "grad_norm": norm}
                metrics |= mean_metrics(losses, fabric.world_size) | momenta
                if gauging:
                    metrics |= gauges(objective, evaluated, spectrogram_BLM, losses[-1])
                if probe and probing:
                    metrics["probe"] = fabric.broadcast(probe.score())
                record = log.write(done, metrics)
                for warning in watch.look(record) if first_process else ():
                    bar.write(warning, file=sys.stderr)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {record['clips_per_s']:.0f} clips/s")
                if "probe" in record:
                    guard.settle()
                    best.offer(record["probe"], recipe, objective, front_end, done, info, first_process)
            bar.update()
            stopping = stop.agreed(device, look) and not at_end
            if done % run.checkpoint_every == 0 or at_end or stopping:
                guard.settle()
                path = write_checkpoint(
                    recipe, objective, plain_optimizer, front_end, done, info, first_process
                )
                if first_process:
                    prune_checkpoints(out, run.keep, run.keep_every)
                if first_process and bar.disable:  # not on a terminal: a line for each checkpoint
                    print(f"step {done} of {optim.steps}: {path}", file=sys.stderr)
            if stopping:
                bar.close()
                log.close()
                fabric.barrier()  # a process that ends takes the others along: the checkpoint first
                raise KeyboardInterrupt(
                    f"stopped after step {done}; the same command goes on from {checkpoint_path(out, done)}"
                )
            waiting_since = time.perf_counter()
    bar.close()
    log.close()
    finished = export_encoder(recipe, objective, front_end, optim.steps, info, first_process)
    fabric.barrier()
    return finished


def crop_loader(fabric: Fabric, recipe: Recipe, clips: Clips, start: int) -> Iterable[Batch]:
    """This process's batches, from step `start` on."""
    dataset = CropDataset(
        clips,
        recipe.crop_samples / recipe.front_end.sample_rate,
        recipe.front_end.sample_rate,
        recipe.data.gain_db,
        recipe.data.cache_megabytes,
        recipe.data.skip_broken,
    )
    sampler = StepSampler(
        len(clips),
        recipe.optim.batch_size,
        start,
        recipe.optim.steps,
        recipe.run.seed,
        fabric.global_rank,
        fabric.world_size,
        shard_sizes=clips.shard_sizes,
        window=recipe.data.shard_window,
        ahead=look_ahead(clips),
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        pin_memory=fabric.device.type == "cuda",
    )


def gradients(
    fabric: Fabric, model: Any, front_end: LogMel, recipe: Recipe, batch: Batch, step: int
) -> tuple[list[Loss], Tensor]:
    """This process's gradients of a step, micro-batch by micro-batch; the losses, and the last spectrogram.

    Every process draws the masks of the whole batch and takes its own: a step is the same however many
    processes share it.
    """
    optim = recipe.optim
    micro = len(batch.files) // optim.accumulate
    first = fabric.global_rank * len(batch.files)
    waveform_BS = batch.waveform_BS.to(fabric.device, non_blocking=True)
    losses = []
    for part, part_BS in enumerate(waveform_BS.split(micro)):
        generator = torch.Generator(fabric.device).manual_seed(mix_seed(recipe.run.seed, step))
        with torch.no_grad():
            spectrogram_BLM = front_end(levelled(part_BS, recipe.encoder.inputs))
        more = part < optim.accumulate - 1
        with fabric.no_backward_sync(model, enabled=more and fabric.world_size > 1):
            share = Share(first + part * micro, micro, optim.batch_size)
            loss = model(spectrogram_BLM, step, generator, share)
            # The shares' losses add up to the step's; DDP and FSDP take the mean of gradients.
            fabric.backward(loss.value * fabric.world_size)
        losses.append(loss)
    return losses, spectrogram_BLM


def clip_gradients(fabric: Fabric, model: Any, optimizer: Any, most: float) -> Tensor:
    """Scale the gradients down to a norm of `most` (0: leave them); returns the norm that they had."""
    norm: Any = fabric.clip_gradients(model, optimizer, max_norm=most or math.inf, error_if_nonfinite=False)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def mean_metrics(losses: list[Loss], world_size: int) -> dict[str, Tensor]:
    """Each metric's mean over micro-batches and processes."""
    names = list(losses[0].metrics)
    values = torch.stack([torch.stack([loss.metrics[name] for name in names]) for loss in losses]).mean(0)
    return dict(zip(names, sum_over_ranks(values) / world_size, strict=True))


def gauges(objective: Objective, evaluated: Encoder, spectrogram_BLM: Tensor, loss: Loss) -> dict[str, float]:
    """What takes time to compute, on this process's last clips."""
    return {
        "rankme": rankme(loss.features),
        "attention_entropy": attention_entropy(evaluated, spectrogram_BLM),
    } | objective.gauges()
