"""What can be evaluated: our encoders, baselines, encoders of transformers, and those of other packages.

Another package adds a model as an entry point of the group `ajepa.models`: a function without arguments that
makes a clip model. Its name is the model's source.
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

BASELINES: dict[str, Callable[[], nn.Module]] = {
    "hear-naive": HearNaive,
    "logmel": LogMelBaseline,
}
MODELS = Registry("ajepa.models", BASELINES)
OF_S3PRL = "s3prl:"


@runtime_checkable
class ClipModel(Protocol):
    """What probes ask of a model, which is a `torch.nn.Module` too.

    Axes: B clips, S samples, L layers, X statistics over time, F frequency patches, D features.

    Attributes:
        sample_rate: Hz.
        ragged: whether a batch may hold clips of several lengths.
    """

    sample_rate: int
    ragged: bool

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Statistics over each clip's own time, [B, L, X, F, D].

        The last layer comes last, and alone without `all_layers`. X is 2, mean and standard deviation, or 1
        for a baseline that has statistics of its own. F is above 1 where a time step has frequency patches.
        """


class S3prlUpstream(nn.Module):
    """An upstream of s3prl, which only s3prl itself opens: `s3prl:UPSTREAM[:CHECKPOINT]`.

    Attributes:
        upstream: what s3prl's -u takes.
        checkpoint: what its -k takes, absolute where it is a file; empty for nothing.
        config: what a fingerprint of it is taken of.
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
        """Clips of these lengths in samples to [B, L, 2, F, D]."""
        found = self.encoder(waveform_BS, lengths, layers=all_layers)
        layers = (*found.layers, found.patches)
        return torch.stack([time_statistics(layer.float(), found.lengths) for layer in layers], 1)


def open_model(text: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """A model from SOURCE or NAME=SOURCE; see `open_source`."""
    name, source = named_model(text)
    return open_source(name, source, device, precision)


def named_model(text: str) -> tuple[str, str]:
    """The name and the source of SOURCE or NAME=SOURCE; with no name the source's."""
    # The path of a checkpoint behind a second colon may have a "=".
    name, source = ("", text) if text.startswith(OF_S3PRL) else named_source(text)
    return name or default_name(source), source


def open_source(name: str, source: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """A model from its source, under a name.

    A source is a baseline's name (`logmel`, `hear-naive`, or one that another package adds), a folder that
    transformers saved, `s3prl:UPSTREAM[:CHECKPOINT]`, or whatever `ajepa.load_model` takes (a recipe's name
    gives the random twin).

    Raises:
        ajepa.model.loading.ModelError: no such source.
        BaselineError: a folder of transformers that cannot be used.
    """
    if source.startswith(OF_S3PRL):
        return Named(name, source, S3prlUpstream(source), precision)
    if make := MODELS.get(source):
        return Named(name, source, make().eval().to(device or "cpu"), precision)
    path = Path(source)
    if is_transformers(path):
        try:
            from .transformers_audio import TransformersModel
        except ImportError as error:
            raise BaselineError(
                f"{source}: a model of transformers; pip install 'ajepa[baselines]' ({error})"
            ) from error
        module = TransformersModel(path).eval().to(device or "cpu")
        return Named(name, source, module, precision)
    encoder = load_model(source, device=device, precision=precision)
    return Named(name, source, EncoderModel(encoder).eval(), precision)


def default_name(source: str) -> str:
    """A model's name in tables where none is given."""
    if source.startswith(OF_S3PRL):
        return S3prlUpstream(source).upstream
    if source.startswith(hub.SCHEME):
        return hub.Address.parse(source).repo.rpartition("/")[2]
    return name_of(source)


def is_transformers(path: Path) -> bool:
    """Whether transformers saved a model in this folder."""
    config = path / "config.json"
    return config.is_file() and "model_type" in json.loads(config.read_text())
