"""Make a manifest of a folder."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ajepa.audio import AudioError, find_audio, info

from .clips import DataError
from .manifest import WRITTEN, relative_path, write_manifest
from .segments import Cut, Segments, segments_of
from .threads import in_order

_TYPES = {"path": pa.string(), "duration": pa.float64()}
_SEGMENT_TYPES = {"path": pa.string(), "start": pa.float64(), "end": pa.float64()}


class Scanned(NamedTuple):
    """What a manifest lists.

    Attributes:
        rows: files, or segments.
        files: that have a row, or could have one.
        seconds: of all rows together.
        quiet: segments that were left out for their level.
        broken: the error of each file that was left out.
        others: files of other kinds in the folder, by their suffix.
    """

    rows: int
    files: int
    seconds: float
    quiet: int
    broken: list[str]
    others: Counter[str]


def scan_folder(
    folder: Path,
    out: Path,
    *,
    workers: int = 4,
    skip_broken: bool = False,
    share: float = 1.0,
    cut: Cut | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Scanned:
    """List a folder's audio in a manifest: files with their durations from the headers, or segments.

    Args:
        share: share of the files to list, chosen by a hash of their paths in the folder: always the same
            files, and a smaller share is part of a larger one.
        cut: a row for each segment of the recordings; None: one for each file.

    Raises:
        DataError: `out` is neither .csv nor .parquet, `share` is not in 0..1, or no file can be used.
        AudioError: there is no audio, or a file cannot be used and `skip_broken` is off.
    """
    if out.suffix.lower() not in WRITTEN:
        raise DataError(f"{out}: not a manifest's name; end it in {' or '.join(WRITTEN)}")
    if not 0 < share <= 1:
        raise DataError(f"--share is {share}; give a number above 0 and at most 1")
    others: Counter[str] = Counter()
    files = [
        file
        for file in find_audio(folder, others)
        if zlib.crc32(os.fsencode(file.relative_to(folder).as_posix())) < share * 2**32
    ]
    broken: list[str] = []
    total, quiet = 0.0, 0

    def rows() -> Iterator[dict[str, str | float]]:
        nonlocal total, quiet
        for done, (file, found) in enumerate(zip(files, lengths, strict=True), start=1):
            if isinstance(found, AudioError):
                if not skip_broken:
                    raise found
                broken.append(str(found))
            else:
                path = _as_text(relative_path(file, out), out)
                quiet += found.quiet
                for start, end in found.spans:
                    total += end - start
                    span = {"duration": end} if cut is None else {"start": start, "end": end}
                    yield {"path": path, **span}
            report(done)

    with closing(in_order(lambda file: _spans(file, cut), files, workers)) as lengths:
        try:
            count = write_manifest(out, rows(), _TYPES if cut is None else _SEGMENT_TYPES)
        except DataError as error:
            if cut is None or not quiet:
                raise
            raise DataError(
                f"{out}: not written, because all {quiet:,} segments are below {cut.energy_above:g} dB; "
                "lower --energy-above"
            ) from error
    return Scanned(count, len(files) - len(broken), total, quiet, broken, others)


def _spans(file: Path, cut: Cut | None) -> Segments | AudioError:
    try:
        return Segments([(0.0, info(file).seconds)], 0) if cut is None else segments_of(file, cut)
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
