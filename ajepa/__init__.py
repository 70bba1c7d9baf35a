"""ajepa: audio encoders pre-trained by prediction in latent space.

`ajepa.load_model(source)` returns an `AudioEncoder`; `ajepa.pretrain(recipe)` trains one;
`ajepa.load_classifier(folder)` returns one with labels. Names are imported on first use: `import ajepa` does
not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ajepa.audio import AudioError
    from ajepa.embed import read_embeddings
    from ajepa.errors import AjepaError
    from ajepa.eval.classifiers import load_classifier
    from ajepa.features import LogMel, LogMelConfig
    from ajepa.model import AudioEncoder, Embedding
    from ajepa.model.loading import load_model
    from ajepa.recipes import Recipe, load_recipe
    from ajepa.training.loop import pretrain

_HOMES = {
    "AjepaError": "ajepa.errors",
    "AudioEncoder": "ajepa.model",
    "AudioError": "ajepa.audio",
    "Embedding": "ajepa.model",
    "LogMel": "ajepa.features",
    "LogMelConfig": "ajepa.features",
    "Recipe": "ajepa.recipes",
    "load_classifier": "ajepa.eval.classifiers",
    "load_model": "ajepa.model.loading",
    "load_recipe": "ajepa.recipes",
    "read_embeddings": "ajepa.embed",
    "pretrain": "ajepa.training.loop",
}

__all__ = [
    "AjepaError",
    "AudioEncoder",
    "AudioError",
    "Embedding",
    "LogMel",
    "LogMelConfig",
    "Recipe",
    "load_classifier",
    "load_model",
    "load_recipe",
    "pretrain",
    "read_embeddings",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("ajepa")
    if name not in _HOMES:
        raise AttributeError(f"module 'ajepa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
