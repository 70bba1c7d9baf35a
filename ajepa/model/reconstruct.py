"""From a waveform to a spectrogram whose hidden patches a masked autoencoder has reconstructed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.official import read_official
from ajepa.checkpoints.official.contents import fill_module
from ajepa.checkpoints.sizes import check_network, check_sizes
from ajepa.checkpoints.unpickle import is_torch_file
from ajepa.errors import AjepaError
from ajepa.features import LogMel, LogMelConfig, levelled
from ajepa.nn.encoder import Encoder
from ajepa.nn.grid import PatchGrid
from ajepa.objectives.audio_mae import Levels
from ajepa.recipes import recipe_from_dict


class ReconstructError(AjepaError, ValueError):
    """A source has no decoder that reconstructs; the message says which sources have one."""


@runtime_checkable
class Reconstructing(Protocol):
    """An objective that can fill in the hidden patches of a spectrogram, such as Audio-MAE."""

    encoder: Encoder

    def reconstruct(self, spectrogram_BLC: Tensor, hidden_BN: Tensor, levels: Levels = "true") -> Tensor:
        """The spectrogram [B, L, C] with the patches predicted where `hidden_BN` is True."""
        ...


class Reconstructor(nn.Module):
    """A masked autoencoder with its front end."""

    def __init__(self, features: LogMelConfig, objective: Reconstructing) -> None:
        super().__init__()
        self.features = LogMel(features)
        self.objective = objective
        self.sample_rate = features.sample_rate

    def grid(self, samples: int) -> PatchGrid:
        """Patches of a clip of `samples` samples: the shape of its mask, time-major."""
        return self.objective.encoder.grid(self.features.config.frames(samples))

    @torch.no_grad()
    def reconstruct(self, waveform_BS: Tensor, hidden_BN: Tensor, levels: Levels = "true") -> Tensor:
        """The clips' spectrograms, hidden patches predicted from the others.

        Args:
            waveform_BS: mono waveforms at `sample_rate`, about within ±1.
            hidden_BN: True for patches to hide, [B, N] of `grid(samples)`, time-major.
            levels: where a hidden patch's mean and deviation come from, which weights that know normalised
                patches do not predict: "true" puts its own back, which were hidden; "neighbours" takes
                them from the visible patches, as concealing lost audio must.

        Returns:
            Normalised log-mel [B, L, C], as the front end gives it.

        Raises:
            ValueError: the mask does not fit the clips' grid, or hides a whole clip.
        """
        encoder = self.objective.encoder
        inputs = encoder.config.inputs
        spectrogram_BLC = self.features(levelled(waveform_BS, inputs))
        frames, patch = spectrogram_BLC.shape[1], encoder.config.patch[0]
        grid = encoder.grid(frames)
        # As for embeddings: padded to the lengths that the weights expect, and the padding is visible.
        filled = -(-grid.time // inputs.steps) * inputs.steps
        fill = inputs.fill_value(self.features.config, float(self.features.silence))
        spectrogram_BLC = nn.functional.pad(spectrogram_BLC, (0, 0, 0, filled * patch - frames), value=fill)
        if hidden_BN.shape == (len(spectrogram_BLC), grid.tokens):  # a wrong shape is refused below
            hidden_BN = nn.functional.pad(hidden_BN, (0, (filled - grid.time) * grid.freq), value=False)
        return self.objective.reconstruct(spectrogram_BLC, hidden_BN, levels)[:, :frames]


def load_reconstructor(source: str | Path, *, heads: int | None = None) -> Reconstructor:
    """Load an official pre-trained Audio-MAE file, or a training checkpoint of an Audio-MAE recipe.

    Args:
        heads: attention heads of an official encoder, which its file does not say; width / 64 by default.

    Raises:
        ReconstructError: the source holds another system.
        OfficialError, UnpickleError, CheckpointError, RecipeError: the file cannot be read.
    """
    path = Path(source)
    remedy = "only a pre-trained Audio-MAE, its official file or a training checkpoint, reconstructs"
    if path.is_file() and is_torch_file(path):
        found = read_official(path, heads=heads)
        objective = found.objective()
        if not isinstance(objective, Reconstructing):
            raise ReconstructError(f"{path}: {found.system}; {remedy}")
        return Reconstructor(found.front_end, objective).eval()
    saved = checkpoint.load(path, prefixes=("objective.",))
    recipe = recipe_from_dict(saved.recipe, path)
    if not saved.tensors:
        raise ReconstructError(f"{path}: {recipe.name}, an encoder alone; {remedy}")
    check_sizes(path, recipe.encoder, saved.shapes, "objective.encoder.")
    check_network(path, recipe.objective, "decoder", saved.shapes)
    objective = recipe.objective.build(recipe.encoder, 1, recipe.front_end)
    if not isinstance(objective, Reconstructing):
        raise ReconstructError(f"{path}: {recipe.name}; {remedy}")
    tensors = {name.removeprefix("objective."): tensor for name, tensor in saved.tensors.items()}
    return Reconstructor(recipe.front_end, fill_module(objective, tensors, path)).eval()
