"""Archives from the web: fetched with resumption, checked by their checksum, unpacked safely."""

from __future__ import annotations

import errno
import gzip
import http.client
import lzma
import random
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from ajepa.contents import file_sha256
from ajepa.errors import AjepaError

ATTEMPTS = 6  # in a row without new bytes
TIMEOUT_SECONDS = 30  # without a byte
BACKOFF_SECONDS = 1.0  # doubles with each attempt without new bytes
_BLOCK = 2**20
_PLAIN = re.compile(r"[!-~]+")  # ASCII without spaces
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,  # names in a zip
)

Report = Callable[[int, int | None], None]  # done so far, and the total if it is known


class DownloadError(AjepaError, RuntimeError):
    """A file cannot be fetched or unpacked, or is not the expected one; the message says what to do."""


class ArchiveError(DownloadError):
    """An archive is damaged or has a member that must not be unpacked."""


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    remedy: str = "name a mirror with --url",
    insist: bool = False,
    report: Report = lambda done, total: None,
) -> str:
    """Fetch a file to `path`, which appears whole or not at all; returns its SHA-256.

    A broken transfer is resumed where it stopped, at once and in the next call. This needs an ETag or a date
    from the server, which shows that the file is still the same, or a checksum; without both it starts again.

    Args:
        remedy: the end of messages: what else the user can do.
        insist: a wrong checksum is a failure like others and is tried again, as for small files that are
            replaced on the server while they are read; else it is an error at once.

    Raises:
        DownloadError: not an http(s) address, no answer with the file, a wrong checksum, or a full disk.
    """
    if not _is_address(url):
        raise DownloadError(f"{url!r}: not an http(s) address")
    part = path.with_name(f"{path.name}.part")
    failures, furthest = 0, _size(part)
    while not path.is_file():
        try:
            _receive(url, part, sha256 is not None, report)
            if insist and sha256 not in (None, found := file_sha256(part)):
                _forget(part)
                raise ConnectionError(f"the SHA-256 of its bytes is {found}, not {sha256}")
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(
                    f"{url}: the server answers {error.code} {_line(error.reason)}; check the address, or "
                    f"{remedy}"
                ) from error
            failure: Exception = error
        except (http.client.HTTPException, OSError) as error:
            failure = error  # of the network: the disk raises DownloadError
        # Attempts that start from the beginning count as progress only beyond all earlier ones.
        failures = 1 if _size(part) > furthest else failures + 1
        furthest = max(furthest, _size(part))
        if failures == ATTEMPTS:
            raise DownloadError(
                f"{url}: {ATTEMPTS} attempts without progress, the last: {_line(failure)}; check the "
                f"connection, or {remedy}; the next call resumes the download"
            ) from failure
        # Several processes that fail together do not all come back together.
        time.sleep(BACKOFF_SECONDS * 2 ** (failures - 1) * random.uniform(0.5, 1.5))
    found = file_sha256(path if path.is_file() else part)
    if sha256 is not None and found != sha256:
        path.unlink(missing_ok=True)
        _forget(part)
        raise DownloadError(
            f"{url}: its SHA-256 is {found}, not {sha256}; the download was removed. Call again, or {remedy}"
        )
    if part.is_file():
        part.replace(path)
    _tag_file(part).unlink(missing_ok=True)
    return found


def unpack(
    archive: Path, folder: Path, *, strip: bool = False, report: Report = lambda done, total: None
) -> int:
    """Unpack a tar (plain or compressed) or zip into a new folder; returns the number of files.

    A failure leaves an incomplete folder: unpack next to the final place, then rename.

    Args:
        strip: leave out the one folder that contains everything in the archive.

    Raises:
        ArchiveError: a damaged archive, or a member that is not a plain file or folder or whose name leads
            out of the folder.
        DownloadError: the disk is full.
    """
    count = 0
    tops: set[str] = set()
    try:
        folder.mkdir(parents=True)
        with closing(
            _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        ) as members:
            for name, stream in members:
                parts = _safe_parts(archive, name)
                if strip:
                    tops.update(parts[:1])
                    parts = parts[1:]
                if len(tops) > 1 or (stream is not None and not parts):
                    found = " and ".join(sorted(tops)) or repr(name)
                    raise ArchiveError(f"{archive}: {found} at the top, expected one folder")
                path = folder.joinpath(*parts)
                if stream is None:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with stream, path.open("xb") as file:
                    shutil.copyfileobj(stream, file, _BLOCK)
                count += 1
                report(count, None)
    except _DAMAGED as error:
        reason = str(error).partition(":\n")[0]  # tarfile lists on further lines what it tried
        raise ArchiveError(f"{archive}: damaged, or no tar or zip ({reason}); fetch it again") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(f"{archive}: holds {error.filename} twice, or it existed before") from error
    except OSError as error:
        # Without a number the error is not the system's: bz2 reports damaged data this way.
        if error.errno in (None, errno.ENAMETOOLONG):
            raise ArchiveError(f"{archive}: damaged ({error}); fetch it again") from error
        raise DownloadError(f"{folder}: cannot be written ({error}); free space and call again") from error
    return count


def _forget(part: Path) -> None:
    for path in (part, _tag_file(part)):
        path.unlink(missing_ok=True)


def _line(reason: object) -> str:
    """A server's or the system's text in one line."""
    return " ".join(str(reason).split())


def _is_address(url: str) -> bool:
    """Whether urllib can request it: anything else would look like a failing network."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.port != 0
        return known and bool(parts.hostname and _PLAIN.fullmatch(url))
    except ValueError:  # wrong brackets or port
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_file(part: Path) -> Path:
    """The file that keeps the server's ETag or date of the file that `part` begins."""
    return part.with_name(f"{part.name}.tag")


def _receive(url: str, part: Path, checked: bool, report: Report) -> None:
    """Write `part`, or resume it.

    Raises what urllib raises, ConnectionError if the transfer ends early, DownloadError if the disk is full.
    """
    have, tag_file = _size(part), _tag_file(part)
    tag = tag_file.read_text() if tag_file.is_file() else ""
    headers = {"User-Agent": "ajepa"}
    if have and (tag or checked):
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{have}":  # the part is complete
            return
        part.unlink()
        raise ConnectionError("the part is longer than the server's file; starting again") from error
    with answer:
        if answer.status == 206:
            found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have:
                part.unlink(missing_ok=True)
                raise ConnectionError("the server resumes at another byte; starting again")
        else:
            have, found = 0, None
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if found is not None and found[2] != "*":
            total = int(found[2])  # a server may send less than was requested
        if total is not None and total - have > (free := shutil.disk_usage(part.parent).free):
            raise DownloadError(
                f"{part.parent}: {(total - have) / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free; "
                "free space or choose another folder"
            )
        if have == 0:
            tag_file.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            _append(part, b"")
            if mark := _strong_tag(answer.headers.get("ETag")) or answer.headers.get("Last-Modified"):
                _append(tag_file, mark.encode())
        while block := answer.read(_BLOCK):
            _append(part, block)
            have += len(block)
            report(have, total)
        if total is not None and have < total:
            raise ConnectionError(f"broken off after {have:,} of {total:,} bytes")


def _append(path: Path, block: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(block)
    except OSError as error:
        raise DownloadError(
            f"{path}: cannot be written ({error}); free space; the next call resumes the download"
        ) from error


def _strong_tag(tag: str | None) -> str | None:
    return tag if tag and not tag.startswith("W/") else None


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive}: member {name!r} is refused: its name leads out of the archive")
    return path.parts


def _tar_members(archive: Path) -> Generator[tuple[str, IO[bytes] | None], None, None]:
    """Names, with the streams of files and None for folders."""
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None and not member.isdir():
                raise ArchiveError(f"{archive}: member {member.name!r} is refused: it is a link or a device")
            yield member.name, stream


def _zip_members(archive: Path) -> Generator[tuple[str, IO[bytes] | None], None, None]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was not made on Unix
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
                raise ArchiveError(f"{archive}: member {info.filename!r} is refused: a link, or encrypted")
            yield info.filename, None if info.is_dir() else file.open(info)
