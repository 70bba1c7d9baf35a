"""Models that can be evaluated: our encoders, baselines, and encoders of other people.

Another package adds a model as an entry point of the group `ajepa.models`: a function without arguments that
returns a clip model. The entry point's name is the model's source. `text` has the other ways to name one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ajepa.contents import read_json
from ajepa.errors import AjepaError
from ajepa.eval.plugins import Registry
from ajepa.model.loading import load_model
from ajepa.model.precision import Precision

from .baselines import BaselineError, HearNaive, LogMelBaseline
from .foreign import FOREIGN, S3prlUpstream
from .frames import FrameModel, with_frames
from .ours import EncoderModel
from .text import TRANSFORMERS, TRUST, SourceError, default_name, named_model

__all__ = [
    "BASELINES",
    "MODELS",
    "ClipModel",
    "EncoderModel",
    "FrameModel",
    "Named",
    "S3prlUpstream",
    "default_name",
    "named_model",
    "open_frames",
    "open_model",
    "open_source",
]

BASELINES: dict[str, Callable[[], nn.Module]] = {"hear-naive": HearNaive, "logmel": LogMelBaseline}
MODELS = Registry("ajepa.models", BASELINES)


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
        deviation), or 1 for a model with its own statistics. F is above 1 if a time step has several
        frequency patches.
        """


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


def open_model(text: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """A model from SOURCE or NAME=SOURCE; see `open_source`."""
    name, source = named_model(text)
    return open_source(name, source, device, precision)


def open_frames(source: str, device: str | None = None) -> FrameModel:
    """An encoder with the interface of all encoders; see `open_source`."""
    return with_frames(open_source("", source, device).module).eval()


def open_source(name: str, source: str, device: str | None = None, precision: Precision = "float32") -> Named:
    """Open a model from its source, under a name.

    A source is a baseline's name (`logmel`, `hear-naive`, or one that another package adds), a folder that
    transformers saved, a text with one of the schemes of `text`, or anything that `ajepa.load_model` takes (a
    recipe's name gives the same network with random weights). Baselines and encoders that compute as their
    authors wrote them stay in single precision.

    Raises:
        ajepa.model.loading.ModelError: there is no such source.
        SourceError: the encoder of another interface is not there, lacks something, or fails in its own code.
        BaselineError: a model of transformers cannot be used.
    """
    if kind := next((FOREIGN[scheme] for scheme in FOREIGN if source.startswith(scheme)), None):
        module: nn.Module = _foreign(kind, source).to(device or "cpu")
    elif make := MODELS.get(source):
        module = make().to(device or "cpu")
    elif source.startswith(TRANSFORMERS) or is_transformers(Path(source)):
        module = _of_transformers(source).to(device or "cpu")
    else:
        module = EncoderModel(load_model(source, device=device, precision=precision))
    rounded = isinstance(module, FrameModel) and module.rounds
    return Named(name, source, module.eval(), precision if rounded else "float32")


def _foreign(kind: Callable[[str], FrameModel], source: str) -> FrameModel:
    try:
        return kind(source)
    except AjepaError:
        raise
    except Exception as error:  # of any kind: other people's code runs here
        raise SourceError(
            f"{source}: its own code fails ({type(error).__name__}: {error}); --debug shows where"
        ) from error


def _of_transformers(source: str) -> nn.Module:
    try:
        from .transformers_audio import TransformersModel
    except ImportError as error:
        raise BaselineError(
            f"{source}: this is a transformers model; pip install 'ajepa[baselines]' ({error})"
        ) from error
    place = source.removeprefix(TRANSFORMERS)
    return TransformersModel(place.removesuffix(TRUST), trust_remote_code=place.endswith(TRUST))


def is_transformers(path: Path) -> bool:
    """Whether transformers saved a model in this folder that is not one of ours, which `load_model` reads."""
    config = path / "config.json"
    if not config.is_file():
        return False
    settings = read_json(config)
    return isinstance(settings, dict) and settings.get("model_type", "ajepa") != "ajepa"
