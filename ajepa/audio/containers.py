"""What a container says about its length: missing data, and lengths that the header does not state.

What counts as truncated, and how it is known:

- WAV, RF64, AIFF, AU, W64: the header declares more bytes than the file has. Streamed WAVs, whose header
  was written before the length was known (sizes 0, 0x7FFFxxxx or more), are read to their end instead.
- FLAC: the decoder fails before the declared number of samples (`ajepa.audio.file` reports it). A crop
  notices only within the part that it reads.
- Ogg (Vorbis, Opus): the last page is incomplete. A stream that stops between two pages without an end
  mark is what a live capture looks like; it is read to its end.
- MP3 with a Xing/Info tag: more than 1 % of the bytes that the tag declares are missing. A smaller loss
  (the last frames), a VBRI tag or no tag at all proves nothing: the file is loaded as it is.
- MP4, Matroska, WebM, WMA, CAF: the audio ends earlier than the header says (`ajepa.audio.file`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .source import AudioSource, byte_size, open_bytes

# Sizes in the logs of libsndfile's header readers. W64 spells "riff" small, RF64 writes "Riff size".
_SIZE_CUT = re.compile(
    r"^\s*(?:data|SSND|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
# Streaming writers declare as much as they can: 0xFFFFFFFF (ffmpeg), 0x7FFFF000 (SoX), 0x80000000 (arecord).
_STREAMED_SIZE = 0x7FFF_0000
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
# A page that begins a stream: version 0, flag 2 alone.
_OGG_BEGIN = b"OggS\0\2"
_SCANNED = 2**20  # bytes read at a time
# The first MPEG frame of a tagged file: header, side information, name, then flags, frames and bytes.
_XING = re.compile(rb"\xff[\xe2-\xff].{11,36}?(?:Xing|Info)(.{4})(.{4})(.{4})", re.DOTALL)
_WAV_HEADER_BYTES = 65_536  # where to look for the data chunk of a streamed WAV


@dataclass(frozen=True)
class Rewrite:
    """A file as the decoder should see it: `head`, then the bytes from `offset` on."""

    head: bytes
    offset: int


def missing_data(log: str) -> str | None:
    """What libsndfile's header log says about missing data: it shortens the file and reports no error."""
    for declared, present in _SIZE_CUT.findall(log):
        if int(present) < int(declared) < _STREAMED_SIZE:
            return f"its header declares {declared} bytes, the file has {present}"
    return None


def is_chained_ogg(source: AudioSource) -> bool:
    """Whether an Ogg file holds several streams, one after the other, as joined files do."""
    begins, before = 0, b""
    with open_bytes(source) as file:
        while block := file.read(_SCANNED):
            begins += (before + block).count(_OGG_BEGIN)
            before = block[1 - len(_OGG_BEGIN) :]
    return begins > 1


def examine_ogg(source: AudioSource) -> tuple[str | None, int]:
    """(what is missing, the sample at which the last page begins), from the page headers (RFC 3533).

    A page holds "OggS", at byte 6 the position of its last sample, at byte 26 the length of a table of
    segment sizes, then the table and the segments.
    """
    with open_bytes(source) as file:
        file.seek(max(0, byte_size(source) - 2 * _LARGEST_OGG_PAGE))
        tail = file.read()
    pages = [match.start() for match in re.finditer(b"OggS", tail)]
    if not pages:
        return None, 0
    ends = [int.from_bytes(tail[page + 6 : page + 14], "little", signed=True) for page in pages[:-1]]
    last = tail[pages[-1] :]
    if len(last) < 27 or len(last) < 27 + last[26] + sum(last[27 : 27 + last[26]]):
        return "its last Ogg page is incomplete", 0
    return None, max([0, *ends])


def missing_mp3(source: AudioSource) -> str | None:
    """What an MP3 lacks by its tag, if it has one that declares its bytes."""
    with open_bytes(source) as file:
        id3 = file.read(10)
        offset = 0
        if (
            id3[:3] == b"ID3" and len(id3) == 10
        ):  # its size comes in four bytes of seven bits; a footer repeats the header
            offset = 10 + sum(byte << shift for byte, shift in zip(id3[6:], (21, 14, 7, 0), strict=True))
            offset += 10 if id3[5] & 0x10 else 0
        file.seek(offset)
        tag = _XING.search(file.read(4096))
    flags, _, declared = (int.from_bytes(field, "big") for field in tag.groups()) if tag else (0, 0, 0)
    present = byte_size(source) - offset
    if flags & 2 and present < 0.99 * declared:
        return f"its tag declares {declared} bytes, the file has {present}"
    return None


def open_ended_wav(source: AudioSource) -> Rewrite | None:
    """For a WAV whose data chunk declares 0 bytes but is followed by samples, not by another chunk."""
    with open_bytes(source) as file:
        head = file.read(_WAV_HEADER_BYTES)
    at = head.find(b"data\0\0\0\0")
    follows = head[at + 8 : at + 16]
    left = byte_size(source) - (at + 16)
    is_chunk = re.match(rb"[ -~]{4}", follows) and int.from_bytes(follows[4:], "little") <= left
    if at < 0 or not follows or is_chunk:
        return None
    return Rewrite(head[: at + 4] + b"\xff" * 4, at + 8)
