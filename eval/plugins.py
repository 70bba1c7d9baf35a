"""Registries that other packages extend through their entry points.

A package adds a task, a model or a protocol in its pyproject.toml:

    [project.entry-points."ajepa.tasks"]
    birds = "my_package.birds:open_birds"
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """A literal dictionary, and after it what installed packages add under an entry point's group.

    Another package is imported when its name is used; it cannot replace a name of ours.

    Args:
        group: of the entry points, such as "ajepa.tasks".
        known: ours, by name.
    """

    def __init__(self, group: str, known: Mapping[str, Kind]) -> None:
        self.group, self.known = group, known

    def names(self) -> list[str]:
        """All names, ours first."""
        return list(dict.fromkeys([*self.known, *(one.name for one in entry_points(group=self.group))]))

    def get(self, name: str) -> Kind | None:
        """The entry with this name, or None."""
        if name in self.known:
            return self.known[name]
        return next((one.load() for one in entry_points(group=self.group, name=name)), None)
