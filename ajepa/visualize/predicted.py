"""A frozen context encoder and predictor, from a run's checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.layout import latest_checkpoint
from ajepa.checkpoints.official.contents import fill_module
from ajepa.checkpoints.sizes import check_network, check_sizes
from ajepa.data.clips import Clips
from ajepa.data.crops import CropDataset
from ajepa.errors import AjepaError
from ajepa.features import LogMel, levelled
from ajepa.masking import context_tokens
from ajepa.model.fingerprint import fingerprint
from ajepa.nn.grid import PatchGrid
from ajepa.objectives.a_jepa import AJEPA
from ajepa.recipes import Recipe, recipe_from_dict

from .regions import Region, masks_of


class VisualizeError(AjepaError, ValueError):
    """A source has no predictor to visualize, or a decoder does not fit; the message says what to give."""


class Predicted(nn.Module):
    """The mean of a predictor's outputs over a region, as a function of clips. Nothing is trained.

    Attributes:
        recipe: of the run.
        width: D, of the result.
        budget: patches of a context.
    """

    def __init__(self, recipe: Recipe, objective: AJEPA) -> None:
        super().__init__()
        self.recipe = recipe
        self.front_end = LogMel(recipe.front_end)
        self.objective = objective.requires_grad_(False).eval()
        self.width = objective.encoder.width
        self.budget = context_tokens(objective.config.masking, self.grid)

    @classmethod
    def load(cls, source: str | Path) -> Predicted:
        """From a training checkpoint of an A-JEPA run, or the run's folder.

        Raises:
            VisualizeError: another system, or an encoder alone.
            CheckpointError, RecipeError: the file cannot be read.
        """
        path = Path(source)
        if path.is_dir():
            last = latest_checkpoint(path)
            if last is None:
                raise VisualizeError(
                    f"{path}: no checkpoints in it; the predictor is only in a training checkpoint, "
                    "checkpoints/step-….safetensors"
                )
            path = last
        saved = checkpoint.load(path, prefixes=("objective.",))
        recipe = recipe_from_dict(saved.recipe, path)
        if not saved.tensors:
            raise VisualizeError(
                f"{path}: an encoder alone; give a training checkpoint, which has a predictor"
            )
        check_sizes(path, recipe.encoder, saved.shapes, "objective.encoder.")
        check_network(path, recipe.objective, "predictor", saved.shapes)
        objective = recipe.objective.build(recipe.encoder, 1, recipe.front_end)
        if not isinstance(objective, AJEPA):
            raise VisualizeError(
                f"{path}: {recipe.objective.title}; only A-JEPA's predictor is visualized so far. Of an "
                "Audio-MAE, ajepa.model.reconstruct shows the reconstruction"
            )
        tensors = {name.removeprefix("objective."): tensor for name, tensor in saved.tensors.items()}
        return cls(recipe, fill_module(objective, tensors, path))

    @property
    def grid(self) -> PatchGrid:
        """Of a crop."""
        return self.recipe.crop_grid

    def crops(self, clips: Clips, cache_megabytes: int = 0) -> CropDataset:
        """The crops that pre-training takes of these clips, at their own level."""
        rate = self.recipe.front_end.sample_rate
        seconds = self.recipe.crop_samples / rate
        return CropDataset(clips, seconds, rate, 0.0, cache_megabytes, skip_broken=True)

    @property
    def fingerprint(self) -> str:
        """Of the weights: a decoder belongs to one predictor."""
        return fingerprint(self.objective)

    @torch.no_grad()
    def spectrogram(self, waveform_BS: Tensor) -> Tensor:
        """Normalised log-mel [B, L, C] of crops of `recipe.crop_samples`, which are whole patches."""
        if waveform_BS.shape[-1] != self.recipe.crop_samples:
            raise ValueError(f"{waveform_BS.shape[-1]} samples, must be {self.recipe.crop_samples}")
        return self.front_end(levelled(waveform_BS, self.objective.encoder.config.inputs))

    @torch.no_grad()
    def forward(self, spectrogram_BLC: Tensor, regions: list[Region], generator: torch.Generator) -> Tensor:
        """The pooled predictions [B, D] of one region a clip, from random patches outside it."""
        masks = masks_of(self.grid, regions, self.budget, generator)
        return self.objective.pooled_prediction(spectrogram_BLC, masks)
