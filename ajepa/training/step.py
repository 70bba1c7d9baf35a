"""The parts of one training step: its batch, its gradients, and their metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ajepa.data.crops import Batch, CropDataset, collate
from ajepa.data.lengths import TrainingSet
from ajepa.data.order import StepSampler, mix_seed
from ajepa.data.remote import look_ahead
from ajepa.distributed import sum_over_ranks
from ajepa.features import levelled
from ajepa.objectives.base import Loss, Share

from .guard import TrainingError
from .health import attention_entropy, rankme
from .run import Run

# A loader process that gives nothing for so long hangs: the slowest batch is a fetched shard.
LOADER_SECONDS = 1800


def batches(run: Run, training_set: TrainingSet) -> Iterator[Batch]:
    """This process's batches, from the run's first step on.

    Raises:
        TrainingError: a loader process has ended or hangs.
    """
    try:
        yield from crop_loader(run, training_set)
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise TrainingError(
            f"a loader process has ended or hangs ({' '.join(str(error).split())}). Out of memory, too "
            "little /dev/shm and crashes of a decoder end one: lower data.workers or "
            "data.cache_megabytes, or use --isolate. The last checkpoint is whole: give the same "
            "command again"
        ) from error


def crop_loader(run: Run, training_set: TrainingSet) -> Iterable[Batch]:
    """The same as torch's loader."""
    recipe, clips = run.recipe, training_set.clips
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
        run.start,
        recipe.optim.steps,
        recipe.run.seed,
        run.fabric.global_rank,
        run.fabric.world_size,
        repeats=training_set.repeats,
        shard_sizes=clips.shard_sizes,
        window=recipe.data.shard_window,
        ahead=look_ahead(clips),
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        timeout=LOADER_SECONDS if recipe.data.workers else 0,
        pin_memory=run.device.type == "cuda",
    )


def gradients(run: Run, batch: Batch, step: int) -> tuple[list[Loss], Tensor]:
    """This process's gradients of a step, micro-batch by micro-batch; the losses, and the last spectrogram.

    Every process draws the masks of the whole batch and takes its own, so that a step does not depend on the
    number of processes.
    """
    fabric, recipe, optim = run.fabric, run.recipe, run.recipe.optim
    micro = len(batch.files) // optim.accumulate
    first = fabric.global_rank * len(batch.files)
    waveform_BS = batch.waveform_BS.to(run.device, non_blocking=True)
    losses = []
    for part, part_BS in enumerate(waveform_BS.split(micro)):
        generator = torch.Generator(run.device).manual_seed(mix_seed(recipe.run.seed, step))
        with torch.no_grad():
            spectrogram_BLC = run.front_end(levelled(part_BS, recipe.encoder.inputs))
        more = part < optim.accumulate - 1
        with fabric.no_backward_sync(run.model, enabled=more and fabric.world_size > 1):
            share = Share(first + part * micro, micro, optim.batch_size)
            loss = run.model(spectrogram_BLC, step, generator, share)
            # The shares' losses add up to the step's; DDP and FSDP take the mean of gradients.
            fabric.backward(loss.value * fabric.world_size)
        losses.append(loss)
    return losses, spectrogram_BLC


def clip_gradients(run: Run) -> Tensor:
    """Scale the gradients down to `optim.clip_norm` (0: no limit); returns their norm before."""
    most = run.recipe.optim.clip_norm or math.inf
    norm: Any = run.fabric.clip_gradients(run.model, run.stepper, max_norm=most, error_if_nonfinite=False)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def mean_metrics(losses: list[Loss], world_size: int) -> dict[str, Tensor]:
    """Each metric's mean over micro-batches and processes."""
    names = list(losses[0].metrics)
    values = torch.stack([torch.stack([loss.metrics[name] for name in names]) for loss in losses]).mean(0)
    return dict(zip(names, sum_over_ranks(values) / world_size, strict=True))


def gauges(run: Run, spectrogram_BLC: Tensor, loss: Loss) -> dict[str, float]:
    """The gauges that take time to compute, on this process's last clips."""
    return {
        "rankme": rankme(loss.features),
        "attention_entropy": attention_entropy(run.evaluated, spectrogram_BLC),
    } | run.objective.gauges()
