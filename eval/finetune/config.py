"""How an encoder is fine-tuned: typed settings, and the settings that papers used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ajepa.errors import AjepaError
from ajepa.recipes.keys import explained
from ajepa.suggest import did_you_mean


class FinetuneConfigError(AjepaError, ValueError):
    """The fine-tuning settings cannot be used; the message names them."""


# Values that each setting may have. NaN would otherwise train nothing, and show up only after an epoch.
RULES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "a number at least 1": (lambda value: value >= 1, ("epochs", "batch_size")),
    "a number": (lambda value: True, ("mean",)),
    "a number at least 0": (
        lambda value: value >= 0,
        (
            "std",
            "warmup_epochs",
            "min_lr",
            "weight_decay",
            "freq_mask",
            "time_mask",
            "samples_per_epoch",
            "head_std",
        ),
    ),
    "a number above 0": (lambda value: value > 0, ("lr", "mixup_beta", "seconds")),
    "above 0 and at most 1": (lambda value: 0 < value <= 1, ("layer_decay",)),
    "at least 0 and below 1": (lambda value: 0 <= value < 1, ("drop_path", "masked_share")),
    "at least 0 and at most 1": (lambda value: 0 <= value <= 1, ("mixup",)),
}

Masked = Literal["regularised", "structured", "drop", "zero"]
MixupWith = Literal["batch", "set"]
LossKind = Literal["cross-entropy", "bce"]
Norm = Literal["before", "after", "both"]
CHOICES: dict[str, Any] = {"masked_how": Masked, "mixup_with": MixupWith, "loss": LossKind, "norm": Norm}


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
            3.2). With one draw for all blocks: "structured" leaves out whole time steps and whole bands,
            `masked_share` of each (Audio-MAE, section 4.3); "drop" leaves patches out, and "zero" overwrites
            their input with 0, the mean of a normalised spectrogram.
        mixup: fraction of the clips that are mixed with another one. `mixup_beta` is both parameters of the
            Beta distribution that the mixing weights are drawn from.
        mixup_with: the other clip is one of the "batch", or any of the training "set", as in Audio-MAE's and
            AST's data loaders.
        freq_mask, time_mask: widest SpecAugment masks, in mel bands and in frames.
        noise: add uniform noise to the spectrogram and shift it by up to 10 frames (as AST does on Speech
            Commands).
        seconds: longest stretch of a clip to train on, cut at a random place. A longer clip is tested in
            several stretches, whose logits are averaged.
        loss: "cross-entropy", or "bce" (binary cross-entropy per class). Multilabel tasks need "bce".
        balanced: draw clips by the inverse of their classes' sizes, instead of each clip once per epoch.
        samples_per_epoch: number of clips that `balanced` draws per epoch; 0 draws as many as the training
            set has.
        replacement: whether `balanced` may draw a clip more than once an epoch. A-JEPA draws without
            replacement (section 4.1). So does Audio-MAE by its paper; its script reads the option "False" as
            true.
        norm: where a LayerNorm stands. "before": the encoder's own, before the mean over the patches, and a
            linear layer after the mean, as A-JEPA says (section 3.2); "after": one after the mean in place of
            the encoder's (Audio-MAE's `fc_norm`); "both", as in version 0.3.
        mean, std: of the log-mel spectrogram, the data set's own in place of those of pre-training, as in
            Audio-MAE's loaders; a `std` of 0 keeps the encoder's.
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
    masked_how: Masked = "regularised"
    mixup: float = 0.5
    mixup_beta: float = 10.0
    mixup_with: MixupWith = "batch"
    freq_mask: int = 48
    time_mask: int = 192
    noise: bool = False
    seconds: float = 10.0
    loss: LossKind = "cross-entropy"
    balanced: bool = False
    samples_per_epoch: int = 0
    replacement: bool = True
    norm: Norm = "before"
    mean: float = 0.0
    std: float = 0.0
    head_std: float = 2.0e-5

    def __post_init__(self) -> None:
        for rule, (holds, names) in RULES.items():
            for name in names:
                if not (math.isfinite(value := getattr(self, name)) and holds(value)):
                    raise ValueError(f"{name} is {value}, must be {rule}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, must be below epochs, {self.epochs}")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr}, must be at most lr, {self.lr}")
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                known = " or ".join(get_args(kind))
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be {known}")
        if self.balanced and not self.replacement and not self.samples_per_epoch:
            raise ValueError("without replacement, samples_per_epoch must say how many clips are drawn")

    def clips_an_epoch(self, clips: int) -> int:
        """Number of clips in one epoch, for a training set of `clips`."""
        return self.samples_per_epoch if self.balanced and self.samples_per_epoch else clips


# A-JEPA gives epochs, regularised masking and the draws on AudioSet (section 4.1); the rest is Audio-MAE's
# (arXiv 2207.06405, table 6 and its scripts), which it follows. Speech Commands as in AST (arXiv 2104.01778,
# section 3.3). Where these papers leave settings open, we chose them: the rate and batch size on ESC-50, and
# everything for VoxCeleb1.
A_JEPA: dict[str, FinetuneConfig] = {
    "audioset-2m": FinetuneConfig(
        epochs=100,
        warmup_epochs=10,
        batch_size=256,
        lr=2.0e-4,
        loss="bce",
        balanced=True,
        samples_per_epoch=200_000,
        replacement=False,
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

# Mean and deviation of each set's log-mel spectrograms in Audio-MAE's loaders; VoxCeleb1's are unverified.
STATISTICS = {
    "audioset-2m": (-4.2677393, 4.5689974),
    "audioset-20k": (-4.2677393, 4.5689974),
    "esc50": (-6.6268077, 5.358466),
    "speech_commands": (-6.845978, 5.5654526),
    "voxceleb1": (-6.370, 3.074),
}


def _audio_mae(config: FinetuneConfig, statistics: tuple[float, float]) -> FinetuneConfig:
    """The same set as Audio-MAE fine-tunes on it: structured masks, its own head, mixup and statistics."""
    mean, std = statistics
    return replace(
        config,
        masked_how="structured",
        masked_share=0.2,
        mixup_with="set",
        weight_decay=1.0e-4,
        replacement=True,
        norm="after",
        mean=mean,
        std=std,
    )


RECIPES = A_JEPA | {
    f"audio-mae-{name}": _audio_mae(A_JEPA[name], statistics) for name, statistics in STATISTICS.items()
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
    # Imported here: settings made in Python need no command-line library.
    from jsonargparse import ArgumentError, ArgumentParser

    defaults = asdict(RECIPES[recipe_name(task, recipe)]) | ({"loss": "bce"} if multilabel else {})
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals or key not in defaults:
            raise FinetuneConfigError(
                f"{setting!r} is not a setting{did_you_mean(key, defaults)}; give KEY=VALUE with a key of "
                f"{', '.join(defaults)}"
            )
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(FinetuneConfig)
    parser.set_defaults(defaults)
    try:
        config = FinetuneConfig(**vars(parser.parse_args([f"--{setting}" for setting in settings])))
    except (ArgumentError, ValueError) as error:
        raise FinetuneConfigError(explained(str(error), list(defaults))) from error
    if multilabel and config.loss == "cross-entropy":
        raise FinetuneConfigError(f"loss is cross-entropy, but clips of {task} have several labels; use bce")
    return config
