"""Encoders from what people have: our files, those of other projects, the Hub, and recipes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import get_args

import torch

from ajepa.checkpoints import hub, layout
from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.official import OfficialError, read_official
from ajepa.checkpoints.official.contents import fill_module
from ajepa.checkpoints.unpickle import UnpickleError, is_torch_file
from ajepa.errors import AjepaError
from ajepa.recipes import RecipeError, load_recipe, recipe_from_dict

from .embedding import Pooling, Source
from .encoder import AudioEncoder
from .precision import Precision, check_precision

DEFAULT = "default"
FINISHED = (layout.ENCODER, hub.WEIGHTS)  # in a run's folder, in an exported one


class ModelError(AjepaError, ValueError):
    """A model source cannot be used; the message names it and says what can."""


def bundled() -> Path:
    """The file of the encoder that comes with the package."""
    return Path(str(resources.files("ajepa.weights").joinpath("ajepa-plus-small.safetensors")))


def load_model(
    source: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    weights: str | None = None,
    chunk_seconds: float | None = None,
    seed: int = 0,
    heads: int | None = None,
    sample_rate: int | None = None,
    precision: Precision = "float32",
    pooling: Pooling | None = None,
) -> AudioEncoder:
    """Load an encoder, in evaluation mode.

    Args:
        source: an `encoder.safetensors` or a training checkpoint of ours; a run's folder (its finished
            encoder, else its last checkpoint); an official Audio-MAE `.pth` or Audio-JEPA `.ckpt`; or a
            recipe's name or YAML file (random weights: the twin that a pre-trained encoder has to beat).
            `hf://owner/name[@revision]`: what `ajepa export --push` put on the Hugging Face Hub.
            None or "default": the small encoder that comes with the package (ajepa/weights/README.md is its
            card; a folder of that name is ./default). What a file is follows from its content.
        device: where to put it; None leaves it on the CPU.
        weights: which encoder of a training checkpoint or an Audio-JEPA file; for A-JEPA and Audio-JEPA
            "target_encoder" (the default) or "encoder", which is the only one of Audio-MAE.
        chunk_seconds: longest stretch that is encoded at once; None takes the length of the crops that
            the encoder was trained on.
        seed: of the random weights.
        heads: attention heads of an official encoder, which its file does not say; width / 64 by default.
        sample_rate: of an Audio-JEPA file's front end, Hz, which it does not say; 32,000 by default.
        precision: of the blocks' matrix products. "bf16" is some 3 times as fast on CPUs that multiply in
            bfloat16, and changes embeddings in their third digit (docs/performance.md).
        pooling: what `Embedding.clip` is, "mean" or "mean+std" over time; None takes what an exported file
            says, else "mean".

    Raises:
        ModelError: no such source, a file that is none of these, or an option that does not apply to it.
        HubError: the Hub does not have it, or cannot be reached.
    """
    check_precision(precision)
    if pooling is not None:
        _check_pooling(pooling, source)
    if source is None or source in ("", DEFAULT):
        source = bundled()
    if str(source).startswith(hub.SCHEME):
        source = hub.download(str(source))
    path = Path(source)
    try:
        if path.is_file() and is_torch_file(path):
            model = _from_official(path, weights, chunk_seconds, heads, sample_rate)
        elif heads or sample_rate:
            raise ModelError(f"{source}: heads and sample_rate can be chosen for official files alone")
        elif path.exists() and path.suffix not in {".yaml", ".yml"}:
            model = _from_file(path, weights, chunk_seconds)
        else:
            model = _from_recipe(str(source), chunk_seconds, seed)
    except (checkpoint.CheckpointError, RecipeError, UnpickleError, OfficialError) as error:
        raise ModelError(str(error)) from error
    model = model.to(device or "cpu").eval()
    if pooling is not None:
        model.pooling = pooling
    return model.set_bf16() if precision == "bf16" else model


def _check_pooling(pooling: str, source: object) -> None:
    if pooling not in get_args(Pooling):
        known = " or ".join(get_args(Pooling))
        raise ModelError(f"{source or 'the default encoder'}: pooling is {pooling!r}; choose {known}")


def _from_official(
    path: Path,
    weights: str | None,
    chunk_seconds: float | None,
    heads: int | None,
    sample_rate: int | None,
) -> AudioEncoder:
    found = read_official(path, heads=heads, sample_rate=sample_rate)
    chosen = weights or found.evaluated
    tensors = found.part(chosen)
    if not tensors:
        raise ModelError(f"{path}: {found.system} has no {chosen!r}; leave weights out")
    source = Source(str(path), found.system, found.step, chosen)
    model = AudioEncoder(found.front_end, found.encoder, chunk_seconds or found.seconds, source)
    fill_module(model.encoder, tensors, path)
    return model


def _from_recipe(name: str, chunk_seconds: float | None, seed: int) -> AudioEncoder:
    try:
        recipe = load_recipe(name)
    except RecipeError as error:
        raise ModelError(f"{name}: no such file or folder, and {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AudioEncoder(
            recipe.front_end,
            recipe.encoder,
            chunk_seconds or recipe.data.crop_seconds,
            Source("", recipe.name, 0, f"random, seed {seed}"),
        )


def _from_file(path: Path, weights: str | None, chunk_seconds: float | None) -> AudioEncoder:
    if path.is_dir():
        finished = next(filter(Path.is_file, (path / name for name in FINISHED)), path / FINISHED[0])
        checkpoints = layout.checkpoint_paths(path)
        if not checkpoints and (weights or not finished.is_file()):
            wanted = "" if weights else f"{layout.ENCODER} or "
            raise ModelError(f"{path}: a folder without {wanted}checkpoints/{layout.CHECKPOINTS}")
        path = finished if finished.is_file() and weights is None else checkpoints[-1]
    header = checkpoint.load(path, prefixes=())
    exported = "encoder.norm.weight" in header.names
    if exported and weights:
        raise ModelError(f"{path}: one exported encoder; weights={weights!r} needs a training checkpoint")
    recipe = recipe_from_dict(header.recipe)
    found = "exported encoder" if exported else weights or recipe.objective.encoders[0]
    if weights and weights not in recipe.objective.encoders:
        known = " or ".join(recipe.objective.encoders)
        raise ModelError(f"{path}: {recipe.objective.title} has no encoder {weights!r}; choose {known}")
    prefix = "encoder." if exported else f"objective.{found}."
    saved = checkpoint.load(path, prefixes=(prefix, "features."))
    state = {f"encoder.{k.removeprefix(prefix)}": v for k, v in saved.tensors.items() if k.startswith(prefix)}
    state |= {name: value for name, value in saved.tensors.items() if name.startswith("features.")}
    source = Source(str(path), recipe.name, saved.step, found)
    model = AudioEncoder(recipe.front_end, recipe.encoder, chunk_seconds or recipe.data.crop_seconds, source)
    model.pooling = saved.info.get("pooling", "mean")
    _check_pooling(model.pooling, path)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ModelError(
            f"{path}: weights missing: {missing or 'none'}; not expected: {unexpected or 'none'}"
        )
    return model
