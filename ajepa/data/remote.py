"""Shards on a web server: each is fetched whole when it is needed, into a bounded folder on this machine.

Cached shards are named by their checksum. Any number of processes may share the folder: one of them fetches a
shard while the others wait, and the least recently used shards make room. A process can still read a shard
that another one removes (`_OpenShard`).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

from filelock import FileLock, Timeout

from .clips import Clips, DataError
from .shards import INDEX, LISTING, MAKE_AGAIN, Listing, Shard, Shards, parse_listing

ATTEMPTS = 6
TIMEOUT_SECONDS = 30  # without a byte
BACKOFF_SECONDS = 0.5  # doubles with each attempt, times 0.5 to 1.5 so that ranks do not all retry at once
_BLOCK = 2**20
_LARGEST_LISTING = 256 * 2**20
_Result = TypeVar("_Result")


def open_url(url: str, window: int, cache: Path, megabytes: int) -> Shards:
    """The shards at an http(s) address: that of their folder or of its shards.json.

    Args:
        cache: a local folder for fetched shards.
        megabytes: how much of it they may fill; enough for window + 1 shards.
    """
    base = url.removesuffix(LISTING)
    parts = urlsplit(base)
    base = parts._replace(path=parts.path.rstrip("/") + "/").geturl()
    address = urljoin(base, LISTING)
    listing = parse_listing(_retry(address, partial(_get, address)).decode("utf-8", "replace"), address)
    least = sum(sorted((shard.size for shard in listing.shards), reverse=True)[: window + 1])
    if least > megabytes * 2**20:
        raise DataError(
            f"data.shard_cache_megabytes is {megabytes}, too little for {window + 1} shards of {url}: "
            f"raise it to {-(-least // 2**20)}, or lower data.shard_window"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{cache}: cannot be created ({error}); name another data.shard_cache") from error
    store = ShardCache(base, cache, megabytes * 2**20)
    index = store.fetch(INDEX, listing.index_sha256, suffix=".parquet")
    ahead = sum(sorted((shard.size for shard in listing.shards), reverse=True)[: 2 * window + 1])
    return RemoteShards(listing, index, store, window, ahead=ahead <= megabytes * 2**20)


class RemoteShards(Shards):
    """Shards of a server.

    Args:
        ahead: the cache holds two windows: one can be fetched while the other is read.
    """

    def __init__(self, listing: Listing, index: Path, store: ShardCache, window: int, *, ahead: bool) -> None:
        super().__init__(listing, index, store.locate, window)
        self.looks_ahead, self._store = ahead, store

    def prefetch(self, number: int) -> None:
        self._store.locate(self.listing.shards[number])


class LookAhead:
    """Fetches shards before they are needed, one after the other, in a thread of its own.

    Args:
        fetch: fetches the shard of this number; returns at once if it is there.
        remembered: how many of the last requested shards are not requested again.
    """

    def __init__(self, fetch: Callable[[int], object], remembered: int) -> None:
        self._fetch = fetch
        self._recent: deque[int] = deque(maxlen=remembered)
        self._waiting: SimpleQueue[int] = SimpleQueue()
        # A daemon: the end of a run does not wait for a download.
        Thread(target=self._work, name="ajepa-look-ahead", daemon=True).start()

    def __call__(self, shard: int) -> None:
        """Request a shard that will be needed soon."""
        if shard not in self._recent:
            self._recent.append(shard)
            self._waiting.put(shard)

    def _work(self) -> None:
        while True:
            try:
                self._fetch(self._waiting.get())
            except DataError:  # whoever reads the shard meets the error too, and stops the run
                continue


def look_ahead(clips: Clips) -> LookAhead | None:
    """Fetches the shards of a set before they are read; None if nothing is remote, or the cache too small."""
    if not isinstance(clips, RemoteShards) or not clips.looks_ahead:
        return None
    return LookAhead(clips.prefetch, remembered=2 * clips.window)


class ShardCache:
    """A bounded folder of fetched shards.

    Args:
        base: address of the remote folder, with a final slash.
        folder: where the shards are stored.
        limit: bytes that shards may take, including unfinished ones.
    """

    def __init__(self, base: str, folder: Path, limit: int) -> None:
        self.base, self.folder, self.limit = base, folder, limit

    def locate(self, shard: Shard) -> Path:
        """The local path of a shard, which is fetched if necessary."""
        return self.fetch(shard.name, shard.sha256, suffix=".tar", size=shard.size)

    def fetch(self, name: str, sha256: str, *, suffix: str, size: int = 0) -> Path:
        """The local path of a remote file with this checksum, which is fetched if necessary.

        Raises DataError if the server repeatedly fails to deliver it or sends other bytes.
        """
        path = self.folder / f"{sha256}{suffix}"
        try:
            with self._lock(sha256):
                if not path.is_file():
                    partial_file = self.folder / f"{sha256}.partial"
                    self._make_room(partial_file, size)
                    address = urljoin(self.base, quote(name))
                    _retry(address, partial(_download, address, partial_file, sha256, size))
                    with self._lock("room"):  # another process may be counting the files
                        partial_file.replace(path)
                os.utime(path)
        except (OSError, _DiskError) as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error}); free space there or name another "
                "data.shard_cache"
            ) from error
        return path

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / f"{name}.lock", timeout=timeout)

    def _make_room(self, partial_file: Path, size: int) -> None:
        """Remove the least recently used shards until `size` bytes fit, and reserve them."""
        with self._lock("room"):
            partial_file.unlink(missing_ok=True)
            for other in self.folder.glob("*.partial"):
                try:
                    with self._lock(other.stem, timeout=0):  # succeeds if its process was killed
                        other.unlink(missing_ok=True)
                except Timeout:
                    continue
            shards = sorted(self.folder.glob("*.tar"), key=lambda path: path.stat().st_mtime_ns)
            total = size + sum(path.stat().st_size for path in [*shards, *self.folder.glob("*.partial")])
            for path in shards:
                if total <= self.limit:
                    break
                total -= path.stat().st_size
                path.unlink()
            with partial_file.open("wb") as file:
                file.truncate(size)  # takes no blocks on the disk, but counts


def _retry(address: str, attempt: Callable[[], _Result]) -> _Result:
    """The result of `attempt`; failures that may pass are retried, each time after a longer pause."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise DataError(
                    f"{address}: the server answers {error.code} {error.reason}; check the address"
                ) from error
            failure: Exception = error
        except (http.client.HTTPException, OSError, _WrongBytesError) as error:
            failure = error  # of the network: the disk raises _DiskError
        if number < ATTEMPTS:
            time.sleep(BACKOFF_SECONDS * 2 ** (number - 1) * random.uniform(0.5, 1.5))
    raise DataError(f"{address}: not fetched in {ATTEMPTS} attempts, the last: {failure}") from failure


class _WrongBytesError(Exception):
    """The server's bytes do not match the checksum."""


class _DiskError(Exception):
    """The disk is full or fails: not an error of the network."""


def _get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read(_LARGEST_LISTING)


def _download(address: str, path: Path, sha256: str, size: int) -> None:
    digest, position = hashlib.sha256(), 0
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, path.open("r+b") as file:
        while block := answer.read(_BLOCK):
            digest.update(block)
            try:
                position += file.write(block)
                file.flush()
            except OSError as error:
                raise _DiskError(str(error)) from error
            if 0 < size < position:
                break
        file.truncate()
    if digest.hexdigest() != sha256:
        raise _WrongBytesError(
            f"the {position} bytes received do not match the checksum of the index; copy the shards to the "
            f"server again, or {MAKE_AGAIN}"
        )
