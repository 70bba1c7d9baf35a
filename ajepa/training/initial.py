"""Initial weights of a run from other models: `encoder.init` and `objective.teacher` of a recipe."""

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
    """Overwrite random weights of an objective's encoders with those that its recipe names.

    All encoders get those of `encoder.init`; one that keeps another model's weights gets that model's.

    Raises:
        RecipeError: a source cannot be read, or its sizes are not the recipe's.
    """
    names = dict.fromkeys(["encoder", *recipe.objective.encoders.values()])
    if recipe.encoder.init:
        tensors = _tensors("encoder.init", recipe.encoder.init, objective.encoder, recipe)
        for name in names:
            getattr(objective, name).load_state_dict(tensors)
    for name, source in objective.kept.items():
        encoder: Encoder = getattr(objective, name)
        encoder.load_state_dict(_tensors("objective.teacher", source, encoder, recipe))


def _tensors(key: str, source: str, encoder: Encoder, recipe: Recipe) -> dict[str, Tensor]:
    """A source's weights for an encoder. Raises RecipeError, naming the key."""
    try:
        tensors = _read(source, recipe)
    except AjepaError as error:
        raise RecipeError(f"{key} {source}: {error}") from error
    wanted = encoder.state_dict()
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
        raise RecipeError(f"{key} {source}: {what}; give the encoder the same sizes")
    return tensors


def _read(source: str, recipe: Recipe) -> dict[str, Tensor]:
    """The weights by the names of `Encoder`."""
    if not source.startswith(SCHEME):
        return dict(load_model(source).encoder.state_dict())
    encoder = recipe.encoder
    grid = PatchGrid(encoder.table.time, encoder.table.freq) if encoder.table else recipe.crop_grid
    return read_timm(source, grid, encoder.patch, encoder.mels).part("encoder")
