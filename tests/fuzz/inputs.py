"""Small sound files of each kind, made by code, and seeded mutations of their bytes."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile

from ajepa.data.tars import index_tars
from ajepa.recipes import dump_recipe, load_recipe
from tests.audio_files import noise

FIXTURES = Path(__file__).parents[1] / "fixtures"
RATE = 16_000


class Edit(NamedTuple):
    """`removed` bytes at a place are replaced by `inserted` ones."""

    place: int
    removed: int
    inserted: bytes


class Seed(NamedTuple):
    """A sound file: its name, its bytes, and how many of them hold the structure rather than the data."""

    name: str
    content: bytes
    header: int


def mutate(content: bytes, header: int, draw: random.Random) -> list[Edit]:
    """One to six edits, two thirds of them in the header."""
    edits = []
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        most = len(content) if draw.random() < 0.35 else min(header, len(content))
        place = draw.randrange(most)
        kind = draw.randrange(9)
        if kind == 0:
            edits.append(Edit(place, 1, bytes([content[place] ^ 1 << draw.randrange(8)])))
        elif kind == 1:
            edits.append(Edit(place, 1, bytes([draw.randrange(256)])))
        elif kind == 2:
            edits.append(
                Edit(place, 4, draw.choice((b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0")))
            )
        elif kind == 3:
            number = draw.choice((0, 1, 2, 999, 2**31 - 1, 2**32 - 1, draw.getrandbits(32)))
            edits.append(Edit(place, 4, struct.pack(draw.choice(("<I", ">I")), number)))
        elif kind == 4:
            edits.append(Edit(place, draw.randrange(1, 200), b""))
        elif kind == 5:
            edits.append(Edit(place, 0, draw.randbytes(draw.randrange(1, 200))))
        elif kind == 6:
            start = draw.randrange(len(content))
            edits.append(Edit(place, 0, content[start : start + draw.randrange(1, 500)]))
        elif kind == 7:
            edits.append(Edit(draw.randrange(len(content)), len(content), b""))  # cut
        else:
            edits.append(Edit(place, draw.randrange(1, 64), draw.randbytes(draw.randrange(64))))
    return edits


def mutate_text(content: bytes, header: int, draw: random.Random) -> list[Edit]:
    """A value is replaced by one of another type or size, or bytes change as elsewhere."""
    if draw.random() < 0.25:
        return mutate(content, header, draw)
    values = (b"null", b"[]", b"{}", b"-1", b"0", b"1e999", b".inf", b"NaN", b"99999999999999999999", b'"x"')
    values += (
        b"/etc/passwd",
        b"true",
        b"",
        b"[[[[[[",
        b"\xff\xfe",
        b"\0",
        b"x" * 200_000,
        b"a,b,c",
        b"\n\n",
        b"'",
    )
    separators = [place for place, byte in enumerate(content) if byte in b":,\n {}[]="]
    edits = []
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(separators) - 1)
        start, end = separators[at] + 1, separators[at + 1]
        edits.append(Edit(start, end - start, draw.choice(values)))
    return edits


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """The content after the edits, one after the other."""
    for place, removed, inserted in edits:
        content = content[:place] + inserted + content[place + removed :]
    return content


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
def manifest_seeds() -> dict[str, bytes]:
    """Manifests of one file, `a.wav`."""
    buffer = io.BytesIO()
    rows = {"path": ["a.wav"] * 3, "start": [0.0, 0.5, None], "duration": [1.0, None, 0.25]}
    pa.parquet.write_table(pa.table(rows), buffer)
    text = b"path,start,duration,labels\na.wav,0,1,x\na.wav,0.5,,y\na.wav,,0.25,\n"
    return {"m.csv": text, "m.parquet": buffer.getvalue()}


@cache
def recipe_seed() -> bytes:
    return dump_recipe(load_recipe("ajepa-small-cpu")).encode()


@cache
def weights_seed() -> tuple[bytes, bytes]:
    """The JSON header of a small encoder, and the rest of its file."""
    content = (FIXTURES / "a-jepa.encoder.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return content[8 : 8 + size], content[8 + size :]


def weights_file(draw: random.Random) -> tuple[bytes, bytes]:
    """(header, rest) with one value of the stored recipe changed: bytes alone mostly break the JSON."""
    header, rest = weights_seed()
    values: Any = json.loads(header)
    about = values["__metadata__"]
    recipe = json.loads(about["recipe"])
    inner: Any = recipe
    while True:
        key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], (dict, list)) or not inner[key] or draw.random() < 0.2:
            break
        inner = inner[key]
    inner[key] = draw.choice(
        (None, True, -1, 0, 1, 10**9, 10**30, 1.5, float("inf"), "x", "/etc/passwd", [], {})
    )
    about["recipe"] = json.dumps(recipe)
    if draw.random() < 0.2:
        about[draw.choice(list(about))] = draw.choice(("null", "[]", "", "1e999", "{", "[" * 3000))
    return json.dumps(values).encode(), rest


Mutation = Callable[[bytes, int, random.Random], list[Edit]]
