"""The pre-training loop: read it from top to bottom.

A run's folder holds
    recipe.yaml          the full recipe, which `ajepa pretrain` reads again
    run.json             versions, git commit, data fingerprint, hardware; one entry for each start
    metrics.jsonl        one JSON line every `log_every` steps
    broken.txt           files that could not be used, with the reason (with --skip-broken)
    checkpoints/         step-00000500.safetensors, ...: everything that resuming needs
    encoder.safetensors  the finished encoder with its front end, for `ajepa.load_model`
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ajepa.audio import AudioError
from ajepa.data.crops import Batch, CropDataset, StepSampler, collate, mix_seed
from ajepa.encoder import parameter_count
from ajepa.features import LogMel
from ajepa.objectives.a_jepa import AJEPA
from ajepa.recipe import Recipe, RecipeError
from ajepa.schedules import cosine, warmup_cosine
from ajepa.training.health import rankme
from ajepa.training.metrics import MetricsLog
from ajepa.training.prepare import prepare, record_start
from ajepa.training.state import (
    checkpoint_path,
    export_encoder,
    latest_checkpoint,
    prune_checkpoints,
    resume,
    write_checkpoint,
)


class TrainingError(RuntimeError):
    """A run cannot go on; the message says at which step, on which files, and what to do."""


def pretrain(recipe: Recipe) -> Path:
    """Pre-train as the recipe says, going on from the run folder's last checkpoint if there is one.

    Returns:
        The path of the finished encoder.

    Raises:
        RecipeError: the recipe lacks what a run needs, or the folder holds a run of another recipe or on
            other data.
        AudioError: no audio is found, or a file cannot be used and `data.skip_broken` is off.
        TrainingError: a loss or a gradient is not finite.
    """
    files, recipe, info = prepare(recipe)
    out, optim, run = Path(recipe.run.out), recipe.optim, recipe.run
    last = latest_checkpoint(out)
    if last == checkpoint_path(out, optim.steps) and (out / "encoder.safetensors").is_file():
        return out / "encoder.safetensors"

    fabric = Fabric(
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=run.strategy,
        precision=run.precision,
    )
    fabric.launch()
    if optim.batch_size % fabric.world_size:
        raise RecipeError(
            f"optim.batch_size {optim.batch_size} cannot be shared by {fabric.world_size} processes"
        )
    torch.manual_seed(run.seed)  # the initial weights; every later draw has a generator of its own
    front_end = LogMel(recipe.front_end).to(fabric.device)
    objective = AJEPA(recipe.objective, recipe.encoder, optim.steps).to(fabric.device)
    optimizer = make_optimizer(objective, recipe)
    start = resume(last, objective, optimizer) if last else 0
    model, wrapped_optimizer = fabric.setup(objective, optimizer)

    dataset = CropDataset(
        files,
        whole_patch_seconds(recipe),
        recipe.front_end.sample_rate,
        recipe.data.gain_db,
        recipe.data.cache_megabytes,
        recipe.data.skip_broken,
    )
    sampler = StepSampler(
        len(files), optim.batch_size, start, optim.steps, run.seed, fabric.global_rank, fabric.world_size
    )
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        pin_memory=fabric.device.type == "cuda",
    )

    if fabric.is_global_zero:
        record_start(recipe, info, fabric.device, start)
        print(
            f"{recipe.name}: {parameter_count(objective.encoder) / 1e6:.1f} M encoder parameters, "
            f"{len(files)} files, steps {start} to {optim.steps} of {optim.batch_size} clips, "
            f"on {fabric.device}",
            file=sys.stderr,
        )
        if start == 0:
            write_checkpoint(recipe, objective, optimizer, front_end, 0, info)

    log = MetricsLog(out, start, enabled=fabric.is_global_zero)
    bar = tqdm(total=optim.steps, initial=start, unit="step", disable=None if fabric.is_global_zero else True)
    with interrupts() as interrupted:
        for step, batch in enumerate(loader, start=start):
            if batch.failure:
                raise AudioError(batch.failure)
            rate = set_schedules(wrapped_optimizer, recipe, step)
            seed = mix_seed(run.seed, step, fabric.global_rank)
            generator = torch.Generator(fabric.device).manual_seed(seed)
            with torch.no_grad():
                spectrogram_BLM = front_end(batch.waveform_BS.to(fabric.device, non_blocking=True))
            loss = model(spectrogram_BLM, step, generator)
            fabric.backward(loss.value)
            norm = fabric.clip_gradients(
                model, wrapped_optimizer, max_norm=optim.clip_norm or math.inf, error_if_nonfinite=False
            )
            # Before the optimiser's step: once in the weights, a NaN would be in every later checkpoint.
            check_finite(loss.value, norm, step, batch)
            wrapped_optimizer.step()
            wrapped_optimizer.zero_grad(set_to_none=True)
            momenta = objective.after_step(step)

            done = step + 1
            log.count(len(batch.files) * fabric.world_size, batch.broken)
            if done % run.log_every == 0 or done == optim.steps:
                metrics: dict[str, Any] = {"loss": loss.value.detach(), "lr": rate, "grad_norm": norm}
                metrics |= loss.metrics | momenta | {"rankme": rankme(loss.features)}
                record = log.write(done, metrics)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {record['clips_per_s']:.0f} clips/s")
            bar.update()
            stop = bool(interrupted) and done < optim.steps
            if fabric.is_global_zero and (done % run.checkpoint_every == 0 or done == optim.steps or stop):
                path = write_checkpoint(recipe, objective, optimizer, front_end, done, info)
                prune_checkpoints(out, run.keep, run.keep_every)
                if bar.disable:  # not on a terminal: a line for each checkpoint instead of the bar
                    print(f"step {done} of {optim.steps}: {path}", file=sys.stderr)
            if stop:
                bar.close()
                raise KeyboardInterrupt(
                    f"stopped after step {done}; the same command goes on from {checkpoint_path(out, done)}"
                )
    bar.close()
    log.report_broken()
    if fabric.is_global_zero:
        export_encoder(recipe, objective, front_end, optim.steps, info)
    fabric.barrier()
    return out / "encoder.safetensors"


def whole_patch_seconds(recipe: Recipe) -> float:
    """The crop's length, lengthened until its frames fill whole patches: no step sees padding."""
    front_end, patch = recipe.front_end, recipe.encoder.patch[0]
    samples = round(recipe.data.crop_seconds * front_end.sample_rate)
    frames = 1 + max(0, samples - front_end.window) // front_end.hop
    frames = -(-frames // patch) * patch
    return ((frames - 1) * front_end.hop + front_end.window) / front_end.sample_rate


def make_optimizer(objective: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW in two groups: no weight decay on biases, norms and other 1-D parameters."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "decays": True},
        {"params": [p for p in trained if p.ndim <= 1], "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.optim.lr, betas=recipe.optim.betas, fused=True)


def set_schedules(optimizer: Any, recipe: Recipe, step: int) -> float:
    """Set this step's learning rate and weight decay; returns the rate."""
    optim = recipe.optim
    rate = warmup_cosine(step, optim.steps, optim.warmup_steps, optim.lr, optim.min_lr)
    decay = cosine(step, optim.steps, *optim.weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = rate
        if group["decays"]:
            group["weight_decay"] = decay
    return rate


def check_finite(loss: Tensor, norm: Tensor | None, step: int, batch: Batch) -> None:
    """Stop where the loss or the gradients' norm is not finite."""
    wrong = {"loss": loss.item(), "gradient's norm": 0.0 if norm is None else norm.item()}
    for name, value in wrong.items():
        if not math.isfinite(value):
            names = "\n  ".join(sorted(set(batch.files)))
            raise TrainingError(
                f"step {step}: the {name} is {value}. The last checkpoint is whole. Look at this batch's "
                "files for damaged audio, and try a lower optim.lr, a longer optim.warmup_steps or "
                f"--run.precision 32-true:\n  {names}"
            )


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the step in hand is finished and a checkpoint written.

    The second signal acts as usual: a process that hangs can still be stopped.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        received.append(number)
        for each in numbers:
            signal.signal(each, previous[each])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in numbers:
            signal.signal(number, previous[number])
