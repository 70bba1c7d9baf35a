"""What can be evaluated, behind one interface: our encoders, baselines, and encoders of transformers.

A clip model is a module with `sample_rate` (Hz), `ragged` (may a batch hold clips of several lengths?) and

    model(waveform_BS, lengths, all_layers) -> Tensor [B, L, S, F, D]

statistics over a clip's own time of each layer, the last layer last. S = 2: mean and standard deviation;
S = 1 for a baseline with statistics of its own. F > 1 where a time step has frequency patches.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ajepa.model import AudioEncoder
from ajepa.model.embedding import time_statistics
from ajepa.model.loading import load_model
from ajepa.model.precision import Precision
from ajepa.named_source import name_of, named_source

from .baselines import BaselineError, HearNaive, LogMelBaseline

BASELINES: dict[str, Callable[[], nn.Module]] = {
    "hear-naive": HearNaive,
    "logmel": LogMelBaseline,
}


class Named(NamedTuple):
    """A model.

    Attributes:
        name: as tables call it.
        source: where it came from.
        module: the clip model.
        precision: of its matrix products, which `module` is run with.
    """

    name: str
    source: str
    module: nn.Module
    precision: Precision = "float32"


class EncoderModel(nn.Module):
    """An `AudioEncoder`, pooled over time; layers are those of the blocks and the normed last one."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate = encoder.sample_rate
        self.ragged = True

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips of so many samples each to [B, L, 2, F, D]."""
        found = self.encoder(waveform_BS, lengths, layers=all_layers)
        layers = (*found.layers, found.patches)
        return torch.stack([time_statistics(layer.float(), found.lengths) for layer in layers], 1)


def open_model(text: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """A model from SOURCE or NAME=SOURCE; see `open_source`."""
    name, source = named_source(text)
    return open_source(name, source, device, precision)


def open_source(name: str, source: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """A model from its source, under a name; with an empty one under its source's.

    A source is a baseline's name (`logmel`, `hear-naive`), a folder that transformers saved, or whatever
    `ajepa.load_model` takes (a recipe's name gives the random twin).

    Raises:
        ajepa.model.loading.ModelError: no such source.
        BaselineError: a folder of transformers that cannot be used.
    """
    if source in BASELINES:
        return Named(name or source, source, BASELINES[source]().eval().to(device or "cpu"), precision)
    path = Path(source)
    if is_transformers(path):
        try:
            from .transformers_audio import TransformersModel
        except ImportError as error:
            raise BaselineError(
                f"{source}: a model of transformers; pip install 'ajepa[baselines]' ({error})"
            ) from error
        module = TransformersModel(path).eval().to(device or "cpu")
        return Named(name or name_of(source), source, module, precision)
    encoder = load_model(source, device=device, precision=precision)
    return Named(name or name_of(source), source, EncoderModel(encoder).eval(), precision)


def is_transformers(path: Path) -> bool:
    """Whether transformers saved a model in this folder."""
    config = path / "config.json"
    return config.is_file() and "model_type" in json.loads(config.read_text())
