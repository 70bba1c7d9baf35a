"""Make a manifest of a folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from ajepa.audio import AudioError, find_audio, info

from .clips import DataError
from .manifest import SUFFIXES, relative_path, write_manifest
from .threads import in_order

_TYPES = {"path": pa.string(), "duration": pa.float64()}


def scan_folder(
    folder: Path,
    out: Path,
    *,
    workers: int = 4,
    skip_broken: bool = False,
    share: float = 1.0,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[int, float, list[str]]:
    """List a folder's audio, with durations from the headers, in a manifest.

    Args:
        share: share of the files to list, chosen by a hash of their paths in the folder: always the same
            files, and a smaller share is part of a larger one.

    Returns:
        Number of files, their total seconds, and the error of each file that was left out.

    Raises:
        DataError: `out` is neither .csv nor .parquet, `share` is not in 0..1, or no file can be used.
        AudioError: there is no audio, or a file cannot be used and `skip_broken` is off.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: not a manifest's name; end it in {' or '.join(SUFFIXES)}")
    if not 0 < share <= 1:
        raise DataError(f"--share is {share}; give a number above 0 and at most 1")
    files = [
        file
        for file in find_audio(folder)
        if zlib.crc32(os.fsencode(file.relative_to(folder).as_posix())) < share * 2**32
    ]
    broken: list[str] = []
    total = 0.0

    def rows() -> Iterator[dict[str, str | float]]:
        nonlocal total
        for done, (file, seconds) in enumerate(zip(files, lengths, strict=True), start=1):
            if isinstance(seconds, AudioError):
                if not skip_broken:
                    raise seconds
                broken.append(str(seconds))
            else:
                total += seconds
                yield {"path": _as_text(relative_path(file, out), out), "duration": seconds}
            report(done)

    with closing(in_order(_seconds, files, workers)) as lengths:
        count = write_manifest(out, rows(), _TYPES)
    return count, total, broken


def _seconds(file: Path) -> float | AudioError:
    try:
        return info(file).seconds
    except AudioError as error:
        return error


def _as_text(path: str, out: Path) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{os.fsencode(path)!r}: the name of this file is not UTF-8; rename it") from error
    if out.suffix.lower() == ".csv" and ("\n" in path or "\r" in path):
        raise DataError(f"{path!r}: CSV cannot hold a line break in a file's name; write .parquet instead")
    return path
