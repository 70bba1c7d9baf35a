"""Shards on a web server: each is fetched whole when it is needed, into a bounded folder on this machine.

Cached shards are named by their checksum. Any number of processes may share the folder: one of them fetches a
shard while the others wait, and the least recently used shards make room. A process can still read a shard
that another one removes (`_OpenShard`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import quote, urljoin, urlsplit

from filelock import FileLock, Timeout

from ajepa import caches

from .clips import Clips, DataError
from .download import DownloadError, fetch
from .shards import INDEX, LISTING, MAKE_AGAIN, Listing, Shard, Shards, parse_listing

REMEDY = f"copy the shards to the server again, or {MAKE_AGAIN}"


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
    with TemporaryDirectory() as folder:
        path = Path(folder, LISTING)
        try:
            fetch(address, path, remedy=REMEDY)
        except DownloadError as error:
            raise DataError(str(error)) from error
        listing = parse_listing(path.read_text("utf-8", "replace"), address)
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
                    reserved, fetched = (self.folder / f"{sha256}.{kind}" for kind in ("reserved", "fetched"))
                    self._make_room(reserved, size)
                    address = urljoin(self.base, quote(name))
                    fetch(address, fetched, sha256=sha256, remedy=REMEDY, insist=True)
                    with self._lock("room"):  # another process may be counting the files
                        fetched.replace(path)
                        reserved.unlink()
                caches.used(path)
        except DownloadError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error}); free space there or name another "
                "data.shard_cache"
            ) from error
        return path

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / f"{name}.lock", timeout=timeout)

    def _idle(self, name: str) -> bool:
        """Whether no process is at work on a file of this name."""
        try:
            with self._lock(name, timeout=0):
                return True
        except Timeout:
            return False

    def _make_room(self, reserved: Path, size: int) -> None:
        """Remove the least recently used files until `size` bytes fit, and reserve them.

        What a killed process began is resumed later, unless room is needed; what others reserve counts.
        """
        with self._lock("room"):
            reserved.unlink(missing_ok=True)
            for other in self.folder.glob("*.reserved"):
                if self._idle(other.stem):
                    other.unlink(missing_ok=True)
            begun = [
                path
                for kind in ("*.fetched*", "*.partial")  # the latter by version 0.3
                for path in self.folder.glob(kind)
                if self._idle(path.name.partition(".")[0])
            ]
            shards = sorted(self.folder.glob("*.tar"), key=lambda path: path.stat().st_mtime_ns)
            counted = [*begun, *shards, *self.folder.glob("*.reserved")]
            total = size + sum(path.stat().st_size for path in counted)
            for path in (*begun, *shards):
                if total <= self.limit:
                    break
                total -= path.stat().st_size
                path.unlink()
            with reserved.open("wb") as file:
                file.truncate(size)  # takes no blocks on the disk, but counts
