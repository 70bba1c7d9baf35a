"""The contents of an official file, and how they become modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from ajepa.errors import AjepaError
from ajepa.features import LogMelConfig
from ajepa.nn.encoder import Encoder, EncoderConfig
from ajepa.objectives.base import Objective, ObjectiveConfig

Module = TypeVar("Module", bound=nn.Module)


class OfficialError(AjepaError, ValueError):
    """A file belongs to no known project or is incomplete; the message lists what is wrong."""


class Classifier(nn.Module):
    """A fine-tuned Audio-MAE: the mean over the patches (without the class token), a norm, a linear head.

    The norm is the encoder's own. `AudioEncoder` applies it to every patch instead, before any mean.
    """

    def __init__(self, encoder: EncoderConfig, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.head = nn.Linear(self.encoder.width, classes)

    def embed(self, spectrogram_BLC: Tensor) -> Tensor:
        """One embedding for each clip, [B, D]."""
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLC)
        _, layers = self.encoder(patches_BNP, self.encoder.positions(grid, patches_BNP), keep_layers=1)
        return self.encoder.norm(layers[-1].mean(1))

    def forward(self, spectrogram_BLC: Tensor) -> Tensor:
        """Logits [B, classes] of normalised log-mel spectrograms [B, L, C]."""
        return self.head(self.embed(spectrogram_BLC))


@dataclass(frozen=True)
class Official:
    """The contents of an official file.

    Attributes:
        system: "Audio-MAE", "Audio-MAE, fine-tuned" or "Audio-JEPA".
        front_end, encoder, seconds: the settings of an `AudioEncoder` for these weights.
        objective_config: None for a fine-tuned file, which lacks the rest of its objective.
        step: epochs (Audio-MAE) or steps (Audio-JEPA) of training, by the file; -1 if it does not say.
        tensors: by the names of this project's modules, such as `encoder.blocks.0.norm1.weight`.
        lacks: why there is no objective, since copies may hold an encoder alone; else empty.
    """

    path: Path
    system: str
    front_end: LogMelConfig
    encoder: EncoderConfig
    seconds: float
    objective_config: ObjectiveConfig | None
    step: int
    tensors: dict[str, Tensor]
    lacks: str = ""

    @property
    def encoders(self) -> Mapping[str, str]:
        """The attributes of its encoders by name; the first is used in evaluation."""
        found = self.objective_config.encoders if self.objective_config else {"encoder": "encoder"}
        return {name: part for name, part in found.items() if f"{part}.norm.weight" in self.tensors}

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix` and a dot, without it."""
        prefix += "."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def objective(self) -> Objective:
        """The whole system, in evaluation mode.

        Raises:
            OfficialError: the file is fine-tuned, or the shape of a tensor does not fit the sizes.
        """
        if self.objective_config is None or self.lacks:
            raise OfficialError(
                f"{self.path}: holds an encoder with no decoder or predictor that can be used "
                f"({self.lacks or 'it is fine-tuned'}); use the whole pre-trained file"
            )
        objective = self.objective_config.build(self.encoder, 1, self.front_end)
        return fill_module(objective, self.tensors, self.path)

    def classifier(self) -> Classifier:
        """The classifier of a fine-tuned file, in evaluation mode.

        Raises:
            OfficialError: the file is not fine-tuned.
        """
        head = self.tensors.get("head.weight")
        if head is None:
            raise OfficialError(f"{self.path}: {self.system} has no classifier; use a fine-tuned file")
        return fill_module(Classifier(self.encoder, len(head)), self.tensors, self.path)


def fill_module(module: Module, tensors: dict[str, Tensor], path: Path) -> Module:
    """Load tensors, all that the module needs and no others, in evaluation mode.

    Raises:
        OfficialError: a name or a shape does not fit.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise OfficialError(f"{path}: {' '.join(str(error).split())}") from error
    return module.eval()
