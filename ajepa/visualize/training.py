"""Training of the decoder: resumable, and the same whether it was interrupted or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ajepa.data import open_clips
from ajepa.data.crops import CropDataset, collate
from ajepa.data.order import Draw, StepSampler, mix_seed
from ajepa.files import in_place_of

from .decoder import FORM, Decoder, DecoderConfig
from .predicted import Predicted, VisualizeError
from .regions import draw_regions

FILE = "decoder.safetensors"
DECAY = 0.999  # of the moving average of the weights, which samples come from
MEASURED = 64  # crops from which the mean picture and the deviation are taken


@dataclass(frozen=True)
class Training:
    """Settings of the decoder's training.

    Attributes:
        batch_size: pairs of a crop and a region in a step.
        regions: of a crop; more of them cost less than more crops.
    """

    steps: int = 4000
    batch_size: int = 16
    regions: int = 4
    lr: float = 1e-3
    checkpoint_every: int = 250
    seed: int = 0


def train_decoder(
    predicted: Predicted,
    source: str,
    folder: Path,
    settings: Training | None = None,
    report: Callable[[int, float], Any] = lambda step, loss: None,
) -> Decoder:
    """Train a decoder of a frozen predictor, or go on with it; returns it with averaged weights.

    Args:
        source: audio, as `data.source` of a recipe.
        folder: of `decoder.safetensors`.
        report: called with the step and the mean loss since the last call.

    Raises:
        VisualizeError: the folder holds the decoder of another predictor, or diffusers is missing.
        AudioError, DataError: the audio cannot be read.
    """
    settings = settings or Training()
    recipe, grid = predicted.recipe, predicted.grid
    frames = grid.time * recipe.encoder.patch[0]
    config = DecoderConfig.of(frames, recipe.front_end.mels, predicted.width)
    torch.manual_seed(settings.seed)
    decoder, average = Decoder(config), Decoder(config)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=settings.lr, weight_decay=0.01)
    start = _restore(folder / FILE, predicted, decoder, average, optimizer)
    if start >= settings.steps:
        return average.eval()

    clips = open_clips(source)
    crops = predicted.crops(clips, cache_megabytes=1024)
    crops_a_step = -(-settings.batch_size // settings.regions)
    if start == 0:
        _measure(predicted, decoder, crops, StepSampler(len(clips), 8, 0, MEASURED // 8, settings.seed))
        average.load_state_dict(decoder.state_dict())
    order = StepSampler(len(clips), crops_a_step, start, settings.steps, settings.seed)
    losses: list[float] = []
    decoder.train()
    for step, draws in enumerate(order, start):
        batch = collate([crops[draw] for draw in draws])
        if batch.failure:
            raise VisualizeError(batch.failure)
        # Everything random of a step depends on its number alone: resuming needs no replay.
        generator = torch.Generator().manual_seed(mix_seed(settings.seed, step))
        spectrogram_BLC = predicted.spectrogram(batch.waveform_BS).repeat(settings.regions, 1, 1)
        regions = draw_regions(grid, len(spectrogram_BLC), generator)
        condition_BD = predicted(spectrogram_BLC, regions, generator)
        loss = decoder.loss(decoder.pooled(spectrogram_BLC), condition_BD, generator)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / 100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(DECAY, (step + 1) / (step + 10))
            for mean, new in zip(average.parameters(), decoder.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        losses.append(loss.item())
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            _save(folder / FILE, predicted, done, decoder, average, optimizer)
            report(done, sum(losses) / len(losses))
            losses.clear()
    return average.eval()


@torch.no_grad()
def _measure(predicted: Predicted, decoder: Decoder, crops: CropDataset, order: StepSampler) -> None:
    """Set the decoder's mean picture and deviation from some crops."""
    batches = [collate([crops[draw] for draw in draws]) for draws in order]
    for batch in batches:
        if batch.failure:
            raise VisualizeError(batch.failure)
    pictures = [decoder.pooled(predicted.spectrogram(batch.waveform_BS)) for batch in batches]
    picture_BXY = torch.cat(pictures)
    decoder.centre_XY.copy_(picture_BXY.mean(0))
    decoder.spread.copy_((picture_BXY - decoder.centre_XY).square().mean().sqrt().clamp_min(1e-3))


def crops_of(predicted: Predicted, source: str, count: int) -> Tensor:
    """One crop each of up to `count` clips that are spread over a set, [B, S].

    Raises:
        VisualizeError: fewer than two clips.
        AudioError, DataError: the audio cannot be read.
    """
    clips = open_clips(source)
    if len(clips) < 2:
        raise VisualizeError(f"{source}: {len(clips)} clip; to judge a decoder takes at least two")
    count = min(count, len(clips))
    crops = predicted.crops(clips)
    batch = collate([crops[Draw(index * len(clips) // count, index)] for index in range(count)])
    if batch.failure:
        raise VisualizeError(batch.failure)
    return batch.waveform_BS


def _config(path: Path, header: dict[str, str]) -> DecoderConfig:
    try:
        found = dict(json.loads(header["config"]))
        if found.get("form") != FORM:
            raise VisualizeError(
                f"{path}: made by another version of ajepa; remove it, or take another --decoder"
            )
        return DecoderConfig(**{**found, "pool": tuple(found["pool"]), "channels": tuple(found["channels"])})
    except VisualizeError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise VisualizeError(f"{path}: not a decoder; remove it and train again") from error


def _read(path: Path, predicted: Predicted) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
    except (OSError, SafetensorError) as error:
        raise VisualizeError(f"{path}: no decoder that can be read ({error}); train one again") from error
    if header.get("predictor") != predicted.fingerprint:
        raise VisualizeError(
            f"{path}: the decoder of another predictor; take another --decoder, or remove it"
        )
    return header, tensors


def _save(
    path: Path,
    predicted: Predicted,
    step: int,
    decoder: Decoder,
    average: Decoder,
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    header = {
        "predictor": predicted.fingerprint,
        "config": json.dumps(asdict(decoder.config)),
        "step": str(step),
    }
    with in_place_of(path) as partial:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, partial, header)


def _restore(
    path: Path,
    predicted: Predicted,
    decoder: Decoder,
    average: Decoder,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore all three in place; returns the steps done."""
    if not path.is_file():
        return 0
    header, tensors = _read(path, predicted)
    if _config(path, header) != decoder.config:
        raise VisualizeError(f"{path}: a decoder of other sizes; take another --decoder, or remove it")
    try:
        for name, network in (("decoder.", decoder), ("average.", average)):
            network.load_state_dict(
                {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
            )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(header["step"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise VisualizeError(
            f"{path}: not a decoder that training can go on from ({reason}); remove it and train again"
        ) from error
