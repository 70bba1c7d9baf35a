"""Public data sets from their official addresses, checked, in the layout that the tasks read.

A folder gets its official name only once it is complete and checked.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ajepa import audio
from ajepa.data.download import ArchiveError, DownloadError, fetch, unpack
from ajepa.data.speech_commands import TEST_CLASSES
from ajepa.eval.digest import digest

from .esc50 import CLIPS as ESC50_CLIPS
from .esc50 import open_esc50
from .speech_commands import (
    V1_COUNTS,
    V1_TEST_CLIPS,
    V2_COUNTS,
    V2_TEST_CLIPS,
    open_speech_commands_v2,
)
from .task import TaskError, per_split, slashed

# SHA-256 of the lines `MD5  file name` of ESC-50's 2,000 clips, sorted by name. The package soundata 0.1.3
# publishes the MD5 sums. GitHub packs its zip again from time to time, so the zip has no lasting checksum.
ESC50_SUMS = "7dac98ebb302b554321c1ceacd9ab75bb0769516f66d19b4f3a6a6874355c2f2"
GOOGLE = "http://download.tensorflow.org/data/"

Report = Callable[[str, str, int, int | None], None]  # activity, its unit, done so far, total if known


class ContentError(DownloadError):
    """A folder does not hold the expected data set."""


class Archive(NamedTuple):
    """An archive of a data set.

    Attributes:
        url: its official address.
        folder: the name of its content on disk.
        check: raises ContentError, TaskError or AudioError for an incomplete folder.
        sha256: published checksum; None if there is none.
        evidence: what is known after it was fetched and checked.
        strip: the archive has one top folder, which is left out.
    """

    url: str
    folder: str
    check: Callable[[Path], None]
    sha256: str | None
    evidence: str
    strip: bool = False


def check_esc50(folder: Path, clips: int = ESC50_CLIPS["esc50"], sums: str = ESC50_SUMS) -> None:
    """All clips have the published checksums, and the table has the folds and classes of their names."""
    found = open_esc50(folder).clips
    if len(found) != clips:
        raise ContentError(f"{folder}: {len(found):,} clips, not {clips:,}")

    def line(path: Path) -> str:
        return f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.name}\n"

    if digest(map(line, sorted(clip.path for clip in found)), 64) != sums:
        raise ContentError(f"{folder}: the clips are not ESC-50's, by their checksums")
    # The checksums do not cover the table, but they pin the names, which are fold-clip-take-class.
    classes = {(clip.path.stem.rpartition("-")[2], clip.labels) for clip in found}
    if any(clip.split != clip.path.stem.partition("-")[0] for clip in found) or not len(classes) == len(
        {number for number, _ in classes}
    ) == len({labels for _, labels in classes}):
        raise ContentError(f"{folder}: meta/esc50.csv has other folds or classes than the clips' names")


def check_words(folder: Path, counts: tuple[int, int, int]) -> None:
    """The splits for training, validation and testing have these numbers of clips."""
    found = per_split(open_speech_commands_v2(folder).clips)
    if found != counts:
        raise ContentError(f"{folder}: {slashed(found)} clips, not {slashed(counts)}")


def check_test_set(folder: Path, clips: int) -> None:
    """The folder has this number of clips of the 12 classes, each a WAV file by its first bytes."""
    classes = TEST_CLASSES
    if absent := [name for name in classes if not (folder / name).is_dir()]:
        raise ContentError(f"{folder}: no folder {', '.join(absent)}")
    paths = [path for name in classes for path in audio.find_audio(folder / name)]
    if len(paths) != clips:
        raise ContentError(f"{folder}: {len(paths):,} clips, not {clips:,}")
    for path in paths:
        with path.open("rb") as file:
            start = file.read(12)
        if start[:4] + start[8:] != b"RIFFWAVE":
            raise ContentError(f"{path}: not a WAV file")


PINNED = "the archive has the published SHA-256"
SETS: dict[str, tuple[Archive, ...]] = {
    "esc50": (
        Archive(
            "https://github.com/karolpiczak/ESC-50/archive/master.zip",
            "ESC-50",
            check_esc50,
            None,
            "the 2,000 clips have their published MD5 sums (GitHub packs the zip again, so it has none)",
            strip=True,
        ),
    ),
    "speech_commands_v1": (
        Archive(
            f"{GOOGLE}speech_commands_v0.01.tar.gz",
            "speech_commands_v0.01",
            partial(check_words, counts=V1_COUNTS),
            "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",  # as in torchaudio
            PINNED,
        ),
        Archive(
            f"{GOOGLE}speech_commands_test_set_v0.01.tar.gz",
            "speech_commands_test_set_v0.01",
            partial(check_test_set, clips=V1_TEST_CLIPS),
            None,
            "no checksum is published: its classes and number of clips are right, and all are WAV",
        ),
    ),
    "speech_commands_v2": (
        Archive(
            f"{GOOGLE}speech_commands_v0.02.tar.gz",
            "speech_commands_v0.02",
            partial(check_words, counts=V2_COUNTS),
            "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",  # as in torchaudio
            PINNED,
        ),
        Archive(
            f"{GOOGLE}speech_commands_test_set_v0.02.tar.gz",
            "speech_commands_test_set_v0.02",
            partial(check_test_set, clips=V2_TEST_CLIPS),
            "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",  # as in TensorFlow Datasets
            PINNED,
        ),
    ),
}


def get(
    name: str, out: Path, *, url: str | None = None, report: Report = lambda what, unit, done, total: None
) -> list[tuple[Path, str]]:
    """Fetch a data set into `out`; returns (folder, what is known about it) for each archive.

    A complete folder is left as it is. After an interruption, call again to continue.

    Args:
        url: a mirror: the address of a folder, ending in /, that has the archives under their official names.
            For a set of one archive, it may also be the archive's own address.

    Raises:
        DownloadError: there is no such set, it cannot be fetched or has the wrong content, or another
            process is fetching it.
    """
    if name not in SETS:
        raise DownloadError(f"no data set is called {name!r}; choose {', '.join(SETS)}")
    archives = SETS[name]
    if url is not None and not url.endswith("/") and len(archives) > 1:
        names = " and ".join(archive.url.rpartition("/")[2] for archive in archives)
        raise DownloadError(f"--url {url}: {name} has {names}; give their folder, ending in /")
    got = []
    for archive in archives:
        address = archive.url if url is None else url
        if address.endswith("/"):
            address += archive.url.rpartition("/")[2]
        got.append(_get(archive, address, out, report))
    return got


def _get(archive: Archive, url: str, out: Path, report: Report) -> tuple[Path, str]:
    folder, work = out / archive.folder, out / f".{archive.folder}.partial"
    if folder.exists():
        try:
            archive.check(folder)
        except (ContentError, TaskError, audio.AudioError) as error:
            raise DownloadError(
                f"{folder} exists but is not complete ({error}); remove it, or choose another --out"
            ) from error
        return folder, "was present, and is complete"
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            packed, unpacked = work / "archive", work / "unpacked"
            label = url.rpartition("/")[2]
            sha256 = fetch(url, packed, sha256=archive.sha256, report=partial(report, label, "B"))
            shutil.rmtree(unpacked, ignore_errors=True)  # left by an interrupted call
            try:
                files = partial(report, archive.folder, " files")
                unpack(packed, unpacked, strip=archive.strip, report=files)
                if archive.sha256 is None:
                    archive.check(unpacked)
            except (ArchiveError, ContentError, TaskError, audio.AudioError) as error:
                packed.unlink()
                raise DownloadError(
                    f"{url}: wrong content ({error}); the download was removed: try again, or name "
                    "another mirror with --url"
                ) from error
            unpacked.rename(folder)
    except Timeout as error:
        raise DownloadError(f"{work}: another process is fetching {archive.folder}; wait for it") from error
    shutil.rmtree(work)
    return folder, f"{archive.evidence}; SHA-256 {sha256}"
