"""The systems by name: ours, and those of other installed packages.

Another package adds an objective by an entry point of the group `ajepa.objectives`, whose name is the
system's and whose value is the configuration class:

    [project.entry-points."ajepa.objectives"]
    my-system = "my_package.my_system:MySystemConfig"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ajepa.errors import AjepaError

from .a_jepa import AJEPAConfig
from .audio_jepa import AudioJEPAConfig
from .audio_mae import AudioMAEConfig
from .base import ObjectiveConfig

GROUP = "ajepa.objectives"

# By the key `objective.system` of a recipe.
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "a-jepa": AJEPAConfig,
    "audio-mae": AudioMAEConfig,
    "audio-jepa": AudioJEPAConfig,
}


class ObjectiveError(AjepaError, ValueError):
    """No objective has this name, or a package's entry point cannot be imported."""


def objective_names() -> list[str]:
    """The systems that a recipe can name here."""
    return [*OBJECTIVES, *(name for name in _added() if name not in OBJECTIVES)]


def objective_config(system: str) -> type[ObjectiveConfig]:
    """The configuration class of a system.

    Raises:
        ObjectiveError: no installed package has it, or its package cannot be imported.
    """
    if system in OBJECTIVES:
        return OBJECTIVES[system]
    entry = _added().get(system)
    if entry is None:
        raise ObjectiveError(
            f"objective.system is {system!r}, must be one of {', '.join(objective_names())}; "
            "another package's objective is known once that package is installed"
        )
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ObjectiveError(
            f"objective.system is {system!r}: its entry point {entry.value} cannot be imported ({error}); "
            "install that package again"
        ) from error


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
