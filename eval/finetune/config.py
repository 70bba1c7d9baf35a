"""How an encoder is fine-tuned: typed settings, and the settings that papers used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_type_hints

from ajepa.errors import AjepaError


class FinetuneConfigError(AjepaError, ValueError):
    """The fine-tuning settings cannot be used; the message names them."""


class Interval(NamedTuple):
    """Finite numbers from `least` to `most`. An open end is excluded."""

    least: float
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, value: float) -> bool:
        """Whether the interval contains a number."""
        above = value > self.least if self.open_least else value >= self.least
        below = value < self.most if self.open_most else value <= self.most
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        text = f"{'above' if self.open_least else 'at least'} {self.least}"
        if self.most == math.inf:
            return f"a number {text}"
        return f"{text} and {'below' if self.open_most else 'at most'} {self.most}"


POSITIVE, NOT_NEGATIVE = Interval(0, open_least=True), Interval(0)
# Allowed values of each setting. Without this check, NaN would train nothing and show up only after an epoch.
INTERVALS = {
    "epochs": Interval(1),
    "warmup_epochs": NOT_NEGATIVE,
    "batch_size": Interval(1),
    "lr": POSITIVE,
    "min_lr": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "layer_decay": Interval(0, 1, open_least=True),
    "drop_path": Interval(0, 1, open_most=True),
    "masked_share": Interval(0, 1, open_most=True),
    "mixup": Interval(0, 1),
    "mixup_beta": POSITIVE,
    "freq_mask": NOT_NEGATIVE,
    "time_mask": NOT_NEGATIVE,
    "seconds": POSITIVE,
    "samples_per_epoch": NOT_NEGATIVE,
    "head_std": NOT_NEGATIVE,
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of one fine-tuning run. Raises ValueError for values that cannot work.

    Args:
        epochs, warmup_epochs: passes over the training clips. The rate rises linearly during warm-up, then
            falls along half a cosine to `min_lr`.
        lr: rate of the head and the last block, for a batch of `batch_size`.
        layer_decay: each block's rate is this factor times the rate of the block after it.
        drop_path: rate of stochastic depth in the last block.
        masked_share: fraction of the patches masked in training, below 1.
        masked_how: "regularised": each block hides its own draw of patches from attention (A-JEPA, section
            3.3). For comparison, with one draw for all blocks: "drop" leaves patches out, and "zero"
            overwrites their input with 0, the mean of a normalised spectrogram.
        mixup: fraction of the clips that are mixed with another one. `mixup_beta` is both parameters of the
            Beta distribution that the mixing weights are drawn from.
        freq_mask, time_mask: widest SpecAugment masks, in mel bands and in frames.
        noise: add uniform noise to the spectrogram and shift it by up to 10 frames (as AST does on Speech
            Commands).
        seconds: longest stretch of a clip to train on, cut at a random place. A longer clip is tested in
            several stretches, whose logits are averaged.
        loss: "cross-entropy", or "bce" (binary cross-entropy per class). Multilabel tasks need "bce".
        balanced: draw clips by the inverse of their classes' sizes, instead of each clip once per epoch.
        samples_per_epoch: number of clips that `balanced` draws per epoch; 0 draws as many as the training
            set has.
        head_std: standard deviation of the head's initial weights.
    """

    epochs: int = 50
    warmup_epochs: float = 5
    batch_size: int = 32
    lr: float = 2.0e-4
    min_lr: float = 1.0e-6
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    drop_path: float = 0.1
    masked_share: float = 0.1
    masked_how: Literal["regularised", "drop", "zero"] = "regularised"
    mixup: float = 0.5
    mixup_beta: float = 10.0
    freq_mask: int = 48
    time_mask: int = 192
    noise: bool = False
    seconds: float = 10.0
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    balanced: bool = False
    samples_per_epoch: int = 0
    head_std: float = 2.0e-5

    def __post_init__(self) -> None:
        for name, interval in INTERVALS.items():
            value = getattr(self, name)
            if not interval.holds(value):  # no interval contains NaN
                raise ValueError(f"{name} is {value}, must be {interval}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, must be at most epochs, {self.epochs}")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr}, must be at most lr, {self.lr}")
        if self.loss not in ("cross-entropy", "bce"):
            raise ValueError(f"loss is {self.loss!r}, must be cross-entropy or bce")
        if self.masked_how not in ("regularised", "drop", "zero"):
            raise ValueError(f"masked_how is {self.masked_how!r}, must be regularised, drop or zero")

    def clips_an_epoch(self, clips: int) -> int:
        """Number of clips in one epoch, for a training set of `clips`."""
        return self.samples_per_epoch if self.balanced and self.samples_per_epoch else clips


# Audio-MAE's settings (arXiv 2207.06405, table 6 and its scripts), which A-JEPA follows, plus A-JEPA's
# regularised masking. Speech Commands as in AST (arXiv 2104.01778, section 3.3). Where these papers leave
# settings open, we chose them: the rate and batch size on ESC-50, and everything for VoxCeleb1.
RECIPES: dict[str, FinetuneConfig] = {
    "audioset-2m": FinetuneConfig(
        epochs=100,
        warmup_epochs=10,
        batch_size=256,
        lr=2.0e-4,
        loss="bce",
        balanced=True,
        samples_per_epoch=200_000,
    ),
    "audioset-20k": FinetuneConfig(epochs=60, warmup_epochs=4, batch_size=32, lr=1.25e-4, loss="bce"),
    "esc50": FinetuneConfig(epochs=50, warmup_epochs=5, freq_mask=24, time_mask=96),
    "speech_commands": FinetuneConfig(
        epochs=30,
        warmup_epochs=3,
        batch_size=128,
        lr=2.5e-4,
        mixup=0.6,
        freq_mask=48,
        time_mask=48,
        noise=True,
        loss="bce",
    ),
    "voxceleb1": FinetuneConfig(epochs=40, warmup_epochs=4, batch_size=32, time_mask=96),
    "generic": FinetuneConfig(),
}

# The recipe a task uses when none is named; tasks from other packages use the generic one.
OF_TASK = {
    "audioset_20k": "audioset-20k",
    "audioset_2m": "audioset-2m",
    "esc10": "esc50",
    "esc50": "esc50",
    "speech_commands_v1": "speech_commands",
    "speech_commands_v2": "speech_commands",
    "voxceleb1": "voxceleb1",
    "table": "esc50",
}


def recipe_name(task: str, recipe: str | None = None) -> str:
    """The named recipe, or the task's default. Raises FinetuneConfigError if there is no such recipe."""
    name = recipe or OF_TASK.get(task, "generic")
    if name not in RECIPES:
        raise FinetuneConfigError(f"no fine-tuning recipe is called {name!r}; choose {', '.join(RECIPES)}")
    return name


def config_for(
    task: str, recipe: str | None = None, settings: Sequence[str] = (), *, multilabel: bool = False
) -> FinetuneConfig:
    """The settings for a task: from a recipe (`recipe_name`), then overridden by `settings` like "epochs=20".

    Args:
        multilabel: clips have several labels: the loss is "bce", whatever the recipe says.

    Raises FinetuneConfigError for an unknown recipe, key or value, or another loss for a multilabel task.
    """
    config = RECIPES[recipe_name(task, recipe)]
    changes: dict[str, Any] = {"loss": "bce"} if multilabel else {}
    kinds = get_type_hints(FinetuneConfig)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in kinds:
            raise FinetuneConfigError(
                f"{setting!r} is not a setting; give KEY=VALUE with a key of {', '.join(asdict(config))}"
            )
        kind = kinds[key]
        changes[key] = _as_kind(key, text, kind if isinstance(kind, type) else str)  # not a type: a Literal
    if multilabel and changes["loss"] == "cross-entropy":
        raise FinetuneConfigError(f"loss is cross-entropy, but clips of {task} have several labels; use bce")
    try:
        return replace(config, **changes)
    except ValueError as error:
        raise FinetuneConfigError(str(error)) from error


def _as_kind(key: str, text: str, kind: type) -> object:
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise FinetuneConfigError(f"{key} is {text!r}, must be true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise FinetuneConfigError(f"{key} is {text!r}, must be of type {kind.__name__}") from error
