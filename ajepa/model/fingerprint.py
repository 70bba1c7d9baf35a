"""Fingerprints of models, which name cached features and records of one set of weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from .encoder import AudioEncoder


def fingerprint(model: nn.Module) -> str:
    """Hash of weights and buffers by name, the settings of all parts, and how audio is cut and pooled."""
    wrapped = getattr(model, "encoder", None)
    if isinstance(wrapped, AudioEncoder):  # an encoder has the same fingerprint when it is wrapped
        model = wrapped
    digest = hashlib.sha256()
    for part in model.modules():
        digest.update(f"{getattr(part, 'config', '')} {getattr(part, 'chunk_patches', '')}\n".encode())
        if getattr(part, "pooling", "mean") != "mean":  # left out for "mean": older results keep their names
            digest.update(f"{part.pooling}\n".encode())
        if layers := getattr(part, "embedding_layers", ()):
            digest.update(f"{layers}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
