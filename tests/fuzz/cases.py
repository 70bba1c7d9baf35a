"""A case: a mutated file of some kind, and what the package does with it."""

from __future__ import annotations

import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from ajepa.audio import info, load, random_crop, stream
from ajepa.data import open_clips
from ajepa.data.tables import read_table
from ajepa.data.tars import index_tars
from ajepa.errors import AjepaError
from ajepa.eval.compare.config import Comparison
from ajepa.model.loading import load_model
from ajepa.recipes import load_recipe

from . import inputs

warnings.simplefilter("ignore")  # of channels that cancel each other


def audio(folder: Path, draw: random.Random) -> Path:
    seed = draw.choice(inputs.audio_seeds())
    return _written(folder / seed.name, seed.content, seed.header, draw, inputs.mutate)


def use_audio(path: Path) -> None:
    length = info(path).seconds
    uses: list[Callable[[], torch.Tensor]] = [
        lambda: load(path),
        lambda: load(path, start=length / 2, seconds=0.5),
        lambda: random_crop(path, 1.0, torch.Generator().manual_seed(0)),
        lambda: torch.cat(list(stream(path))),
    ]
    failure: AjepaError | None = None
    for use in uses:
        try:
            assert use().isfinite().all(), "samples are not finite"
        except AjepaError as error:
            failure = error
    if failure is not None:
        raise failure


def shards(folder: Path, draw: random.Random) -> Path:
    files = inputs.shard_seeds()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    name = draw.choice(list(files))
    mutation = inputs.mutate_text if name.endswith("json") else inputs.mutate
    _written(folder / name, files[name], 3_000, draw, mutation)
    return folder


def use_shards(path: Path) -> None:
    failure: AjepaError | None = None
    try:
        clips = open_clips(path)
        for number in range(min(5, len(clips))):
            load(clips.clip(number).audio)
    except AjepaError as error:
        failure = error
    index_tars(path, skip_broken=True)
    if failure is not None:
        raise failure


def manifest(folder: Path, draw: random.Random) -> Path:
    (folder / "a.wav").write_bytes(inputs.audio_seeds()[0].content)
    name, content = draw.choice(list(inputs.manifest_seeds().items()))
    mutation = inputs.mutate_text if name.endswith("csv") else inputs.mutate
    return _written(folder / name, content, len(content), draw, mutation)


def use_manifest(path: Path) -> None:
    clips = open_clips(path, labels=True)
    clips.fingerprint()
    for number in range(min(3, len(clips))):
        clip = clips.clip(number)
        load(clip.audio, start=clip.start, seconds=clip.seconds)


def table(folder: Path, draw: random.Random) -> Path:
    text = b"path,label,split\na.wav,1,train\nb.wav,2,valid\nc.wav,1,test\n"
    return _written(folder / "t.csv", text, len(text), draw, inputs.mutate_text)


def use_table(path: Path) -> None:
    read_table(path, ["path", "label"])


def recipe(folder: Path, draw: random.Random) -> Path:
    content = inputs.recipe_seed()
    return _written(folder / "r.yaml", content, len(content), draw, inputs.mutate_text)


def use_recipe(path: Path) -> None:
    load_recipe(str(path))


COMPARISON = b"""models: {mel: logmel, twin: ajepa-small-cpu}
tasks: {esc10: {data: esc50}, words: {task: speech_commands_v2, data: sc, finetune: {set: {epochs: 12}}}}
protocols: {linear: {}, layers: {protocol: linear, layer: weighted}}
baseline: mel
layer: last
"""


def comparison(folder: Path, draw: random.Random) -> Path:
    return _written(folder / "c.yaml", COMPARISON, len(COMPARISON), draw, inputs.mutate_text)


def use_comparison(path: Path) -> None:
    Comparison.read(path)


def weights(folder: Path, draw: random.Random) -> Path:
    header, rest = inputs.weights_file(draw) if draw.random() < 0.7 else inputs.weights_seed()
    path = folder / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + rest)
    if draw.random() < 0.4:
        _written(path, path.read_bytes(), len(header) + 8, draw, inputs.mutate)
    return path


def use_weights(path: Path) -> None:
    with torch.no_grad():
        load_model(path)(torch.zeros(1, 8_000))


Make, Use = Callable[[Path, random.Random], Path], Callable[[Path], None]
KINDS: dict[str, tuple[Make, Use]] = {
    "audio": (audio, use_audio),
    "shards": (shards, use_shards),
    "manifest": (manifest, use_manifest),
    "table": (table, use_table),
    "recipe": (recipe, use_recipe),
    "comparison": (comparison, use_comparison),
    "weights": (weights, use_weights),
}


def _written(path: Path, content: bytes, header: int, draw: random.Random, mutation: inputs.Mutation) -> Path:
    path.write_bytes(inputs.edited(content, mutation(content, header, draw)))
    return path


def judged(kind: str, path: Path) -> str:
    """What is wrong with how a file is taken: empty if it is read or refused in one line with its name."""
    try:
        KINDS[kind][1](path)
    except AjepaError as error:
        text = str(error)
        if "\n" in text:
            return f"{type(error).__name__} of several lines: {text[:200]!r}"
        inside = [other.name for other in (path.iterdir() if path.is_dir() else (path,))]
        names = [*inside, str(path.parent), str(getattr(error, "path", "")) or str(path)]
        if not any(name in text for name in names):
            return f"{type(error).__name__} without the file's name: {text[:200]}"
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""
