"""A case: a mutated file of some kind, and what the package does with it."""

from __future__ import annotations

import io
import json
import random
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import torch

from ajepa.audio import info, load, random_crop, stream
from ajepa.data import open_clips
from ajepa.data.shards import INDEX
from ajepa.data.tables import locate, read_table
from ajepa.data.tars import index_tars
from ajepa.embed.inputs import Inputs
from ajepa.embed.read import read_embeddings
from ajepa.embed.table import ABOUT
from ajepa.errors import AjepaError
from ajepa.eval.classifiers import load_classifier
from ajepa.eval.compare.config import Comparison
from ajepa.model import AudioEncoder
from ajepa.model.loading import load_model
from ajepa.recipes import load_recipe

from . import inputs, odd
from .mutations import Mutation, edited, extreme_field, joined, mutate, mutate_text, with_ogg_checksums

warnings.simplefilter("ignore")  # of channels that cancel each other


def audio(folder: Path, draw: random.Random) -> Path:
    seed = draw.choice(inputs.audio_seeds())
    other = draw.choice(inputs.audio_seeds())
    content, how = seed.content, draw.random()
    if how < 0.2:
        content = extreme_field(content, draw)
    elif how < 0.3:
        content = joined(content, other.content, draw)
    if how > 0.25:
        content = edited(content, mutate(content, seed.header, draw))
    if b"OggS" in content and draw.random() < 0.7:
        content = with_ogg_checksums(content)
    path = folder / (other.name if draw.random() < 0.1 else seed.name)
    path.write_bytes(content)
    return path


def use_audio(path: Path) -> None:
    length = info(path).seconds
    uses: list[Callable[[], torch.Tensor]] = [
        lambda: load(path),
        lambda: load(path, start=length / 2, seconds=0.5),
        lambda: random_crop(path, 1.0, torch.Generator().manual_seed(0)),
        lambda: torch.cat(list(stream(path))),
        lambda: _encoder()(load(path, seconds=1.0)[None]).clip,
    ]
    failure: AjepaError | None = None
    for use in uses:
        try:
            assert use().isfinite().all(), "samples are not finite"
        except AjepaError as error:
            failure = error
    if failure is not None:
        raise failure


@cache
def _encoder() -> AudioEncoder:
    return load_model(inputs.FIXTURES / "a-jepa.encoder.safetensors")


def shards(folder: Path, draw: random.Random) -> Path:
    if draw.random() < 0.4:
        (folder / "a.tar").write_bytes(odd.tar(draw))
        return folder
    files = inputs.shard_seeds()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    name = draw.choice(list(files))
    if name == INDEX and draw.random() < 0.6:
        columns = pa.parquet.read_table(folder / name).to_pydict()
        (folder / name).write_bytes(odd.parquet(columns, draw))
    else:
        mutation = mutate_text if name.endswith("json") else mutate
        _written(folder / name, files[name], 3_000, draw, mutation)
    return folder


def use_shards(path: Path) -> None:
    failures: list[AjepaError] = []
    for index in (False, True):
        try:
            if index:
                index_tars(path, skip_broken=True)
            clips = open_clips(path)
            for number in range(min(5, len(clips))):
                load(clips.clip(number).audio)
        except AjepaError as error:
            failures.append(error)
    if failures:
        raise failures[-1]


def table(folder: Path, draw: random.Random) -> Path:
    (folder / "a.wav").write_bytes(inputs.audio_seeds()[0].content)
    name, content = draw.choice(list(inputs.table_seeds().items()))
    path = folder / name
    if not name.endswith("parquet"):
        return _written(path, content, len(content), draw, mutate_text)
    if draw.random() < 0.3:
        return _written(path, content, len(content), draw, mutate)
    path.write_bytes(odd.parquet(pa.parquet.read_table(io.BytesIO(content)).to_pydict(), draw))
    return path


def use_manifest(path: Path) -> None:
    clips = open_clips(path, labels=True)
    clips.fingerprint()
    for number in range(min(3, len(clips))):
        clip = clips.clip(number)
        load(clip.audio, start=clip.start, seconds=clip.seconds)
    assert len(list(Inputs([str(path)]).keys())) == len(clips)


def use_table(path: Path) -> None:
    found = read_table(path, ["path", "label"])
    for row in range(len(found.rows)):
        locate(path.parent, found.rows[row]["path"], anywhere=True)
        if start := found.find("start"):
            found.number(row, start)


def recipe(folder: Path, draw: random.Random) -> Path:
    content = inputs.recipe_seed()
    return _written(folder / "r.yaml", content, len(content), draw, mutate_text)


def use_recipe(path: Path) -> None:
    load_recipe(str(path))


COMPARISON = b"""models: {mel: logmel, twin: ajepa-small-cpu}
tasks: {esc10: {data: esc50}, words: {task: speech_commands_v2, data: sc, finetune: {set: {epochs: 12}}}}
protocols: {linear: {}, layers: {protocol: linear, layer: weighted}}
baseline: mel
layer: last
"""


def comparison(folder: Path, draw: random.Random) -> Path:
    return _written(folder / "c.yaml", COMPARISON, len(COMPARISON), draw, mutate_text)


def use_comparison(path: Path) -> None:
    Comparison.read(path)


def weights(folder: Path, draw: random.Random) -> Path:
    content, path = inputs.weights_seed(), folder / "w.safetensors"
    if draw.random() < 0.8:
        content = odd.safetensors(content, draw)
    path.write_bytes(content)
    if draw.random() < 0.3:
        _written(path, content, inputs.weights_header(), draw, mutate)
    return path


def official(folder: Path, draw: random.Random) -> Path:
    path = folder / "w.pth"
    odd.torch_file(path, folder / "ran", draw)
    if draw.random() < 0.2:
        content = path.read_bytes()
        _written(path, content, 2_000, draw, mutate)
    return path


def use_weights(path: Path) -> None:
    try:
        with torch.no_grad():
            found = load_model(path)(torch.zeros(1, 8_000)).clip
        assert found.isfinite().all(), "the embedding is not finite"
    finally:
        assert not path.with_name("ran").exists(), "its code was run"


def classifier(folder: Path, draw: random.Random) -> Path:
    files = dict(inputs.classifier_seed())
    name = draw.choice(list(files))
    if name.endswith("json"):
        values = json.loads(files[name])
        odd.replaced(values, draw)
        files[name] = json.dumps(values).encode()
    else:
        files[name] = odd.safetensors(files[name], draw)
    for other, content in files.items():
        (folder / other).write_bytes(content)
    if draw.random() < 0.2:
        mutation = mutate_text if name.endswith("json") else mutate
        _written(folder / name, files[name], 3_000, draw, mutation)
    return folder


def use_classifier(path: Path) -> None:
    found = load_classifier(path).predict(torch.zeros(1, 8_000))
    assert found.probabilities.isfinite().all(), "probabilities are not finite"


def embeddings(folder: Path, draw: random.Random) -> Path:
    columns, metadata = inputs.embeddings_seed()
    path, how = folder / "e.parquet", draw.random()
    if how < 0.4:
        about = json.loads(metadata[ABOUT])
        odd.replaced(about, draw)
        metadata = {ABOUT: json.dumps(about).encode()}
        path.write_bytes(inputs.parquet(columns, metadata))
    elif how < 0.8:
        path.write_bytes(odd.parquet(columns, draw, metadata))
    else:
        content = inputs.parquet(columns, metadata)
        _written(path, content, len(content), draw, mutate)
    return path


def use_embeddings(path: Path) -> None:
    found = read_embeddings(path)
    assert len(found.values) == len(found.start) == len(found.end) == len(found), "columns differ"


Make, Use = Callable[[Path, random.Random], Path], Callable[[Path], None]
KINDS: dict[str, tuple[Make, Use]] = {
    "audio": (audio, use_audio),
    "shards": (shards, use_shards),
    "manifest": (table, use_manifest),
    "table": (table, use_table),
    "recipe": (recipe, use_recipe),
    "comparison": (comparison, use_comparison),
    "weights": (weights, use_weights),
    "official": (official, use_weights),
    "classifier": (classifier, use_classifier),
    "embeddings": (embeddings, use_embeddings),
}


def _written(path: Path, content: bytes, header: int, draw: random.Random, mutation: Mutation) -> Path:
    path.write_bytes(edited(content, mutation(content, header, draw)))
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
