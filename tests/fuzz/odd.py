"""Well-formed files with what they should not hold: tars, Parquet, safetensors, torch's pickles."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from . import inputs
from .mutations import FLOATS

NAMES = (
    *(
        "/etc/passwd.wav",
        "../../x.wav",
        "a/../b.wav",
        "x" * 300 + ".wav",
        "caf\udce9.wav",
        "",
        ".wav",
        "._a.wav",
    ),
    *(
        "a\nb.wav",
        "a\0b.wav",
        "0.wav",
        "d/",
        "a/" * 120 + "b.wav",
        "C:\\x.wav",
        "\u202ea.wav",
        "a.WAV",
        "a.mp3",
    ),
)
TYPES = tuple(bytes([one]) for one in b"01234567LKSxgVZ\0")
PAX = (
    *({"path": "../../x.wav"}, {"path": "/x.wav"}, {"size": "9" * 20}, {"size": "-1"}, {"size": "x"}),
    *({"linkpath": "/etc/passwd"}, {"hdrcharset": "BINARY", "path": "caf\udce9.wav"}, {"mtime": "nan"}),
    {"GNU.sparse.map": "0,1000000000000", "GNU.sparse.size": "1000000000000"},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000000000000"},
)
FIELDS = (
    (0, 100),
    (100, 108),
    (108, 116),
    (124, 136),
    (136, 148),
    (156, 157),
    (157, 257),
    (257, 265),
    (345, 500),
)


def tar(draw: random.Random) -> bytes:
    """Three members, some of them links, devices, sparse, of odd names, sizes and PAX headers."""
    buffer = io.BytesIO()
    form = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as file:
        for number in range(3):
            content = draw.choice(inputs.audio_seeds()).content
            member = tarfile.TarInfo(f"{number}.wav")
            if draw.random() < 0.4:
                member.name = draw.choice(NAMES)
            if draw.random() < 0.3:
                member.type, member.linkname = (
                    draw.choice(TYPES),
                    draw.choice(("/etc/passwd", "0.wav", "..", "")),
                )
            if draw.random() < 0.3 and form == tarfile.PAX_FORMAT:
                member.pax_headers = dict(draw.choice(PAX))
            member.size = len(content)
            try:
                file.addfile(member, io.BytesIO(content))
            except (ValueError, UnicodeError):  # a name that this form cannot hold
                file.addfile(tarfile.TarInfo(f"{number}.txt"))
    made = bytearray(buffer.getvalue())
    if draw.random() < 0.5:
        _change_header(made, draw)
    return bytes(made)


def _change_header(made: bytearray, draw: random.Random) -> None:
    """Change a field of a member's header, with a checksum that is right."""
    starts = [place for place in range(0, len(made), 512) if made[place + 257 : place + 262] == b"ustar"]
    start = draw.choice(starts or [0])
    first, last = draw.choice(FIELDS)
    size = last - first
    numbers = (b"", b"\xff" * size, b"\x80" + b"\xff" * size, b"\x80" + bytes(size), b"7" * (size - 1), b"-1")
    others = (b"\0" * size, b" " * size, draw.randbytes(size), b"../x.wav", b"/x.wav", b"S", b"x", b"L")
    value = draw.choice((*numbers, *others))
    made[start + first : start + last] = value[:size].ljust(size, b"\0")
    made[start + 148 : start + 156] = b" " * 8
    made[start + 148 : start + 156] = b"%06o\0 " % (sum(made[start : start + 512]) % 8**6)


def parquet(
    columns: dict[str, Any], draw: random.Random, metadata: dict[bytes, bytes] | None = None
) -> bytes:
    """A table of which a column has values of another type, another name, comes twice, or goes."""
    columns = dict(columns)
    name = draw.choice(list(columns))
    rows = len(columns[name])
    how = draw.random()
    if how < 0.1:
        del columns[name]
    elif how < 0.2:
        columns[draw.choice((f" {name} ", name.upper(), "", "x" * 9_000, "a\0b"))] = columns.pop(name)
    else:
        columns[name] = draw.choice(_columns(rows))
    if draw.random() < 0.2:
        rows = draw.choice((0, 1))
        columns = {key: pa.array(value).slice(0, rows) for key, value in columns.items()}
    return inputs.parquet(columns, metadata)


def _columns(rows: int) -> list[Any]:
    return [
        *(
            [None] * rows,
            [""] * rows,
            [-1] * rows,
            [2**62] * rows,
            [-1e300] * rows,
            [True] * rows,
            ["NaN"] * rows,
        ),
        *([value] * rows for value in FLOATS),
        *(["../../x.wav"] * rows, ["/etc/passwd"] * rows, ["a.wav"] * rows, [["a", ";"]] * rows, [[]] * rows),
        *([{"bytes": b"x", "path": "a.wav"}] * rows, [b"\xff\xfe"] * rows, [[[0.5]]] * rows, ["\0"] * rows),
        *(
            pa.array(["x"] * rows).dictionary_encode(),
            pa.array([0] * rows, pa.timestamp("us")),
            pa.nulls(rows),
        ),
        pa.array([2**63] * rows, pa.uint64()),
        pa.array([1] * rows, pa.int8()),
        pa.array([np.float16(1)] * rows, pa.float16()),
        pa.FixedSizeListArray.from_arrays(pa.array(np.full(rows * 3, np.nan, np.float32)), 3),
    ]


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 10**9, 10**30, 1.5, -0.5, float("inf"), float("nan"), "x", "", "/etc/passwd"),
    *("NaN", "1", "\ud800", "a\nb", "x" * 9_000, [], {}, [[]], [1, 2], {"a": 1}, ["x"] * 500),
)


def replaced(values: Any, draw: random.Random) -> None:
    """Replace one value, at any depth, by one of another type or size."""
    inner = values
    while True:
        key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], (dict, list)) or not inner[key] or draw.random() < 0.2:
            break
        inner = inner[key]
    if isinstance(inner, dict) and draw.random() < 0.1:
        inner[draw.choice(("", "x", "__class__", "class_path", "x" * 9_000))] = inner.pop(key)
    else:
        inner[key] = draw.choice(ODD)


def safetensors(content: bytes, draw: random.Random) -> bytes:
    """Weights with one value of the stored recipe changed, or one of what the header says of a tensor.

    Bytes alone mostly break the JSON.
    """
    size = struct.unpack("<Q", content[:8])[0]
    values, rest = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    about = values["__metadata__"]
    tensors = [name for name in values if name != "__metadata__"]
    how = draw.random()
    if how < 0.45:
        recipe = json.loads(about["recipe"])
        replaced(recipe, draw)
        about["recipe"] = json.dumps(recipe)
    elif how < 0.55:
        about[draw.choice(list(about))] = draw.choice(
            (
                "null",
                "[]",
                "",
                "1e999",
                "{",
                "[" * 3000,
                '{"pooling": 1}',
                '{"encoder": "x"}',
                '{"encoder": []}',
                "ajepa-9",
            )
        )
    elif how < 0.7:
        for _ in range(draw.choice((1, 1, 5))):
            place = draw.randrange(len(rest) // 4) * 4
            rest[place : place + 4] = struct.pack("<f", draw.choice(FLOATS))
    elif how < 0.85:
        entry = values[draw.choice(tensors)]
        odd = ("F16", "I64", "BOOL", "F8_E4M3", "x", [], [0], [1], [-1], [2**40], [2**63], [1] * 70, [0, 0])
        places = ([0, 4], [4, 0], [0, 2**63], [len(rest) - 4, len(rest) + 4], None, 1.5, {})
        entry[draw.choice(list(entry))] = draw.choice((*odd, *places))
    elif how < 0.95:
        name = draw.choice(tensors)
        entry = values.pop(name)
        if draw.random() < 0.6:
            values[
                draw.choice((f"module.{name}", "", "x", "encoder.blocks.99.norm1.weight", "x" * 9_000))
            ] = entry
    else:
        replaced(values, draw)
    header = json.dumps(values).encode(errors="surrogatepass")
    return struct.pack("<Q", len(header)) + header + bytes(rest)


class Runs:
    """A pickle that leaves a file behind if it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def torch_file(path: Path, mark: Path, draw: random.Random) -> None:
    """An official file with one tensor, name or value that is none, or with code that would leave `mark`."""
    weights: dict[Any, Any] = dict(inputs.audio_mae_seed())
    content: dict[Any, Any] = {"model": weights, "epoch": 3}
    where = content if draw.random() < 0.15 else weights
    name = draw.choice(list(where))
    old = where[name] if isinstance(where[name], torch.Tensor) else torch.zeros(2)
    how = draw.random()
    if how < 0.1:
        del where[name]
    elif how < 0.25:
        where[
            draw.choice((0, None, "", "blocks.7.norm1.weight", "blocks.99999999999999999999.x", f"x.{name}"))
        ] = old
    elif how < 0.3:
        where[name] = Runs(mark)
    else:
        where[name] = draw.choice(
            (
                *(
                    None,
                    1,
                    "x",
                    [],
                    {},
                    [1.0],
                    (2,),
                    OrderedDict(),
                    float("nan"),
                    2**70,
                    True,
                    b"x",
                    {1},
                    slice(1),
                ),
                *(old.long(), old.to(torch.complex64), old > 0, old.half(), old.double(), old.bfloat16()),
                *(
                    old[:0],
                    old.unsqueeze(0),
                    old.flatten()[:1],
                    old.t() if old.ndim == 2 else old,
                    old * torch.nan,
                ),
                *(old.to_sparse(), torch.nn.Parameter(old), torch.zeros(()), torch.zeros(1, 1, 1, 1, 1)),
                *(
                    torch.zeros(1).expand(10**6, 10**6),
                    torch.zeros(1).expand(1, 10**9, 64),
                    torch.zeros(0, 10**12),
                ),
                *(
                    torch.zeros(1, 1, 0, 16),
                    torch.zeros(1, 1, 16, 0),
                    torch.zeros(10**6),
                    torch.empty(3, device="meta"),
                ),
                torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8),
                torch.full_like(old, draw.choice(FLOATS)),
            )
        )
    torch.save(content, path, _use_new_zipfile_serialization=draw.random() < 0.7)
