"""Models that can be evaluated: our encoders, baselines, transformers' encoders, other packages' models.

Another package adds a model as an entry point of the group `ajepa.models`: a function without arguments that
returns a clip model. The entry point's name is the model's source.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ajepa.checkpoints import hub
from ajepa.eval.plugins import Registry
from ajepa.model import AudioEncoder
from ajepa.model.embedding import time_statistics
from ajepa.model.loading import load_model
from ajepa.model.precision import Precision
from ajepa.named_source import name_of, named_source

from .baselines import BaselineError, HearNaive, LogMelBaseline

BASELINES: dict[str, Callable[[], nn.Module]] = {"hear-naive": HearNaive, "logmel": LogMelBaseline}
MODELS = Registry("ajepa.models", BASELINES)
OF_S3PRL = "s3prl:"


@runtime_checkable
class ClipModel(Protocol):
    """The interface that probes expect of a model, which is also a `torch.nn.Module`.

    Axes: B clips, S samples, L layers, X statistics over time, F frequency patches, D features.

    Attributes:
        sample_rate: Hz.
        ragged: whether a batch may hold clips of different lengths.
    """

    sample_rate: int
    ragged: bool

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Statistics over each clip's own time, [B, L, X, F, D].

        The last layer comes last; without `all_layers` it is the only one. X is 2 (mean and standard
        deviation), or 1 for a baseline with its own statistics. F is above 1 if a time step has several
        frequency patches.
        """


class S3prlUpstream(nn.Module):
    """An upstream of s3prl, which only s3prl itself can open: `s3prl:UPSTREAM[:CHECKPOINT]`.

    Attributes:
        upstream: the value of s3prl's -u.
        checkpoint: the value of its -k, absolute if it is a file; empty for none.
        config: the settings that its fingerprint covers.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.upstream, _, checkpoint = source.removeprefix(OF_S3PRL).partition(":")
        path = Path(checkpoint)
        exists = bool(checkpoint) and path.exists()
        self.checkpoint = str(path.resolve()) if exists else checkpoint  # s3prl runs in another folder
        state = path.stat() if exists else None
        self.config = (self.upstream, self.checkpoint, state and (state.st_size, state.st_mtime_ns))


class Named(NamedTuple):
    """A model.

    Attributes:
        name: its name in tables.
        source: what it was opened from.
        module: the clip model.
        precision: the precision of its matrix products when `module` runs.
    """

    name: str
    source: str
    module: nn.Module
    precision: Precision = "float32"


class EncoderModel(nn.Module):
    """An `AudioEncoder`, pooled over time. Layers: the outputs of the blocks, and the normed last one."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate = encoder.sample_rate
        self.ragged = True

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips with these lengths in samples to [B, L, 2, F, D]."""
        found = self.encoder(waveform_BS, lengths, layers=all_layers)
        layers = (*found.layers, found.patches)
        return torch.stack([time_statistics(layer.float(), found.lengths) for layer in layers], 1)


def open_model(text: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """A model from SOURCE or NAME=SOURCE; see `open_source`."""
    name, source = named_model(text)
    return open_source(name, source, device, precision)


def named_model(text: str) -> tuple[str, str]:
    """The name and the source in SOURCE or NAME=SOURCE; without a name, the source's default name."""
    # The path of a checkpoint after a second colon may contain "=".
    name, source = ("", text) if text.startswith(OF_S3PRL) else named_source(text)
    return name or default_name(source), source


def open_source(name: str, source: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """Open a model from its source, under a name.

    A source is a baseline's name (`logmel`, `hear-naive`, or one that another package adds), a folder that
    transformers saved, `s3prl:UPSTREAM[:CHECKPOINT]`, or anything that `ajepa.load_model` takes (a recipe's
    name gives the same network with random weights).

    Raises:
        ajepa.model.loading.ModelError: there is no such source.
        BaselineError: a folder of transformers cannot be used.
    """
    if source.startswith(OF_S3PRL):
        module: nn.Module = S3prlUpstream(source)
    elif make := MODELS.get(source):
        module = make().to(device or "cpu")
    elif is_transformers(Path(source)):
        try:
            from .transformers_audio import TransformersModel
        except ImportError as error:
            raise BaselineError(
                f"{source}: this is a transformers model; pip install 'ajepa[baselines]' ({error})"
            ) from error
        module = TransformersModel(source).to(device or "cpu")
    else:
        module = EncoderModel(load_model(source, device=device, precision=precision))
    return Named(name, source, module.eval(), precision)


def default_name(source: str) -> str:
    """A model's name in tables if none is given."""
    if source.startswith(OF_S3PRL):
        return S3prlUpstream(source).upstream
    if source.startswith(hub.SCHEME):
        return hub.Address.parse(source).repo.rpartition("/")[2]
    return name_of(source)


def is_transformers(path: Path) -> bool:
    """Whether transformers saved a model in this folder."""
    config = path / "config.json"
    return config.is_file() and "model_type" in json.loads(config.read_text())
