"""Initial weights of a run from another model: `encoder.init` of a recipe."""

from __future__ import annotations

from torch import Tensor

from ajepa.checkpoints.timm_vit import SCHEME, read_timm
from ajepa.errors import AjepaError
from ajepa.model.loading import load_model
from ajepa.nn.encoder import Encoder
from ajepa.nn.grid import PatchGrid
from ajepa.objectives.base import Objective
from ajepa.recipes import Recipe, RecipeError


def initialise(objective: Objective, recipe: Recipe) -> None:
    """Overwrite the random weights of all encoders of an objective with those that `encoder.init` names.

    Raises:
        RecipeError: the source cannot be read, or its sizes are not the recipe's.
    """
    names = dict.fromkeys(["encoder", *recipe.objective.encoders.values()])
    encoders: list[Encoder] = [getattr(objective, name) for name in names]
    tensors = _tensors(recipe)
    wanted = encoders[0].state_dict()
    for name in ("cls_token", "position_table.table"):  # of a ViT; this encoder may do without
        if name not in wanted:
            tensors.pop(name, None)
    missing, surplus = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)}, here {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    if missing or surplus or shapes:
        what = "; ".join(
            f"{text} {', '.join(found[:3])}{' and others' * (len(found) > 3)}"
            for text, found in (("lacks", missing), ("has", surplus), ("has other sizes:", shapes))
            if found
        )
        raise RecipeError(f"encoder.init {recipe.encoder.init}: {what}; give the encoder the same sizes")
    for encoder in encoders:
        encoder.load_state_dict(tensors)


def _tensors(recipe: Recipe) -> dict[str, Tensor]:
    """The weights by the names of `Encoder`."""
    encoder = recipe.encoder
    try:
        if not encoder.init.startswith(SCHEME):
            return dict(load_model(encoder.init).encoder.state_dict())
        grid = PatchGrid(encoder.table.time, encoder.table.freq) if encoder.table else recipe.crop_grid
        return read_timm(encoder.init, grid, encoder.patch, encoder.mels).part("encoder")
    except AjepaError as error:
        raise RecipeError(f"encoder.init {encoder.init}: {error}") from error
