"""Where an encoder lies for a toolkit that runs in a process, and a folder, of its own."""

from __future__ import annotations

from pathlib import Path

from ajepa.checkpoints import hub
from ajepa.eval.results.errors import EvaluationError
from ajepa.model.loading import DEFAULT, bundled
from ajepa.named_source import name_of
from ajepa.recipes import recipe_path

from .open import BASELINES, is_transformers


def not_taken(source: str, protocol: str) -> str:
    """Why a protocol for encoders of ours does not score another model."""
    return (
        f"the protocol {protocol} cannot be given {source}, only what ajepa.load_model loads; linear and knn "
        "score it"
    )


def find_encoder(name: str, source: str, protocol: str) -> tuple[str, str]:
    """The name and the absolute path of an encoder; with an empty name that of its source.

    Args:
        source: what `ajepa.load_model` takes: `default` and a recipe are files of the package, and what lies
            on the Hub is downloaded.
        protocol: that wants it, for errors.

    Raises:
        EvaluationError: a baseline or a folder of transformers: the toolkits are given encoders of ours.
        HubError: the Hub does not have it, or cannot be reached.
        RecipeError: the source is neither on disk nor a recipe's name.
    """
    if source in BASELINES or is_transformers(Path(source)):
        raise EvaluationError(f"{name or source}: {not_taken(source, protocol)}")
    if source == DEFAULT:
        return name or DEFAULT, str(bundled().resolve())
    if source.startswith(hub.SCHEME):
        return name or hub.Address.parse(source).repo.rpartition("/")[2], str(hub.download(source))
    path = Path(source) if Path(source).exists() else recipe_path(source)
    return name or name_of(source), str(path.resolve())
