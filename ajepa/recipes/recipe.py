"""A recipe: all settings of a pre-training run, as a tree of frozen dataclasses.

jsonargparse fills YAML files into these classes: an unknown key or a wrong value is an error that names it.
The same keys are options of the command line (`--optim.lr 1e-3` or `optim.lr=1e-3`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ajepa.contents import ContentError, read_yaml
from ajepa.errors import AjepaError
from ajepa.features import LogMelConfig
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.grid import PatchGrid
from ajepa.objectives.a_jepa import AJEPAConfig
from ajepa.objectives.base import ObjectiveConfig
from ajepa.objectives.systems import ObjectiveError, objective_config
from ajepa.suggest import did_you_mean

from .keys import explained, leaves
from .parts import DataConfig, OptimConfig, RunConfig
from .stored import StoredError, check_mappings, from_plain


@dataclass(frozen=True)
class Recipe:
    """A whole pre-training run; `objective.system` names its objective."""

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
        for key, value in leaves(self.as_dict()):
            for number in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"{key} is {number}, must be a finite number")
        self.objective.check_encoder(self.encoder)

    @property
    def crop_grid(self) -> PatchGrid:
        """The patches of a crop, which is extended until its frames fill the last patch."""
        samples = round(self.data.crop_seconds * self.front_end.sample_rate)
        time, freq = self.encoder.patch
        return PatchGrid(-(-self.front_end.frames(samples) // time), self.encoder.mels // freq)

    @property
    def crop_samples(self) -> int:
        """Samples of a crop that fills its patches, so that training has no padding."""
        frames = self.crop_grid.time * self.encoder.patch[0]
        return (frames - 1) * self.front_end.hop + self.front_end.window

    @property
    def chunk_seconds(self) -> float:
        """The length of a crop's patches, which an encoder takes at once by default."""
        return self.crop_grid.time * self.encoder.patch[0] * self.front_end.step_seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, for YAML and JSON."""
        return asdict(self)


class RecipeError(AjepaError, ValueError):
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
            raise RecipeError(f"{path}: no such recipe file; check the path")
        return path
    packaged = Path(str(resources.files("ajepa.recipes").joinpath(f"{recipe}.yaml")))
    if not packaged.is_file():
        raise RecipeError(
            f"no recipe is called {recipe!r}{did_you_mean(recipe, recipe_names())}; there are "
            f"{', '.join(recipe_names())}, or give a .yaml file"
        )
    return packaged


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides such as `optim.lr=1e-3` or `--optim.lr`, `1e-3`.

    Raises:
        RecipeError: an unknown key, a value of the wrong type, or no such recipe.
    """
    path, options = recipe_path(recipe), _as_options(overrides)
    given = {option.partition("=")[0] for option in options}
    for steps, epochs in (("steps", "epochs"), ("warmup_steps", "warmup_epochs")):
        if f"--optim.{steps}" in given and f"--optim.{epochs}" not in given:
            options.append(f"--optim.{epochs}=null")
    system = _chosen_system(_read_yaml(path), options)
    try:
        return _build(system, lambda parser: parser.parse_args([f"--recipe={path}", *options]), options)
    except RecipeError as error:
        if options:  # the wrong one may be among them, and the message has the key
            raise
        raise RecipeError(f"{path}: {error}") from error


def recipe_from_dict(values: Any, source: object = "") -> Recipe:
    """A recipe from plain dictionaries, as a checkpoint stores it; keys that are missing keep their defaults.

    Only `data.segment_seconds` does not: version 0.3 had no such key, and each file was one crop an epoch.

    Args:
        source: the file, for messages.

    Raises:
        RecipeError: a key is unknown or a value of the wrong type or size.
    """
    try:
        system = _system_of(values)
        objective: Any = objective_config(system)
        parts = {} if not isinstance(values, dict) else values
        rest = {key: value for key, value in parts.items() if key != "objective"}
        recipe = from_plain(Recipe, rest if isinstance(values, dict) else values)
        if "segment_seconds" not in (parts.get("data") or {}):
            recipe = replace(recipe, data=replace(recipe.data, segment_seconds=0.0))
        return replace(recipe, objective=from_plain(objective, parts.get("objective", {}), "objective"))
    except (ValueError, RecursionError) as error:
        place = f"{source}: " if source else ""
        raise RecipeError(f"{place}in its recipe: {' '.join(str(error).split())}") from error


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
    return str(objective.get("system", "a-jepa")) if isinstance(objective, dict) else "a-jepa"


def _chosen_system(values: Any, options: Sequence[str]) -> str:
    """The system that a recipe, or an option that overrides it, asks for."""
    for position, option in reversed(list(enumerate(options))):
        key, _, value = option.partition("=")
        if key == "--objective.system":
            return value or "".join(options[position + 1 : position + 2])
    return _system_of(values)


def _read_yaml(path: Path) -> Any:
    """A recipe's file, with mappings where settings belong."""
    try:
        values = read_yaml(path)
        objective: Any = objective_config(_system_of(values))
        check_mappings(Recipe, values, path)
        check_mappings(objective, (values or {}).get("objective"), path, "objective")
    except ObjectiveError as error:
        raise RecipeError(f"{path}: {error}") from error
    except (ContentError, StoredError) as error:
        raise RecipeError(str(error)) from error
    return values


@cache
def _parser(objective: Any) -> Any:
    """The parser of recipes with this objective. To make it takes half the time of reading a recipe."""
    # Imported here: recipes built in Python need no command-line library.
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="ajepa pretrain RECIPE", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--recipe", action="config")
    # The parser knows only one system's keys, so that an error does not list those of all systems.
    parser.add_class_arguments(Recipe, skip={"objective"})
    parser.add_argument("--objective", type=objective, default=objective())
    return parser


def _build(system: str, parse: Callable[[Any], Any], options: Sequence[str] = ()) -> Recipe:
    from jsonargparse import ArgumentError

    try:
        objective: Any = objective_config(system)
    except ObjectiveError as error:
        raise RecipeError(str(error)) from error
    parser = _parser(objective)
    try:
        config = parser.instantiate(parse(parser))
        return Recipe(**{key: value for key, value in vars(config).items() if key != "recipe"})
    except (ArgumentError, TypeError, ValueError) as error:
        known = [key for key, _ in leaves(Recipe().as_dict() | {"objective": asdict(objective())})]
        given = [option.partition("=")[0].removeprefix("--") for option in options]
        raise RecipeError(explained(str(error), known, given, system)) from error
