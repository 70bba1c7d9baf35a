"""Encoders of other people, loaded as their authors wrote them: HEAR modules, s3prl upstreams, X-ARES files,
and functions that return a module.

They compute in single precision outside autocast, whatever precision is asked for: their code may call numpy
or an operation that bfloat16 lacks. Clips of different lengths are never padded to one batch, because most of
them let the padding into their features.

Axes: B clips, S samples, T time steps, D features.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ajepa import harness
from ajepa.errors import AjepaError

from .frames import ONE_VECTOR_SECONDS, FrameModel, Frames
from .text import HEAR, PYTHON, S3PRL, XARES, SourceError, described, hear_parts, imported, python_parts

SILENCE_SECONDS = 1.0  # of the clip that shows the spacing of a HEAR module's frames
S3PRL_RATE = 16_000


@contextmanager
def as_written(device: torch.device) -> Iterator[None]:
    """Where code of others runs: no autocast on its device, nor on the CPU, where features are extracted."""
    with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
        yield


def layers_of(output: Any, source: str) -> tuple[Tensor, ...]:
    """An output as layers [B, T, 1, D]: one tensor or several, each [B, T, D], or [B, D] for one vector.

    Raises SourceError for anything else.
    """
    given: Sequence[Any] = [output] if isinstance(output, Tensor) else output
    if not isinstance(given, (list, tuple)) or not given or not all(isinstance(one, Tensor) for one in given):
        raise SourceError(
            f"{source}: returned {type(output).__name__}; return frames [clips, frames, features]"
        )
    shapes = {tuple(one.shape) for one in given}
    if len(shapes) > 1 or given[0].ndim not in (2, 3):
        raise SourceError(
            f"{source}: returned shapes {sorted(shapes)}; return frames [clips, frames, features], or one "
            "vector [clips, features], of the same shape for all layers"
        )
    return tuple(one[:, None, None] if one.ndim == 2 else one[:, :, None] for one in given)


def _all_steps(layers: tuple[Tensor, ...]) -> Frames:
    """Frames of clips of one length: all time steps are theirs."""
    clips, steps = layers[-1].shape[:2]
    return Frames(layers, torch.full((clips,), steps, device=layers[-1].device))


class PythonEncoder(FrameModel):
    """What a function returns, `python:MODULE:FACTORY[:ARGUMENT]`: a `torch.nn.Module` with

    - `sample_rate`, in Hz;
    - `hop_seconds`, the time between two frames; without it, clips have one vector each;
    - `forward(waveform)`, from clips of one length [clips, samples] to frames [clips, frames, features]; to a
      list of them, one for each layer, the output last; or to one vector a clip, [clips, features];
    - optionally `first_seconds`, the centre of the first frame, and `trainable`, whether it can be fine-tuned
      (if it has parameters).

    Raises:
        SourceError: there is no such function, or what it returns lacks something.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        name, factory, argument = python_parts(source)
        module = imported(name, source)
        make = getattr(module, factory, None)
        if not callable(make):
            raise SourceError(f"{source}: {name} has no function {factory}; check the name")
        made: Any = make(argument) if argument else make()
        rate: Any = getattr(made, "sample_rate", None)
        if not isinstance(made, nn.Module) or not isinstance(rate, int):
            raise SourceError(
                f"{source}: {factory}() returned {type(made).__name__}; return a torch.nn.Module with "
                "sample_rate, in Hz"
            )
        self.encoder = made
        self.config = described(module, factory, argument)
        self.sample_rate = int(rate)
        hop = getattr(made, "hop_seconds", None)
        self.has_frames = hop is not None
        self.hop_seconds = float(ONE_VECTOR_SECONDS if hop is None else hop)
        self.first_seconds = float(getattr(made, "first_seconds", self.hop_seconds / 2))
        self.trainable = bool(getattr(made, "trainable", any(True for _ in made.parameters())))

    @property
    def one_vector(self) -> bool:
        return not self.has_frames

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """All layers that it gives, or the last."""
        with as_written(waveform_BS.device):
            layers = layers_of(self.encoder(waveform_BS), self.source)
        return _all_steps(layers if all_layers else layers[-1:])


class HearEncoder(FrameModel):
    """A module with the HEAR API, `hear:MODULE[@WEIGHTS]`.

    Its frames are its timestamp embeddings. The vector of a clip is its own scene embedding, not their mean.

    Raises:
        SourceError: the module is not there, or lacks a part of the API.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        name, weights = hear_parts(source)
        self.api = imported(name, source)
        needed = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
        if absent := [one for one in needed if not hasattr(self.api, one)]:
            raise SourceError(f"{source}: {name} has no {', '.join(absent)}, which the HEAR API asks for")
        self.module_name, self.weights = name, weights
        model = self.api.load_model(weights) if weights else self.api.load_model()
        if isinstance(model, nn.Module):
            self.model = model
        else:  # the API does not ask for a module
            object.__setattr__(self, "model", model)
        self.config = described(self.api, weights)
        self.sample_rate = int(model.sample_rate)
        self.hop_seconds, self.first_seconds = self._spacing()

    @property
    def one_vector(self) -> bool:
        return True

    def _spacing(self) -> tuple[float, float]:
        silence_BS = torch.zeros(1, round(SILENCE_SECONDS * self.sample_rate), device=self.device)
        with as_written(self.device), torch.no_grad():
            _, stamps_BT = self.api.get_timestamp_embeddings(silence_BS, self.model)
        first, *others = [float(stamp) / 1000 for stamp in stamps_BT[0]]
        return (others[-1] - first) / len(others) if others else ONE_VECTOR_SECONDS, first

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """The timestamp embeddings, the only layer."""
        with as_written(waveform_BS.device):
            frames_BTD, _ = self.api.get_timestamp_embeddings(waveform_BS, self.model)
        return _all_steps(layers_of(frames_BTD.to(waveform_BS.device), self.source))

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """The scene embeddings, [B, 1, 1, 1, D]."""
        with as_written(waveform_BS.device):
            scene_BD = self.api.get_scene_embeddings(waveform_BS, self.model)
        return scene_BD.to(waveform_BS.device).float()[:, None, None, None]


class XaresFile(FrameModel):
    """The encoder of a file for X-ARES, `xares:FILE.py`: a class whose name ends in Encoder.

    Raises:
        SourceError: the file is not there, or has no such class.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        file = source.removeprefix(XARES)
        if not file.endswith(".py"):
            raise SourceError(f"{source}: not a Python file; write xares:FILE.py")
        module = imported(file, source)
        named: list[Any] = [
            kind
            for name, kind in vars(module).items()
            if inspect.isclass(kind) and name.endswith("Encoder") and hasattr(kind, "forward")
        ]
        own = [kind for kind in named if kind.__module__ == module.__name__] or named
        if len(own) != 1:
            found = ", ".join(sorted(kind.__name__ for kind in own)) or "none"
            raise SourceError(f"{source}: one class must have a name that ends in Encoder; found {found}")
        self.encoder = own[0]()
        self.config = described(module)
        self.sample_rate = int(self.encoder.sampling_rate)
        self.hop_seconds = float(self.encoder.hop_size_in_ms) / 1000
        self.first_seconds = self.hop_seconds / 2

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """The only layer."""
        with as_written(waveform_BS.device):
            return _all_steps(layers_of(self.encoder(waveform_BS), self.source))


class S3prlUpstream(FrameModel):
    """An upstream of s3prl, `s3prl:UPSTREAM[:CHECKPOINT]`. It is loaded when it is first used.

    Attributes:
        upstream: the value of s3prl's -u.
        checkpoint: the value of its -k, absolute if it is a file; empty for none.
        config: the settings that its fingerprint covers.
    """

    sample_rate = S3PRL_RATE  # of all waveforms in s3prl

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.upstream, _, checkpoint = source.removeprefix(S3PRL).partition(":")
        path = Path(checkpoint)
        exists = bool(checkpoint) and path.exists()
        self.checkpoint = str(path.resolve()) if exists else checkpoint  # s3prl runs in another folder
        state = path.stat() if exists else None
        self.config = (self.upstream, self.checkpoint, state and (state.st_size, state.st_mtime_ns))
        self._loaded: list[Any] = []  # in a list, so that the fingerprint does not depend on what was loaded

    def _expert(self, device: torch.device) -> Any:
        if not self._loaded:
            hub = harness.imported("s3prl.hub")
            make = getattr(hub, self.upstream, None)
            if make is None:
                raise SourceError(f"{self.source}: s3prl has no upstream {self.upstream!r}; check its name")
            try:
                self._loaded = [make(ckpt=self.checkpoint) if self.checkpoint else make()]
            except AjepaError:
                raise
            except Exception as error:  # s3prl raises many kinds, and downloads
                raise SourceError(f"{self.source}: s3prl cannot load it ({error})") from error
        return self._loaded[0].to(device).eval()

    @property
    def hop_seconds(self) -> float:  # type: ignore[override]
        """Of its hidden states."""
        return self._expert(torch.device("cpu")).get_downsample_rates("hidden_states") / S3PRL_RATE

    @property
    def first_seconds(self) -> float:  # type: ignore[override]
        """Half a step: s3prl does not say it."""
        return self.hop_seconds / 2

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """Its hidden states, the last one last."""
        with as_written(waveform_BS.device):
            found = self._expert(waveform_BS.device)(list(waveform_BS))
        states = tuple(found["hidden_states"])
        return _all_steps(layers_of(states if all_layers else states[-1], self.source))


FOREIGN: dict[str, Callable[[str], FrameModel]] = {
    HEAR: HearEncoder,
    PYTHON: PythonEncoder,
    S3PRL: S3prlUpstream,
    XARES: XaresFile,
}
