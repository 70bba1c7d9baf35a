"""Small files of each kind that is read, made by code."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile
import torch

from ajepa.data.cells import as_text
from ajepa.data.tars import index_tars
from ajepa.embed.table import ABOUT
from ajepa.recipes import dump_recipe, load_recipe
from tests.audio_files import noise

FIXTURES = Path(__file__).parents[1] / "fixtures"
RATE = 16_000


class Seed(NamedTuple):
    """A sound file: its name, its bytes, and how many of them hold the structure rather than the data."""

    name: str
    content: bytes
    header: int


@cache
def audio_seeds() -> list[Seed]:
    """A second or two in every container and coding that can be written here."""
    found = []
    for name, container, coding in (
        ("a.wav", "WAV", "PCM_16"),
        ("b.wav", "WAV", "FLOAT"),
        ("c.wav", "WAV", "MS_ADPCM"),
        ("d.wav", "WAV", "GSM610"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.caf", "CAF", "PCM_16"),
        ("a.w64", "W64", "PCM_16"),
    ):
        for channels in (1, 2) if coding != "GSM610" else (1,):
            buffer = io.BytesIO()
            soundfile.write(buffer, noise(RATE * 2, channels), RATE, format=container, subtype=coding)
            found.append(Seed(name, buffer.getvalue(), 400 if container != "OGG" else 5_000))
    for name, codec, container in (
        ("a.m4a", "aac", "mp4"),
        ("a.aac", "aac", "adts"),
        ("a.webm", "libopus", "webm"),
        ("a.mka", "flac", "matroska"),
    ):
        buffer = io.BytesIO()
        rate = 48_000 if codec == "libopus" else RATE
        with av.open(buffer, "w", format=container) as file:
            track: Any = file.add_stream(codec, rate=rate, layout="mono")
            change = av.AudioResampler(track.codec_context.format.name, "mono", rate)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(noise(2 * rate).T), "fltp", "mono")
            frame.sample_rate, frame.pts = rate, 0
            for part in change.resample(frame):
                file.mux(track.encode(part))
            file.mux(track.encode(None))
        content = buffer.getvalue()
        # MP4's index is at the end.
        found.append(Seed(name, content, len(content) if container == "mp4" else 1_000))
    return found


@cache
def shard_seeds() -> dict[str, bytes]:
    """The files of a folder of shards."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(Path(folder, "a.tar"), "w") as tar:
            for number in range(3):
                content = audio_seeds()[0].content
                header = tarfile.TarInfo(f"{number}.wav")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        index_tars(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@cache
def table_seeds() -> dict[str, bytes]:
    """A table of labels and parts of one file, `a.wav`, in every form that is read."""
    rows: list[dict[str, Any]] = [
        {"path": "a.wav", "start": 0.0, "duration": 1.0, "label": "x", "split": "train"},
        {"path": "a.wav", "start": 0.5, "duration": None, "label": "y", "split": "valid"},
        {"path": "a.wav", "start": None, "duration": 0.25, "label": None, "split": "test"},
    ]
    lines = [list(rows[0]), *([as_text(value, ";") for value in row.values()] for row in rows)]
    found = {"t.parquet": parquet({name: [row[name] for row in rows] for name in rows[0]})}
    for name, separator, encoding in (
        ("commas.csv", ",", "utf-8"),
        ("semicolons.csv", ";", "utf-8-sig"),
        ("tabs.tsv", "\t", "utf-8"),
        ("unicode.csv", "\t", "utf-16"),
    ):
        found[name] = "".join(f"{separator.join(line)}\n" for line in lines).encode(encoding)
    found["t.json"] = json.dumps(rows).encode()
    found["columns.json"] = json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode()
    found["t.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    return found


def parquet(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    table = pa.Table.from_arrays(list(map(pa.array, columns.values())), names=list(columns))
    pa.parquet.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


@cache
def recipe_seed() -> bytes:
    return dump_recipe(load_recipe("ajepa-small-cpu")).encode()


@cache
def weights_seed() -> bytes:
    """A small encoder of ours."""
    return (FIXTURES / "a-jepa.encoder.safetensors").read_bytes()


@cache
def weights_header() -> int:
    """The bytes of its file that are no weights."""
    return 8 + struct.unpack("<Q", weights_seed()[:8])[0]


@cache
def embeddings_seed() -> tuple[dict[str, Any], dict[bytes, bytes]]:
    """The columns of a file of `ajepa embed`, and its metadata."""
    about = {"what": "clip", "features": 4, "layers": 1, "frequency_patches": 2, "width": 2, "weights": "x"}
    columns = {"path": ["a.wav", "b.wav"], "start": [0.0, 0.5], "end": [1.0, 1.5], "sha256": ["0" * 64] * 2}
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float32)), 4)
    return columns | {"clip": values}, {ABOUT: json.dumps(about).encode()}


@cache
def classifier_seed() -> dict[str, bytes]:
    """The files of a classifier's folder."""
    return {path.name: path.read_bytes() for path in sorted((FIXTURES / "classifier").iterdir())}


@cache
def audio_mae_seed() -> dict[str, torch.Tensor]:
    """The weights of a small Audio-MAE by their official names, as fine-tuned."""
    generator, width = torch.Generator().manual_seed(0), 64

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 8

    found = {"cls_token": drawn(1, 1, width), "pos_embed": drawn(1, 513, width)}
    sizes = {
        "patch_embed.proj": (width, 1, 16, 16),
        "blocks.0.attn.qkv": (3 * width, width),
        "blocks.0.attn.proj": (width, width),
        "blocks.0.mlp.fc1": (4 * width, width),
        "blocks.0.mlp.fc2": (width, 4 * width),
        "head": (5, width),
    }
    sizes |= dict.fromkeys(("blocks.0.norm1", "blocks.0.norm2", "fc_norm"), (width,))
    for name, shape in sizes.items():
        found |= {f"{name}.weight": drawn(*shape), f"{name}.bias": drawn(shape[0])}
    return found
