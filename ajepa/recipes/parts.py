"""The parts of a recipe: the data, the optimiser, and where the run executes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ajepa.schedules import warmup_cosine, warmup_decay

LONGEST_CROP = 3600.0  # seconds
SHORTEST_SEGMENT = 0.1  # seconds


def _at_least(part: str, settings: object, **bounds: float) -> None:
    """Raises ValueError for a setting below its bound; one that is None is not checked."""
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ValueError(f"{part}.{name} is {value}, must be at least {bound:g}")


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how they are cut (A-JEPA section 4.1).

    Args:
        source: folder of audio files, searched recursively; a manifest (a table); a folder of indexed
            tar shards, or the http(s) address of one.
        crop_seconds: length of a crop; shorter files are repeated.
        segment_seconds: an epoch has a crop for each of so many seconds of a file, rounded, and at least one
            a file: long recordings are heard in proportion to their length. None: those of a crop, at least
            0.1. 0: each file is one crop an epoch, whatever its length, as in runs of version 0.3.
        gain_db: level jitter in dB, uniform within ± this value.
        workers: loader processes; 0 decodes in the training process.
        cache_megabytes: decoded audio that each loader process keeps in memory, so that a small set is
            decoded once; 0 for none. The crops are the same.
        skip_broken: count and list unreadable files and continue with the others, instead of stopping.
        shard_window: tar shards that are shuffled together at a time; it affects the order of clips.
        shard_cache: folder for shards fetched from a server; that of `ajepa cache` if empty.
        shard_cache_megabytes: how much they may fill; the least recently used make room.
    """

    source: str = ""
    crop_seconds: float = 10.0
    segment_seconds: float | None = None
    gain_db: float = 6.0
    workers: int = 0
    cache_megabytes: int = 1024
    skip_broken: bool = False
    shard_window: int = 8
    shard_cache: str = ""
    shard_cache_megabytes: int = 32_768

    def __post_init__(self) -> None:
        if not self.crop_seconds <= LONGEST_CROP:
            raise ValueError(f"data.crop_seconds is {self.crop_seconds}, must be at most {LONGEST_CROP:g}")
        _at_least("data", self, crop_seconds=1e-3, gain_db=0, workers=0, cache_megabytes=0)
        if self.segment_seconds and not SHORTEST_SEGMENT <= self.segment_seconds < math.inf:
            raise ValueError(
                f"data.segment_seconds is {self.segment_seconds}, must be at least {SHORTEST_SEGMENT:g}; "
                "0 for one crop a file"
            )
        _at_least("data", self, shard_window=1, shard_cache_megabytes=1)

    @property
    def usual_segment(self) -> float:
        """`segment_seconds` where they are None."""
        return max(self.crop_seconds, SHORTEST_SEGMENT)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules.

    Args:
        steps: optimiser steps of the whole run. A run may be extended: see `decay_steps`.
        epochs: passes over the data instead of `steps`, where given (`data.segment_seconds` says how many
            crops a pass has). Steps on the command line take the
            place of a recipe's epochs, and `warmup_steps` that of its `warmup_epochs`.
        batch_size: clips a step over all processes.
        accumulate: micro-batches into which each process splits its clips of a step; the gradient is that
            of the whole batch, the memory that of one part. A run may be resumed with another number, unless
            its objective has statistics over a micro-batch (`couples_clips`).
        lr: peak learning rate; `warmup_steps` up to it linearly, then down to `min_lr`.
        decay_steps: the rate stays at its peak and falls linearly over this many last steps; None: it falls
            along a cosine from the warm-up on. A finished run is extended by a larger `steps`. With
            `decay_steps` it continues from the checkpoint before the fall; if `schedule_steps` is set too, it
            equals a run that had this length from the start. Along a cosine it continues from the end with
            the schedules of the new length: the rate rises again.
        schedule_steps: steps over which weight decay and the objective's own schedules (momentum, curriculum)
            run; they stay at their end after that. None: all steps.
        warmup_epochs: instead of `warmup_steps`, where given.
        weight_decay: at the first and the last scheduled step, a cosine between; none on biases and 1-D
            weights.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
    """

    steps: int = 10_000
    epochs: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 2e-4
    min_lr: float = 1e-6
    warmup_steps: int = 500
    warmup_epochs: float | None = None
    decay_steps: int | None = None
    schedule_steps: int | None = None
    weight_decay: tuple[float, float] = (0.04, 0.4)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _at_least("optim", self, steps=1, batch_size=1, accumulate=1, schedule_steps=1)
        _at_least("optim", self, lr=0, min_lr=0, clip_norm=0, warmup_steps=0, warmup_epochs=0, decay_steps=0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas is {list(self.betas)}, both must be in 0..1, 1 excluded")
        if min(self.weight_decay) < 0:
            raise ValueError(f"optim.weight_decay is {list(self.weight_decay)}, must be at least 0")
        if self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"optim.epochs is {self.epochs}, must be above 0")
        if self.epochs is None:
            self._check_decay(self.steps)

    def _check_decay(self, steps: int) -> None:
        if (self.decay_steps or 0) > steps:
            raise ValueError(f"optim.decay_steps is {self.decay_steps}, must be at most optim.steps {steps}")

    def in_steps(self, draws: int) -> OptimConfig:
        """With epochs turned into steps, for a data set of `draws` crops an epoch.

        Raises ValueError if these steps are fewer than `decay_steps`.
        """
        steps, warmup = self.steps, self.warmup_steps
        if self.epochs is not None:
            steps = max(1, self._steps_of(self.epochs, draws))
            self._check_decay(steps)
        if self.warmup_epochs is not None:
            warmup = self._steps_of(self.warmup_epochs, draws)
        return replace(self, steps=steps, warmup_steps=warmup)

    def _steps_of(self, epochs: float, draws: int) -> int:
        """Steps in which so many epochs are whole; 1.1 epochs of 100 crops are 110, not a hair more."""
        return math.ceil(epochs * draws / self.batch_size - 1e-9)

    @property
    def decay_start(self) -> int | None:
        """The step at which the rate begins to fall from its peak; None if it falls along a cosine."""
        return None if self.decay_steps is None else max(0, self.steps - self.decay_steps)

    @property
    def scheduled(self) -> int:
        """Steps over which weight decay and the objective's schedules run."""
        return self.schedule_steps or self.steps

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if self.decay_steps is None:
            return warmup_cosine(step, self.steps, self.warmup_steps, self.lr, self.min_lr)
        return warmup_decay(step, self.steps, self.warmup_steps, self.decay_steps, self.lr, self.min_lr)


@dataclass(frozen=True)
class ProbeConfig:
    """A small labelled set on which a kNN probe follows the run; see `ajepa.training.probe`.

    Args:
        table: a table of labels, its paths relative to its own folder; empty for no probe.
        path, label: names of its columns.
        split: column in which train marks the reference clips, and valid those that are scored (all others
            where there are none); empty: each clip against all others.
        every: steps between looks; at the start and at the end in any case.
    """

    table: str = ""
    path: str = "path"
    label: str = "label"
    split: str = ""
    every: int = 500

    def __post_init__(self) -> None:
        _at_least("run.probe", self, every=1)


@dataclass(frozen=True)
class RunConfig:
    """Where and how the run executes; nothing here changes what is learnt but seed and precision.

    Args:
        accelerator, devices, nodes, precision: passed to Lightning Fabric; under torchrun it is torchrun
            that decides on devices and nodes.
        strategy: "ddp" keeps the whole model on every device, "fsdp" shards it; "auto" is one process
            or DDP.
        compile: torch.compile for the Transformer blocks; "auto" on CUDA devices if it works.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        log_every: steps between lines of metrics.jsonl; there is one too where gauges or the probe are due.
        health_every: steps between the gauges that take time (RankMe, attention entropy, EMA gap).
        checkpoint_every: steps between checkpoints; the first (the random twin) and the last `keep` stay,
            and every one whose step is a multiple of `keep_every` (0 for none).
        wandb: project of Weights & Biases to log to as well; empty for none.
    """

    out: str = ""
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: Literal["auto", "on", "off"] = "auto"
    activation_checkpointing: bool = False
    log_every: int = 10
    health_every: int = 100
    checkpoint_every: int = 500
    keep: int = 2
    keep_every: int = 0
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    wandb: str = ""

    def __post_init__(self) -> None:
        _at_least("run", self, log_every=1, health_every=1, checkpoint_every=1, keep=1, keep_every=0)
        if not abs(self.seed) < 2**63:
            raise ValueError(f"run.seed is {self.seed}, must have at most 63 bits")
