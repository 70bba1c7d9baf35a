"""Our encoders for torch.hub.

    encoder = torch.hub.load("ajepa/ajepa", "ajepa")                  # the one that comes with the package
    encoder = torch.hub.load("ajepa/ajepa", "ajepa", "runs/first")    # any source of ajepa.load_model

torch.hub puts this folder on the path; nothing has to be installed but what `dependencies` lists.
"""

from typing import Any

import torch

dependencies = [
    "filelock", "jsonargparse", "numpy", "packaging", "safetensors", "torch", "torchaudio", "yaml",
]  # fmt: skip


def ajepa(source: str | None = None, **options: Any) -> torch.nn.Module:
    """An encoder from any source of `ajepa.load_model`, which takes the same options."""
    from ajepa.model.loading import load_model

    return load_model(source, **options)
