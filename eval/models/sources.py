"""Paths of encoders for a toolkit that runs in another process, and in another folder."""

from __future__ import annotations

from pathlib import Path

from ajepa.checkpoints import hub
from ajepa.model.loading import DEFAULT, bundled
from ajepa.recipes import recipe_path


def encoder_path(source: str) -> str:
    """The absolute path of a source that `ajepa.load_model` takes.

    `default` and recipes are files of this package; sources on the Hub are downloaded.

    Raises:
        HubError: the Hub does not have it, or cannot be reached.
        RecipeError: the source is neither on disk nor a recipe's name.
    """
    if source == DEFAULT:
        return str(bundled().resolve())
    if source.startswith(hub.SCHEME):
        return str(hub.download(source))
    path = Path(source) if Path(source).exists() else recipe_path(source)
    return str(path.resolve())
