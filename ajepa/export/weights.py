"""The weights of any model as a file in our format, and their origin."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.timm_vit import SCHEME as TIMM
from ajepa.checkpoints.unpickle import is_torch_file
from ajepa.model import AudioEncoder
from ajepa.model.embedding import Source, layers_text

from .errors import ExportError

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class Origin:
    """The origin of weights.

    Attributes:
        recipe: the whole recipe of weights that this package trained; else the parts that `load_model` needs.
        trained_here: whether this package trained them.
        step, info: as in `checkpoint.Checkpoint`.
    """

    recipe: dict[str, Any]
    trained_here: bool
    step: int
    info: dict[str, Any]


def origin_of(model: AudioEncoder, random: bool = False) -> Origin:
    """Read it from the model's file.

    Args:
        random: random weights are described too.

    Raises:
        ExportError: the model was not loaded from a file, but has random weights.
    """
    source = model.source or Source("", "unnamed", 0, "random")
    if not source.path and not random:
        raise ExportError("random weights need no file: load_model(RECIPE, seed=...) makes them again")
    foreign = not source.path or source.path.startswith(TIMM) or is_torch_file(Path(source.path))
    if not foreign:
        saved = checkpoint.load(source.path, prefixes=())
        return Origin(_without_places(saved.recipe), "optim" in saved.recipe, saved.step, saved.info)
    seconds = model.chunk_patches * model.hop_seconds
    recipe = {
        "name": source.recipe,
        "front_end": asdict(model.features.config),
        "encoder": asdict(model.encoder.config),
        "data": {"crop_seconds": seconds},
    }
    of = "official" if source.path else "random"
    return Origin(recipe, False, max(0, source.step), {of: source.recipe, "weights": source.weights})


def _without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose paths keep only their last part, so that a published file names no private folder."""
    recipe = copy.deepcopy(recipe)
    for place, key in (
        ("data", "source"),
        ("data", "shard_cache"),
        ("run", "out"),
        ("encoder", "init"),
    ):
        if recipe.get(place, {}).get(key):
            recipe[place][key] = Path(recipe[place][key]).name
    probe = recipe.get("run", {}).get("probe", {})
    if probe.get("table"):
        probe["table"] = Path(probe["table"]).name
    return recipe


def encoder_tensors(model: AudioEncoder) -> dict[str, Tensor]:
    """The weights of an encoder and its front end, under the names of a file."""
    return {
        f"{part}.{name}": value
        for part, module in (("encoder", model.encoder), ("features", model.features))
        for name, value in module.state_dict().items()
    }


def write_weights(model: AudioEncoder, origin: Origin, path: Path, dtype: Dtype = "float32") -> None:
    """Write a checkpoint of the encoder and its front end.

    Half precision is only for storage: `load_model` computes in single precision. The front end's two numbers
    are not converted.

    Raises:
        ExportError: a weight is too large for half precision.
    """
    tensors = encoder_tensors(model)
    if dtype == "float16":
        tensors = {n: value.half() if n.startswith("encoder.") else value for n, value in tensors.items()}
        too_large = [name for name, value in tensors.items() if not value.isfinite().all()]
        if too_large:
            raise ExportError(f"float16 cannot hold {', '.join(too_large)}; leave --dtype out")
    chosen = {"pooling": model.pooling, "layers": layers_text(model.embedding_layers)}
    saved = checkpoint.Checkpoint(
        tensors, origin.recipe, origin.step, origin.info | {"dtype": dtype} | chosen
    )
    checkpoint.save(path, saved)
