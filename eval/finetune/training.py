"""Fine-tuning for one round of a task: train, choose the epoch where validation clips exist, test."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ajepa.data.order import mix_seed
from ajepa.errors import AjepaError
from ajepa.eval.models.frames import FrameModel
from ajepa.eval.results.scores import Scored
from ajepa.eval.tasks.reading import read_clip
from ajepa.eval.tasks.task import Clip, Round, Task
from ajepa.memory import keep_freed_memory
from ajepa.model import AudioEncoder
from ajepa.model.classifier import stretches
from ajepa.schedules import warmup_cosine
from ajepa.training.devices import plain_attention

from .augment import mixup
from .classifier import Classifier
from .config import FinetuneConfig
from .foreign import ForeignClassifier
from .targets import Targets

CLIPS_AT_ONCE = 1024  # in memory during scoring
DIVERGED = "lower lr; if this happens from the first epoch on, use another checkpoint of the encoder"


class FinetuneError(AjepaError, ValueError):
    """A model cannot be fine-tuned as asked; the message says what to do."""


@dataclass(frozen=True)
class Outcome:
    """The result of a round.

    Attributes:
        test: the tested clips with their logits, in the task's order; none for a round without a test split.
        valid: the same of the clips that chose the epoch; None where there are none.
        epoch: the epoch whose weights were tested, counted from 1.
        history: for each epoch the training loss and, if there were validation clips, the validation score.
        network: with those weights.
    """

    test: Scored
    valid: Scored | None
    epoch: int
    seconds: float
    history: list[dict[str, float]]
    network: Classifier | ForeignClassifier


class Waveforms:
    """The clips of a task at one sample rate, decoded once as far as they fit into memory."""

    def __init__(self, clips: Sequence[Clip], sample_rate: int, megabytes: int = 4096) -> None:
        self.clips, self.sample_rate = clips, sample_rate
        self._kept: dict[int, Tensor] = {}
        self._room = megabytes * 2**20

    def __getitem__(self, number: int) -> Tensor:
        """A whole clip [S]. Raises AudioError if it cannot be read."""
        if number in self._kept:
            return self._kept[number]
        waveform_S = read_clip(self.clips[number], self.sample_rate)
        if self._room >= waveform_S.nbytes:
            self._room -= waveform_S.nbytes
            self._kept[number] = waveform_S
        return waveform_S


def finetune(
    model: AudioEncoder | FrameModel,
    task: Task,
    chosen: Round,
    config: FinetuneConfig,
    *,
    seed: int = 0,
    bf16: bool = False,
    waveforms: Waveforms | None = None,
    report: Callable[[dict[str, float]], Any] = lambda _: None,
) -> Outcome:
    """Fine-tune a copy of an encoder for one round of a task.

    The tested weights are from the epoch with the best validation score. With folds, or when the validation
    split is also trained on, there are no validation clips, and the last epoch is tested: the epoch is never
    chosen on test clips. The same seed gives the same result on the same number of threads.

    Args:
        model: left unchanged. Training runs on its device.
        chosen: with the name "" for the test split, the network is trained and not tested.
        bf16: autocast to bfloat16.
        waveforms: pass the same ones to every round, so that each clip is decoded once.
        report: called with each epoch's line of the history.

    Raises:
        FinetuneError: the loss does not fit the task, or training diverged.
    """
    if task.multilabel and config.loss == "cross-entropy":
        raise FinetuneError(f"{task.name} is multilabel: fine-tune it with loss='bce'")
    since, device = time.perf_counter(), model.device
    waveforms = waveforms or Waveforms(task.clips, model.sample_rate)
    splits = np.array([clip.split for clip in task.clips])
    train, test = (np.flatnonzero(np.isin(splits, list(names))) for names in (chosen.train, [chosen.test]))
    # Clips that are trained on must not choose the epoch.
    choosing = not task.folds and "valid" not in chosen.train
    valid = np.flatnonzero(splits == "valid") if choosing else np.array([], dtype=int)
    targets = Targets(task)

    def scored(split: str, numbers: np.ndarray) -> Scored:
        logits_BC = torch.from_numpy(predict(network, waveforms, numbers, bf16=bf16))
        target_BC = targets.dense(numbers)
        groups = tuple(task.clips[number].group for number in numbers)
        return Scored(split, logits_BC, target_BC if task.multilabel else target_BC.argmax(1), groups)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make: Any = Classifier if isinstance(model, AudioEncoder) else ForeignClassifier
        network = make(model, len(task.classes), config).to(device)
    if device.type == "cpu":
        keep_freed_memory()
        if bf16:
            plain_attention(network)
    optimizer = torch.optim.AdamW(network.parameter_groups(), lr=config.lr, betas=(0.9, 0.95), fused=True)
    batches_an_epoch = -(-config.clips_an_epoch(len(train)) // config.batch_size)
    total, warmup = config.epochs * batches_an_epoch, round(config.warmup_epochs * batches_an_epoch)
    history: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, Tensor], Scored] | None = None
    step = 0
    for epoch in range(1, config.epochs + 1):
        generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
        order = _order(train, targets, config, generator)
        losses = []
        network.train()
        for numbers in order.split(config.batch_size):
            rate = warmup_cosine(step, total, warmup, config.lr, config.min_lr)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            waveform_BS, lengths_B = _crops(waveforms, numbers.tolist(), config.seconds, generator)
            target_BC = targets.dense(numbers.numpy())
            others = None
            if config.mixup and config.mixup_with == "set":
                drawn = torch.from_numpy(train)[torch.randint(len(train), numbers.shape, generator=generator)]
                others = (
                    *_crops(waveforms, drawn.tolist(), config.seconds, generator),
                    targets.dense(drawn.numpy()),
                )
            waveform_BS, lengths_B, target_BC = mixup(
                waveform_BS, lengths_B, target_BC, config.mixup, config.mixup_beta, generator, others
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits_BC = network(waveform_BS.to(device), lengths_B, generator)
            loss = _loss(logits_BC.float(), target_BC.to(device), config.loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            step += 1
        line = {"epoch": float(epoch), "loss": float(torch.stack(losses).mean())}
        if not math.isfinite(line["loss"]):
            raise FinetuneError(
                f"seed {seed}, epoch {epoch}: the training loss is {line['loss']}; {DIVERGED}"
            )
        if len(valid):
            validated = scored("valid", valid)
            line["valid"] = validated.score
            if best is None or line["valid"] > best[0]:
                best = (line["valid"], epoch, copy.deepcopy(network.state_dict()), validated)
        history.append(line)
        report(line)
    if best:
        network.load_state_dict(best[2])
    return Outcome(
        test=scored(chosen.test, test),
        valid=best[3] if best else None,
        epoch=best[1] if best else config.epochs,
        seconds=time.perf_counter() - since,
        history=history,
        network=network,
    )


@torch.no_grad()
def predict(
    network: Classifier | ForeignClassifier, waveforms: Waveforms, numbers: np.ndarray, *, bf16: bool = False
) -> np.ndarray:
    """Logits of clips [clips, classes]. Clips of similar length share a batch, to keep padding small.

    Raises FinetuneError if logits are not finite: the last step of an epoch can diverge without showing
    in the loss.
    """
    network.eval()
    config, device = network.config, network.head.weight.device
    longest = max(1, round(config.seconds * waveforms.sample_rate))
    sums = np.zeros((len(numbers), network.head.out_features))
    counts = np.zeros((len(numbers), 1))
    for start in range(0, len(numbers), CLIPS_AT_ONCE):
        pieces = [
            (place, piece_S)
            for place, number in enumerate(numbers[start : start + CLIPS_AT_ONCE].tolist(), start)
            for piece_S in stretches(waveforms[number], longest)
        ]
        pieces.sort(key=lambda piece: len(piece[1]))
        for first in range(0, len(pieces), config.batch_size):
            some = pieces[first : first + config.batch_size]
            waveform_BS, lengths_B = _padded([piece_S for _, piece_S in some])
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits_BC = network(waveform_BS.to(device), lengths_B)
            for (place, _), logits_C in zip(some, logits_BC.float().cpu().numpy(), strict=True):
                sums[place] += logits_C
                counts[place] += 1
    if wrong := np.flatnonzero(~np.isfinite(sums).all(1)).tolist():
        clip = waveforms.clips[int(numbers[wrong[0]])]
        raise FinetuneError(f"{clip.name}: its logits are NaN or infinite; {DIVERGED}")
    return sums / counts


def _order(train: np.ndarray, targets: Targets, config: FinetuneConfig, generator: torch.Generator) -> Tensor:
    """The clips of an epoch: each once, or drawn by the inverse sizes of their classes."""
    if not config.balanced:
        return torch.from_numpy(train)[torch.randperm(len(train), generator=generator)]
    count = config.clips_an_epoch(len(train))
    if not config.replacement and count > len(train):
        raise FinetuneError(
            f"samples_per_epoch is {count}, but there are {len(train)} clips to draw from; lower it, or set "
            "replacement=true"
        )
    drawn = torch.multinomial(targets.weights(train), count, config.replacement, generator=generator)
    return torch.from_numpy(train)[drawn]


def _crops(
    waveforms: Waveforms, numbers: Sequence[int], seconds: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    longest = max(1, round(seconds * waveforms.sample_rate))
    crops = []
    for number in numbers:
        waveform_S = waveforms[number]
        spare = max(0, len(waveform_S) - longest)
        start = int(torch.randint(spare + 1, (1,), generator=generator))
        crops.append(waveform_S[start : start + longest])
    return _padded(crops)


def _padded(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths_B = torch.tensor([len(waveform_S) for waveform_S in waveforms])
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths_B


def _loss(logits_BC: Tensor, target_BC: Tensor, kind: str) -> Tensor:
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(logits_BC, target_BC)
    return functional.cross_entropy(logits_BC, target_BC)
