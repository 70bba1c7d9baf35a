"""Encoders from our files, those of other projects, the Hub, and recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import get_args

import torch

from ajepa.checkpoints import hub, layout, timm_vit
from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.official import Official, OfficialError, read_official
from ajepa.checkpoints.official.contents import fill_module
from ajepa.checkpoints.sizes import check_finite, check_sizes
from ajepa.checkpoints.unpickle import UnpickleError, is_torch_file
from ajepa.errors import AjepaError
from ajepa.recipes import RecipeError, load_recipe, recipe_from_dict

from .embedding import LAST, Pooling, Source, parse_layers
from .encoder import AudioEncoder
from .precision import Precision, check_precision

DEFAULT = "default"
FINISHED = (layout.ENCODER, hub.WEIGHTS)  # in a run's folder, in an exported folder


class ModelError(AjepaError, ValueError):
    """A model source cannot be used; the message names it and the remedy."""


def bundled() -> Path:
    """The file of the encoder that comes with the package."""
    return Path(str(resources.files("ajepa.weights").joinpath("ajepa-denoise-small.safetensors")))


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
    layers: str | None = None,
) -> AudioEncoder:
    """Load an encoder, in evaluation mode.

    Args:
        source: an `encoder.safetensors` or a training checkpoint of ours; a run's folder (its finished
            encoder, else its last checkpoint); an official Audio-MAE `.pth` or Audio-JEPA `.ckpt`; a recipe's
            name or YAML file (random weights: the twin that a pre-trained encoder has to beat); or
            `hf://owner/name[@revision]`, written by `ajepa export --push`; or `timm:NAME[@FILE]`, a ViT of
            images for spectrograms (`ajepa.checkpoints.timm_vit`). None or "default": the small
            encoder that comes with the package (its card is ajepa/weights/README.md; a folder of that name is
            ./default). Files are recognised by their content.
        device: None for the CPU.
        weights: which encoder of a run, a training checkpoint or an Audio-JEPA file: for A-JEPA and
            Audio-JEPA "target" or "context"; by default that of the recipe (`objective.evaluated`), else the
            target encoder.
        chunk_seconds: longest part that is encoded at once; None for the length of the training crops.
        seed: of the random weights.
        heads: attention heads of an official encoder, which its file does not say; width / 64 by default.
        sample_rate: of an Audio-JEPA file's front end, Hz, which it does not say; 32,000 by default.
        precision: of the blocks' matrix products. "bf16" is faster on CPUs that multiply in bfloat16 (1.6
            times with the default encoder, 3 times with a ViT-B), and changes embeddings in their third digit
            (docs/performance.md).
        pooling: of `Embedding.clip` over time, "mean" or "mean+std"; None for that of an exported file, else
            "mean".
        layers: which layers `Embedding.frames` and `clip` join: "last" (the normed output), or blocks from 1
            such as "2+4+6"; None for those of an exported file, else "last".

    Raises:
        ModelError: no such source, an unknown file, or an option that does not apply to it.
        HubError: the Hub does not have it, or cannot be reached.
    """
    check_precision(precision)
    _check_chunks(chunk_seconds)
    if pooling is not None:
        _check_pooling(pooling, source)
    if source is None or source in ("", DEFAULT):
        source = bundled()
    if str(source).startswith(hub.SCHEME):
        source = hub.download(str(source))
    path, official = Path(source), heads is not None or sample_rate is not None
    try:
        if str(source).startswith(timm_vit.SCHEME):
            if official:
                raise ModelError(f"{source}: the model says its heads and takes 16 kHz; leave them out")
            model = _from_found(timm_vit.read_timm(str(source)), str(source), weights, chunk_seconds)
        elif path.is_file() and is_torch_file(path):
            found = read_official(path, heads=heads, sample_rate=sample_rate)
            model = _from_found(found, str(path), weights, chunk_seconds)
        elif official:
            raise ModelError(f"{source}: heads and sample_rate apply only to official files; leave them out")
        elif path.exists() and path.suffix not in {".yaml", ".yml"}:
            model = _from_file(path, weights, chunk_seconds)
        else:
            model = _from_recipe(str(source), chunk_seconds, seed)
    except (checkpoint.CheckpointError, RecipeError, UnpickleError, OfficialError) as error:
        raise ModelError(str(error)) from error
    model = model.to(device or "cpu").eval()
    if pooling is not None:
        model.pooling = pooling
    if layers is not None:
        _set_layers(model, layers, source)
    return model.set_bf16() if precision == "bf16" else model


def _check_pooling(pooling: str, source: object) -> None:
    if pooling not in get_args(Pooling):
        known = " or ".join(get_args(Pooling))
        raise ModelError(f"{source or 'the default encoder'}: pooling is {pooling!r}; choose {known}")


def _set_layers(model: AudioEncoder, layers: str, source: object) -> None:
    try:
        model.embedding_layers = parse_layers(layers, len(model.encoder.blocks))
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from error


def _check_chunks(seconds: object) -> None:
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ModelError(f"chunk_seconds is {seconds!r}; give seconds above 0, or None")


def _from_found(
    found: Official, source: str, weights: str | None, chunk_seconds: float | None
) -> AudioEncoder:
    chosen = _attribute(found.encoders, weights, found.path, found.system)
    tensors = found.part(chosen)
    origin = Source(source, found.system, found.step, chosen)
    model = AudioEncoder(found.front_end, found.encoder, chunk_seconds or found.seconds, origin)
    fill_module(model.encoder, tensors, found.path)
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
            chunk_seconds or recipe.chunk_seconds,
            Source("", recipe.name, 0, f"random, seed {seed}"),
        )


def encoder_file(source: str, encoder: str) -> str:
    """The file of one of a run's encoders, by its name, for commands that take the source of a model.

    A source that is no run's folder stays as it is.

    Raises:
        ModelError: the run has not exported that encoder.
    """
    path = Path(source)
    if not layout.checkpoint_paths(path) and not layout.finished_encoder(path):
        return source
    found = _in_folder(path, encoder)
    if found.parent != path:
        raise ModelError(
            f"{path}: no {layout.encoder_file(encoder)}; take it from the last checkpoint by "
            f"`ajepa export {path} --encoder {encoder} --out FOLDER`"
        )
    return str(found)


def _in_folder(path: Path, weights: str | None) -> Path:
    """The file of an encoder in a run's folder or an exported one: its own, else the last checkpoint."""
    finished = next(filter(Path.is_file, (path / name for name in FINISHED)), path / FINISHED[0])
    if finished.is_file() and weights is None:
        return finished
    if weights and (own := path / layout.encoder_file(weights)).is_file():
        return own
    last = layout.latest_checkpoint(path)
    if weights and finished.is_file():
        evaluated = next(
            iter(recipe_from_dict(checkpoint.load(finished, ()).recipe, finished).objective.encoders)
        )
        if weights == evaluated or last is None:
            return finished
    if last is None:
        wanted = f"{layout.encoder_file(weights)}" if weights else layout.ENCODER
        raise ModelError(f"{path}: a folder without {wanted} or checkpoints/step-*.safetensors")
    return last


def _attribute(encoders: Mapping[str, str], weights: str | None, path: Path, title: str) -> str:
    """The attribute that holds the encoder of this name; version 0.3 chose by attributes."""
    found = next(iter(encoders.values())) if weights is None else encoders.get(weights, weights)
    if found not in encoders.values():
        raise ModelError(f"{path}: {title} has no encoder {weights!r}; choose {' or '.join(encoders)}")
    return found


def _from_file(path: Path, weights: str | None, chunk_seconds: float | None) -> AudioEncoder:
    if path.is_dir():
        path = _in_folder(path, weights)
    header = checkpoint.load(path, prefixes=())
    recipe = recipe_from_dict(header.recipe, path)
    encoders = recipe.objective.encoders
    exported = "encoder.norm.weight" in header.shapes
    held = header.info.get("encoder", next(iter(encoders)))  # in an exported file
    found = _attribute(encoders, weights, path, recipe.objective.title)
    if exported and weights and found != encoders[held]:
        raise ModelError(f"{path}: holds the {held} encoder alone; give the run's folder or a checkpoint")
    if exported:
        found = f"exported {held} encoder" if "encoder" in header.info else "exported encoder"
    prefix = "encoder." if exported else f"objective.{found}."
    check_sizes(path, recipe.encoder, header.shapes, prefix)
    saved = checkpoint.load(path, prefixes=(prefix, "features."))
    state = {f"encoder.{k.removeprefix(prefix)}": v for k, v in saved.tensors.items() if k.startswith(prefix)}
    state |= {name: value for name, value in saved.tensors.items() if name.startswith("features.")}
    check_finite(path, state)
    source = Source(str(path), recipe.name, saved.step, found)
    model = AudioEncoder(recipe.front_end, recipe.encoder, chunk_seconds or recipe.chunk_seconds, source)
    model.pooling = saved.info.get("pooling", "mean")
    _check_pooling(model.pooling, path)
    _set_layers(model, str(saved.info.get("layers", LAST)), path)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from error
    if missing or unexpected:
        raise ModelError(
            f"{path}: weights missing: {missing or 'none'}; not expected: {unexpected or 'none'}"
        )
    return model
