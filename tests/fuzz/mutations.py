"""Seeded mutations of files: of bytes, of text, and of the fields of sound files' headers."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import NamedTuple


class Edit(NamedTuple):
    """`removed` bytes at a place are replaced by `inserted` ones."""

    place: int
    removed: int
    inserted: bytes


Mutation = Callable[[bytes, int, random.Random], list[Edit]]

FLOATS = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40, 3.4e38)


def mutate(content: bytes, header: int, draw: random.Random) -> list[Edit]:
    """One to six edits, two thirds of them in the header."""
    return [_edit(content, min(header, len(content)), draw) for _ in range(draw.choice((1, 1, 1, 2, 3, 6)))]


def _edit(content: bytes, header: int, draw: random.Random) -> Edit:
    place = draw.randrange(len(content) if draw.random() < 0.35 else header)
    kind = draw.randrange(10)
    if kind == 0:
        return Edit(place, 1, bytes([content[place] ^ 1 << draw.randrange(8)]))
    if kind == 1:
        return Edit(place, 1, bytes([draw.randrange(256)]))
    if kind == 2:
        return Edit(place, 4, draw.choice((b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0")))
    if kind == 3:
        number = draw.choice((0, 1, 2, 999, 2**31 - 1, 2**32 - 1, draw.getrandbits(32)))
        return Edit(place, 4, struct.pack(draw.choice(("<I", ">I")), number))
    if kind == 4:
        return Edit(place, draw.randrange(1, 200), b"")
    if kind == 5:
        return Edit(place, 0, draw.randbytes(draw.randrange(1, 200)))
    if kind == 6:
        start = draw.randrange(len(content))
        return Edit(place, 0, content[start : start + draw.randrange(1, 500)])
    if kind == 7:
        return Edit(draw.randrange(len(content)), len(content), b"")  # cut
    if kind == 8:
        place = draw.randrange(len(content)) & ~3
        return Edit(place, 4, struct.pack(draw.choice(("<f", ">f")), draw.choice(FLOATS)))
    return Edit(place, draw.randrange(1, 64), draw.randbytes(draw.randrange(64)))


# What takes the place of a value in a text: other types, sizes and encodings, places outside, and YAML's tags
# and anchors, which may contain themselves or multiply.
VALUES = (
    *(
        b"null",
        b"[]",
        b"{}",
        b"-1",
        b"0",
        b"1e999",
        b".inf",
        b"NaN",
        b"99999999999999999999",
        b'"x"',
        b"true",
    ),
    *(
        b"/etc/passwd",
        b"../../../etc/passwd",
        b"C:\\x.wav",
        b"~/x",
        b"$HOME",
        b"",
        b"a,b,c",
        b"\n\n",
        b"'",
        b'"',
    ),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\0", b"x" * 200_000, b"9" * 5_000, b"\xc2\xb2"),
    *(b"[" * 6, b"[" * 3_000, b'{"a":' * 3_000, b"{a: " * 300, b"- " * 300, b"{<<: *a}", b"!!int x", b"? x"),
    *(b"!!python/object/apply:os.system [id]", b"&a [*a]", b"*a", b"2001-01-01", b"1_000", b"0x10", b"1:30"),
    b"[&a0 [x,x], " + b", ".join(b"&a%d [*a%d,*a%d]" % (n + 1, n, n) for n in range(40)) + b"]",
)


def mutate_text(content: bytes, header: int, draw: random.Random) -> list[Edit]:
    """A value is replaced by another, a line comes twice or goes, or bytes change as elsewhere."""
    if draw.random() < 0.2:
        return mutate(content, header, draw)
    if draw.random() < 0.15:
        ends = [-1, *(place for place, byte in enumerate(content) if byte == 10)]
        start = draw.choice(ends) + 1
        line = content[start : content.find(b"\n", start) + 1 or None]
        twice = draw.random() < 0.5
        return [Edit(start, 0, line) if twice else Edit(start, len(line), b"")]
    separators = [place for place, byte in enumerate(content) if byte in b":,;\t\n {}[]="]
    edits = []
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(separators) - 1)
        start, end = separators[at] + 1, separators[at + 1]
        edits.append(Edit(start, end - start, draw.choice(VALUES)))
    return edits


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """The content after the edits, one after the other."""
    for place, removed, inserted in edits:
        content = content[:place] + inserted + content[place + removed :]
    return content


# Where the headers of sound files say lengths, rates, channels and codings: numbers of this kind at these
# distances from these bytes.
FIELDS = (
    *((b"RIFF", "<I", (4,)), (b"fmt ", "<I", (4, 12, 16)), (b"fmt ", "<H", (8, 10, 20, 22))),
    *((b"data", "<I", (4,)), (b"data", ">q", (4,)), (b"fact", "<I", (8,))),
    *((b"COMM", ">H", (8, 14, 16)), (b"COMM", ">I", (4, 10)), (b"SSND", ">I", (4, 8, 12))),
    *((b".snd", ">I", (4, 8, 12, 16, 20)), (b"desc", ">d", (12,)), (b"desc", ">I", (24, 28, 32, 36, 40))),
    *((b"fLaC", ">Q", (18,)), (b"fLaC", ">H", (8, 10)), (b"OggS", "<q", (6,)), (b"OggS", "<I", (14, 18))),
    *((b"OpusHead", "<B", (8, 9, 18)), (b"OpusHead", "<H", (10, 16)), (b"OpusHead", "<I", (12,))),
    *((b"\1vorbis", "<B", (11, 28)), (b"\1vorbis", "<I", (7, 12, 16, 20))),
    *((b"Xing", ">I", (4, 8, 12)), (b"Info", ">I", (4, 8, 12)), (b"mdhd", ">I", (16, 20))),
    *((b"stsz", ">I", (8, 12, 16)), (b"stts", ">I", (8, 12, 16)), (b"stsc", ">I", (8, 12, 16, 20))),
    *((b"stco", ">I", (8, 12)), (b"mp4a", ">H", (20, 22)), (b"mp4a", ">I", (28,)), (b"moov", ">i", (-4,))),
)
EXTREMES: dict[str, tuple[float, ...]] = {
    "B": (0, 1, 2, 3, 8, 127, 255),
    "H": (0, 1, 2, 3, 1000, 1024, 32_768, 65_535),
    "I": (0, 1, 2, 7, 999, 1000, 10**6, 10**6 + 1, 2**31 - 1, 2**31, 2**32 - 1),
    "i": (0, 1, 7, 2**31 - 1, -(2**31)),
    "q": (0, 1, -1, 2**40, 2**62, 2**63 - 1, -(2**63)),
    "Q": (0, 1, 2**36 - 1, 2**63, 2**64 - 1),
    "d": (0.0, 1.0, -1.0, 999.0, 1e6 + 1, 1e30, 1e300, float("nan"), float("inf")),
}


def extreme_field(content: bytes, draw: random.Random) -> bytes:
    """A sound file with an extreme number in a field of its header, if it has one that is known."""
    found = [(content.find(mark), code, at) for mark, code, places in FIELDS for at in places]
    fitting = [
        (start + at, code)
        for start, code, at in found
        if start >= 0 and 0 <= start + at <= len(content) - struct.calcsize(code)
    ]
    if fitting:
        place, code = draw.choice(fitting)
        packed = struct.pack(code, draw.choice(EXTREMES[code[-1]]))
        content = content[:place] + packed + content[place + len(packed) :]
    return content


def joined(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Two files one after the other, or the beginning of one with the rest of the other."""
    if draw.random() < 0.5:
        return content + other
    place = draw.choice((4, 12, 44, 100, 500, draw.randrange(1, len(content))))
    return content[:place] + other[place:]


def with_ogg_checksums(content: bytes) -> bytes:
    """Ogg pages with the checksums that their bytes have: a decoder passes over those that are wrong."""
    pages, start = bytearray(content), content.find(b"OggS")
    while start >= 0 and start + 27 <= len(pages):
        segments = pages[start + 26]
        end = start + 27 + segments + sum(pages[start + 27 : start + 27 + segments])
        pages[start + 22 : start + 26] = bytes(4)
        pages[start + 22 : start + 26] = struct.pack("<I", _ogg_crc(pages[start:end]))
        start = pages.find(b"OggS", start + 27)
    return bytes(pages)


def _table_entry(number: int) -> int:
    number <<= 24
    for _ in range(8):
        number = (number << 1) ^ (0x04C11DB7 if number & 1 << 31 else 0)
    return number & 0xFFFFFFFF


_CRC = [_table_entry(number) for number in range(256)]


def _ogg_crc(page: bytes | bytearray) -> int:
    total = 0
    for byte in page:
        total = (total << 8 & 0xFFFFFFFF) ^ _CRC[total >> 24 ^ byte]
    return total
