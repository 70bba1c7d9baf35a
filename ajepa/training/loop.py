"""The pre-training loop: read it from top to bottom.

A run's folder holds
    recipe.yaml          the full recipe, which `ajepa pretrain` reads again
    run.json             versions, git commit, data fingerprint, hardware
    metrics.jsonl        one JSON line every `log_every` steps
    broken.txt           files that could not be used, with the reason (with --data.skip_broken true)
    checkpoints/         step-00000500.safetensors, ...: everything that resuming needs
    encoder.safetensors  the finished encoder with its front end, for `ajepa.load_model`
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ajepa import checkpoint
from ajepa.audio import find_audio
from ajepa.data.crops import Batch, CropDataset, StepSampler, collate, mix_seed
from ajepa.encoder import parameter_count
from ajepa.features import LogMel
from ajepa.objectives.a_jepa import AJEPA
from ajepa.schedules import cosine, warmup_cosine
from ajepa.training.health import rankme
from ajepa.training.metrics import MetricsLog
from ajepa.training.provenance import data_fingerprint, describe_run
from ajepa.training.recipe import Recipe, RecipeError, dump_recipe
from ajepa.training.state import (
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
        RecipeError: the recipe lacks what a run needs, or the folder holds a run of another recipe.
        AudioError: no audio is found, or a file cannot be used and `data.skip_broken` is off.
        TrainingError: the loss is not finite.
    """
    files, recipe = _prepare(recipe)
    out, optim, run = Path(recipe.run.out), recipe.optim, recipe.run

    fabric = Fabric(
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy=run.strategy,
        precision=run.precision,
    )
    fabric.launch()
    torch.manual_seed(run.seed)  # the initial weights; every later draw has a generator of its own
    front_end = LogMel(recipe.front_end).to(fabric.device)
    objective = AJEPA(recipe.objective, recipe.encoder, optim.steps)
    optimizer = make_optimizer(objective, recipe)
    last = latest_checkpoint(out)
    start = resume(last, objective, optimizer) if last else 0
    model, wrapped_optimizer = fabric.setup(objective, optimizer)

    sampler = StepSampler(
        len(files), optim.batch_size, start, optim.steps, run.seed, fabric.global_rank, fabric.world_size
    )
    loader = DataLoader(
        CropDataset(
            files,
            whole_patch_seconds(recipe),
            recipe.front_end.sample_rate,
            recipe.data.gain_db,
            recipe.data.cache_megabytes,
            recipe.data.skip_broken,
        ),
        batch_sampler=sampler,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        pin_memory=fabric.device.type == "cuda",
    )

    info = describe_run(fabric.device) | {"data": data_fingerprint(files, Path(recipe.data.source))}
    if fabric.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.yaml").write_text(dump_recipe(recipe))
        (out / "run.json").write_text(json.dumps(info, indent=1) + "\n")
        print(
            f"{recipe.name}: {parameter_count(objective.encoder) / 1e6:.1f} M encoder parameters, "
            f"{len(files)} files, steps {start} to {optim.steps} of {optim.batch_size} clips, "
            f"on {fabric.device}",
            file=sys.stderr,
        )
        if start == 0:
            write_checkpoint(out, recipe, objective, optimizer, front_end, 0, info)

    log = MetricsLog(out / "metrics.jsonl", start, enabled=fabric.is_global_zero)
    bar = tqdm(total=optim.steps, initial=start, unit="step", disable=None if fabric.is_global_zero else True)
    with interrupts() as interrupted:
        for step, batch in enumerate(loader, start=start):
            rate = set_schedules(wrapped_optimizer, recipe, step)
            generator = torch.Generator(fabric.device).manual_seed(
                mix_seed(run.seed, step, fabric.global_rank)
            )
            with torch.no_grad():
                spectrogram_BLM = front_end(batch.waveform_BS.to(fabric.device, non_blocking=True))
            loss = model(spectrogram_BLM, step, generator)
            check_finite(loss.value, step, batch)
            fabric.backward(loss.value)
            metrics: dict[str, Any] = {"loss": loss.value.detach(), "lr": rate, **loss.metrics}
            if optim.clip_norm > 0:
                metrics["grad_norm"] = fabric.clip_gradients(
                    model, wrapped_optimizer, max_norm=optim.clip_norm, error_if_nonfinite=False
                )
            wrapped_optimizer.step()
            wrapped_optimizer.zero_grad(set_to_none=True)
            metrics |= objective.after_step(step)

            done = step + 1
            log.count(len(batch.files) * fabric.world_size, batch.broken)
            if done % run.log_every == 0 or done == optim.steps:
                metrics["rankme"] = rankme(loss.features)
                record = log.write(done, metrics)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {record['clips_per_s']:.0f} clips/s")
            bar.update()
            stop = bool(interrupted)
            if fabric.is_global_zero and (done % run.checkpoint_every == 0 or done == optim.steps or stop):
                path = write_checkpoint(out, recipe, objective, optimizer, front_end, done, info)
                prune_checkpoints(out, run.keep, run.keep_every)
            if stop and done < optim.steps:
                bar.close()
                raise KeyboardInterrupt(f"stopped after step {done}; the same command goes on from {path}")
    bar.close()
    log.report_broken()
    return export_encoder(out, recipe, objective, front_end, optim.steps, info)


def _prepare(recipe: Recipe) -> tuple[list[Path], Recipe]:
    """The run's files, and the recipe with `epochs` turned into steps and the folder checked."""
    if not recipe.data.source:
        raise RecipeError("data.source is empty: name a folder of audio, such as --data.source my_audio/")
    if not recipe.run.out:
        raise RecipeError("run.out is empty: name the run's folder, such as --run.out runs/first")
    files = find_audio(recipe.data.source)
    if recipe.optim.epochs is not None:
        steps = math.ceil(recipe.optim.epochs * len(files) / recipe.optim.batch_size)
        recipe = replace(recipe, optim=replace(recipe.optim, steps=steps))
    existing = latest_checkpoint(Path(recipe.run.out))
    if existing:
        saved = checkpoint.load(existing, prefix="none of the tensors").recipe
        for part in ("front_end", "encoder", "objective", "optim"):
            ours = json.loads(json.dumps(recipe.as_dict()[part]))
            changed = [key for key in ours if ours[key] != saved[part].get(key)]
            if changed:
                raise RecipeError(
                    f"{recipe.run.out}: holds a run with other values of {part}.{changed[0]} "
                    f"({saved[part].get(changed[0])!r}, now {ours[changed[0]]!r}); "
                    "take its recipe.yaml to go on with it, or another --run.out"
                )
    return files, recipe


def whole_patch_seconds(recipe: Recipe) -> float:
    """The crop's length, lengthened until its frames fill whole patches: no step sees padding."""
    front_end, patch = recipe.front_end, recipe.encoder.patch[0]
    frames = LogMel(front_end).frames(round(recipe.data.crop_seconds * front_end.sample_rate))
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


def check_finite(loss: Tensor, step: int, batch: Batch) -> None:
    """Stop before a loss that is not finite reaches the weights."""
    if not torch.isfinite(loss):
        names = "\n  ".join(sorted(set(batch.files)))
        raise TrainingError(
            f"step {step}: the loss is {loss.item()}. The last checkpoint is whole. Look at this batch's "
            "files for damaged audio, and try a lower optim.lr, a longer optim.warmup_steps or "
            f"--run.precision 32-true:\n  {names}"
        )


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C in a list, so that the step in hand is finished and a checkpoint written."""
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
