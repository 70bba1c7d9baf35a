"""Files that libsndfile reads: WAV and its relatives, FLAC, AIFF, AU, CAF, Ogg.

A part is reached by seeking only where that is exact to the last bit; elsewhere decoding begins earlier, and
what comes before the part is dropped. Shape suffixes: S samples, X channels.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Thread
from typing import BinaryIO

import numpy as np
import soundfile

from ajepa.errors import AjepaError

from .containers import Rewrite, examine_ogg, is_chained_ogg, missing_data, open_ended_wav
from .errors import REMOVE, AudioError, DecoderError
from .source import AudioBytes, AudioSource, byte_size, open_bytes

# How such files begin: those of RIFF, AIFF, AU in both byte orders, W64, CAF, FLAC and Ogg.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"dns.", b"riff", b"caff", b"fLaC", b"OggS")
# Codings whose samples stand alone or in frames that do. GSM 6.10, G.72x and the ADPCMs are decoded from the
# start: libsndfile cannot seek in them, or not exactly.
_SEEKABLE = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "OPUS")
# Opus recovers its state while it decodes. In speech, parts were off by 0.001 after 4 s of it and by nothing
# after 8 s; 30 s cost about 30 ms.
_OPUS_SECONDS = 30
_BLOCK = 65_536  # samples decoded at a time: 0.5 MB for stereo
_UNDECLARED = 2**63 - 1  # SF_COUNT_MAX: a FLAC encoder that wrote to a pipe
# Errors of libsndfile for files of a known container with another coding in it, which FFmpeg may know.
_OF_ANOTHER_CODING = (1, 4)


class OtherDecoderError(AjepaError, RuntimeError):
    """The file is one for FFmpeg."""


@dataclass(frozen=True)
class SndFile:
    """How to decode a file.

    Each reading opens the file again: libsndfile's Vorbis decoder keeps state across a seek, and a second
    part read through the same handle can come from the wrong place.
    """

    path: AudioSource
    seek_limit: int  # the last sample to which seeking is exact; 0 to decode from the start
    preroll: int  # samples decoded before a part and dropped
    rewrite: Rewrite | None  # what the decoder gets in place of the file

    def samples(self, first: int) -> Iterator[np.ndarray]:
        """Blocks [S, X] from the sample `first` on.

        Raises DecoderError.
        """
        start = position = max(0, min(first, self.seek_limit) - self.preroll)
        try:
            with self._open() as file:
                if position:
                    file.seek(position)
                size = min(_BLOCK, 2**20 // file.channels)
                while len(block_SX := file.read(size, dtype="float32", always_2d=True)):
                    if position + len(block_SX) > first:
                        yield block_SX[max(0, first - position) :]
                    position += len(block_SX)
        except soundfile.LibsndfileError as error:
            if position != start or not start:
                raise DecoderError(error.error_string) from error
            # A FLAC with a wrong table of places, for example, can still be read in sequence.
            yield from replace(self, seek_limit=0).samples(first)

    @contextmanager
    def _open(self) -> Iterator[soundfile.SoundFile]:
        if self.rewrite is not None:
            with _piped(self.path, self.rewrite) as pipe, _Sequential(pipe, closefd=False) as file:
                yield file
        else:
            with _decodable(self.path) as data, _Sequential(data) as file:
                yield file


def inspect(path: AudioSource) -> tuple[SndFile, int, int, int | None]:
    """(decoder, rate, channels, samples) from the header; `samples` is None where it does not say.

    Raises:
        OtherDecoderError: FFmpeg reads it better.
        AudioError: it is truncated.
        DecoderError: it is not audio, or its first block cannot be decoded.
    """
    try:
        with _decodable(path) as data, _Sequential(data) as file:
            is_mpeg = file.format == "MP3" or file.subtype.startswith("MPEG")
            if is_mpeg or (file.format == "OGG" and is_chained_ogg(path)):
                raise OtherDecoderError
            missing, last_page_start = examine_ogg(path) if file.format == "OGG" else (None, 0)
            missing = missing or missing_data(file.extra_info)
            if missing:
                raise AudioError.of(path, f"truncated: {missing}; copy it again or {REMOVE}")
            if file.format not in ("FLAC", "OGG") and file.frames > 8 * byte_size(path):
                raise DecoderError("its header declares more samples than its bytes can hold")
            # The ADPCM decoders do not stop where a pipe ends.
            is_open_ended = file.frames == 0 and file.format in ("WAV", "WAVEX") and file.subtype in _SEEKABLE
            rewrite = open_ended_wav(path) if is_open_ended else None
            # Before any seek: some decoders crash when they seek in what they could not begin to decode.
            if len(file.read(1, dtype="float32")) == 0 and file.frames and rewrite is None:
                raise DecoderError("its first samples cannot be decoded")
    except soundfile.LibsndfileError as error:
        if error.code in _OF_ANOTHER_CODING:
            raise OtherDecoderError(error.error_string) from error
        raise DecoderError(error.error_string) from error
    samples = None if rewrite or file.frames == _UNDECLARED else file.frames
    seek_limit = 0
    if samples is not None and (file.format == "FLAC" or file.subtype in _SEEKABLE):
        seek_limit = samples
    elif samples is not None and file.subtype == "VORBIS":
        seek_limit = last_page_start  # its page is cut to the audio's length: seeking into it is off by that
    preroll = _OPUS_SECONDS * file.samplerate if file.subtype == "OPUS" else 0
    decoder = SndFile(path, seek_limit, preroll, rewrite)
    return decoder, file.samplerate, file.channels, samples


class _Sequential(soundfile.SoundFile):
    """Leaves out soundfile's seek after each read: some codings cannot seek, others lose their state."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _decodable(source: AudioSource) -> Iterator[bytes | BinaryIO]:
    """What soundfile opens: a path, which libsndfile reads and which may be no text, or a Python file."""
    if isinstance(source, AudioBytes):
        with source.for_decoder() as data:
            yield data
    else:
        yield os.fsencode(source)


@contextmanager
def _piped(source: AudioSource, rewrite: Rewrite) -> Iterator[int]:
    """The reading end of a pipe that a thread fills with the rewritten file.

    A failure looks like the end of the file to the reader; its error is raised when the context exits.
    """
    reading, writing = os.pipe()
    failures: list[Exception] = []

    def feed() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe, open_bytes(source) as file:
                pipe.write(rewrite.head)
                file.seek(rewrite.offset)
                shutil.copyfileobj(file, pipe)
        except BrokenPipeError:  # the reader stopped before the end
            pass
        except Exception as error:
            failures.append(error)

    feeder = Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield reading
    finally:
        os.close(reading)
        feeder.join()
        if failures:
            raise failures[0]
