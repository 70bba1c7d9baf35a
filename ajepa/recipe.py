"""A recipe: everything that decides a pre-training run, as a tree of frozen dataclasses.

Recipes are YAML files filled into these classes by jsonargparse: an unknown or mistyped key is an error
that names it. The same keys are options of the command line (`--optim.lr 1e-3` or `optim.lr=1e-3`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from ajepa.encoder import EncoderConfig
from ajepa.features import LogMelConfig
from ajepa.objectives.a_jepa import AJEPAConfig
from ajepa.objectives.systems import OBJECTIVES, ObjectiveConfig


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{key} is {value}, must be at least {least:g}")


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how they are cut (A-JEPA section 4.1).

    Args:
        source: folder of audio files, searched recursively; a manifest (.csv, .parquet); a folder of indexed
            tar shards, or the http(s) address of one.
        crop_seconds: length of a crop; shorter files are extended cyclically.
        gain_db: level jitter, uniform within plus or minus so many dB.
        workers: loader processes; 0 decodes in the training process.
        cache_megabytes: decoded audio kept in memory by each loader process, so that a small set is
            decoded once; 0 decodes anew each time. The crops are the same either way.
        skip_broken: count and list unreadable files and go on with others, instead of stopping.
        shard_window: tar shards that are shuffled among each other at a time; part of the order of clips.
        shard_cache: folder for shards fetched from a server; ~/.cache/ajepa/shards if empty.
        shard_cache_megabytes: how much of it they may fill; the least recently used make room.
    """

    source: str = ""
    crop_seconds: float = 10.0
    gain_db: float = 6.0
    workers: int = 0
    cache_megabytes: int = 1024
    skip_broken: bool = False
    shard_window: int = 8
    shard_cache: str = ""
    shard_cache_megabytes: int = 32_768

    def __post_init__(self) -> None:
        _at_least("data.shard_window", self.shard_window, 1)
        _at_least("data.shard_cache_megabytes", self.shard_cache_megabytes, 1)
        _at_least("data.workers", self.workers, 0)
        _at_least("data.cache_megabytes", self.cache_megabytes, 0)
        _at_least("data.gain_db", self.gain_db, 0)
        _at_least("data.crop_seconds", self.crop_seconds, 1e-3)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules.

    Args:
        steps: optimiser steps of the whole run; schedules span them.
        epochs: passes over the data instead of `steps`, where given.
        batch_size: clips a step over all processes.
        accumulate: micro-batches into which each process splits its clips of a step; the gradient is that
            of the whole batch, the memory that of one part. A run may go on with another number, unless
            its objective has statistics over a micro-batch (`couples_clips`).
        lr: peak learning rate; `warmup_steps` up to it linearly, then a cosine down to `min_lr`.
        warmup_epochs: instead of `warmup_steps`, where given.
        weight_decay: at the first and the last step, a cosine between; none on biases and 1-D weights.
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
    weight_decay: tuple[float, float] = (0.04, 0.4)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _at_least("optim.steps", self.steps, 1)
        _at_least("optim.batch_size", self.batch_size, 1)
        _at_least("optim.accumulate", self.accumulate, 1)
        _at_least("optim.warmup_steps", self.warmup_steps, 0)
        _at_least("optim.clip_norm", self.clip_norm, 0)

    def in_steps(self, clips: int) -> OptimConfig:
        """With epochs turned into steps, for a data set of so many clips."""
        steps, warmup = self.steps, self.warmup_steps
        if self.epochs is not None:
            steps = max(1, math.ceil(self.epochs * clips / self.batch_size))
        if self.warmup_epochs is not None:
            warmup = math.ceil(self.warmup_epochs * clips / self.batch_size)
        return replace(self, steps=steps, warmup_steps=warmup)


@dataclass(frozen=True)
class ProbeConfig:
    """A small labelled set on which a kNN probe follows the run; see `ajepa.training.probe`.

    Args:
        table: CSV file, its paths relative to its own folder; empty for no probe.
        path, label: names of its columns.
        split: column whose value `train` marks the reference clips; `valid` or `validation` those that are
            scored, all others where there are none; empty: each clip against all others.
        every: steps between looks; at the start and at the end in any case.
    """

    table: str = ""
    path: str = "path"
    label: str = "label"
    split: str = ""
    every: int = 500

    def __post_init__(self) -> None:
        _at_least("run.probe.every", self.every, 1)


@dataclass(frozen=True)
class RunConfig:
    """Where and how the run executes; nothing here changes what is learnt but seed and precision.

    Args:
        accelerator, devices, nodes, precision: passed to Lightning Fabric; under torchrun it is torchrun
            that decides on devices and nodes.
        strategy: "ddp" keeps the whole model on every device, "fsdp" shares it out; "auto" is one process
            or DDP.
        compile: torch.compile for the Transformer blocks; "auto" on CUDA devices, where it works.
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
        _at_least("run.log_every", self.log_every, 1)
        _at_least("run.health_every", self.health_every, 1)
        _at_least("run.checkpoint_every", self.checkpoint_every, 1)
        _at_least("run.keep", self.keep, 1)
        _at_least("run.keep_every", self.keep_every, 0)


@dataclass(frozen=True)
class Recipe:
    """A whole pre-training run; `objective.system` says which of the three objectives it holds."""

    name: str = "unnamed"
    front_end: LogMelConfig = field(default_factory=LogMelConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: ObjectiveConfig = field(default_factory=AJEPAConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.front_end.mels != self.encoder.mels:
            raise ValueError(
                f"front_end.mels is {self.front_end.mels}, encoder.mels {self.encoder.mels}: they must agree"
            )
        if isinstance(self.objective, AJEPAConfig):
            self.objective.check_encoder(self.encoder)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for YAML and JSON."""
        return asdict(self)


class RecipeError(ValueError):
    """A recipe or an option of it is wrong; the message names the key and the value."""


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    folder = resources.files("ajepa.recipes")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def recipe_path(recipe: str) -> Path:
    """The YAML file of a packaged recipe's name or of a path.

    Raises:
        RecipeError: there is no such recipe; the message lists those that exist.
    """
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file")
        return path
    packaged = Path(str(resources.files("ajepa.recipes").joinpath(f"{recipe}.yaml")))
    if not packaged.is_file():
        raise RecipeError(
            f"no recipe is called {recipe!r}; there are {', '.join(recipe_names())}, or give a .yaml file"
        )
    return packaged


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides such as `optim.lr=1e-3` or `--optim.lr`, `1e-3`.

    Raises:
        RecipeError: an unknown key, a value of the wrong type, or no such recipe.
    """
    path, options = recipe_path(recipe), _as_options(overrides)
    parser = _parser(_chosen_system(path, options))
    return _build(parser, lambda: parser.parse_args([f"--recipe={path}", *options]))


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """A recipe from plain dictionaries, as a checkpoint stores it."""
    parser = _parser(_system_of(values))
    return _build(parser, lambda: parser.parse_object(values))


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML that `load_recipe` reads."""
    return yaml.safe_dump(_plain(recipe.as_dict()), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_options(overrides: Sequence[str]) -> list[str]:
    """Let `key=value` stand for `--key=value`."""
    options = []
    for position, item in enumerate(overrides):
        bare = not item.startswith("-") and "=" in item
        follows_option = (
            position > 0 and overrides[position - 1].startswith("--") and "=" not in overrides[position - 1]
        )
        options.append(f"--{item}" if bare and not follows_option else item)
    return options


def _system_of(values: Any) -> str:
    """`objective.system` of a recipe's plain dictionaries; without one it is A-JEPA's."""
    objective = values.get("objective") if isinstance(values, dict) else None
    system = objective.get("system", "a-jepa") if isinstance(objective, dict) else "a-jepa"
    if system not in OBJECTIVES:
        raise RecipeError(f"objective.system is {system!r}, must be one of {', '.join(OBJECTIVES)}")
    return system


def _chosen_system(path: Path, options: Sequence[str]) -> str:
    """The system that a recipe and the options beside it ask for."""
    for position, option in reversed(list(enumerate(options))):
        key, _, value = option.partition("=")
        if key == "--objective.system":
            value = value or "".join(options[position + 1 : position + 2])
            return _system_of({"objective": {"system": value}})
    try:
        return _system_of(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML ({error})") from error


def _parser(system: str) -> Any:
    # Imported here: recipes built in Python need no command-line library.
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="ajepa pretrain RECIPE", exit_on_error=False)
    parser.add_argument("--recipe", action="config")
    # The parser knows one system's keys: a wrong one is named alone, and not in the words of three.
    parser.add_class_arguments(Recipe, skip={"objective"})
    config = OBJECTIVES[system]
    parser.add_argument("--objective", type=config, default=config())
    return parser


def _build(parser: Any, parse: Any) -> Recipe:
    from jsonargparse import ArgumentError

    try:
        config = parser.instantiate(parse())
        return Recipe(**{key: value for key, value in vars(config).items() if key != "recipe"})
    except (ArgumentError, TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error
