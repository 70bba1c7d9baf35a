"""Features of clips on disk, since s3prl runs a frozen upstream again at every step on the same clips.

A clip is identified by the samples that s3prl passes: a file that is read whole is computed once, random
crops of it are not found again. An entry is a `.npy` file [layers, T, X] in a folder of its model:

    FOLDER/<model>/<first two digits>/<clip>.npy

Any number of processes may share a folder: entries appear whole, and their size is counted under a lock.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ajepa import caches, files
from ajepa.contents import ArrayError, read_array
from ajepa.model import AudioEncoder
from ajepa.model.fingerprint import fingerprint

SPARE = 0.1  # share of the limit that one clearing frees, so that it is not repeated for every entry


def clip_key(wav: Tensor) -> str:
    """Key of a waveform [S]: its exact samples and their type."""
    samples_S = wav.detach().cpu().contiguous()
    digest = hashlib.blake2b(str(samples_S.dtype).encode(), digest_size=16)
    digest.update(samples_S.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_key(model: AudioEncoder, *options: object) -> str:
    """Key of everything that turns a waveform into features: version, weights, settings, device, options."""
    described = (version("ajepa"), fingerprint(model), model.device.type, *options)
    return hashlib.blake2b(repr(described).encode(), digest_size=16).hexdigest()


class FeatureCache:
    """A folder of features that holds at most `limit` bytes.

    When it is full, entries that nobody has used since this object was made are removed, the longest unused
    first. Entries of this run stay, and nothing more is stored: in repeated passes over a data set, evicting
    the oldest would remove each entry just before it is needed.

    Attributes:
        hits, misses: how often `get` found and did not find an entry.
        full: nothing more is stored: there is no room, or the folder is another user's.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.hits = self.misses = 0
        self.started = time.time()
        self.full = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._counter = self.folder / "bytes"
        try:
            with self._locked():
                self._counter.write_text(str(self._count()))
        except OSError as error:
            if error.errno not in caches.NOT_ALLOWED:
                raise
            self.full = True
            warnings.warn(
                f"{self.folder}: cannot be written to; features that are not in it are computed each time",
                stacklevel=2,
            )

    def get(self, model: str, clip: str) -> Tensor | None:
        """The features of a clip, on the CPU, or None."""
        path = self._path(model, clip)
        try:
            features = read_array(path)
            if features.ndim != 3:
                raise ArrayError(f"{path}: features of shape {features.shape}, expected three axes")
            caches.used(path)
        except FileNotFoundError:  # never stored, or just removed
            self.misses += 1
            return None
        except ArrayError as error:
            warnings.warn(f"{error}; it is computed again", stacklevel=2)
            self.misses += 1
            return None
        self.hits += 1
        return torch.from_numpy(features)

    def put(self, model: str, clip: str, features: Tensor) -> None:
        """Store the features of a clip, if there is room."""
        if self.full:
            return
        path = self._path(model, clip)
        content = io.BytesIO()
        np.save(content, features.detach().cpu().numpy())
        size = content.tell()
        with self._locked():
            used = self._used()
            if used + size > self.limit:
                used -= self._clear(used + size - self.limit)
            self.full = used + size > self.limit
            if not self.full:
                replaced = path.stat().st_size if path.exists() else 0
                files.write(path, content.getvalue())
                used += size - replaced
            self._counter.write_text(str(used))
        if self.full:
            warnings.warn(
                f"{self.folder}: the cache is full ({self.limit / 1e9:g} GB); further clips are computed "
                "each time. Raise cache_gigabytes, or delete entries that are not needed",
                stacklevel=2,
            )

    def _locked(self) -> FileLock:
        # Made for each use: an upstream with a cache can be copied and pickled.
        return FileLock(self.folder / "lock")

    def _path(self, model: str, clip: str) -> Path:
        return self.folder / model / clip[:2] / f"{clip}.npy"

    def _used(self) -> int:
        text = self._counter.read_text() if self._counter.exists() else ""
        return int(text) if text.isdecimal() else self._count()  # a killed process may leave it empty

    def _count(self) -> int:
        """Bytes of all entries, after removing files left by killed processes."""
        for folder in self.folder.glob("*/*"):
            files.remove_leftovers(folder)
        return sum(path.stat().st_size for path in self.folder.rglob("*.npy"))

    def _clear(self, needed: int) -> int:
        """Remove entries unused since the start, at least `needed` bytes if possible; returns the bytes."""
        entries = sorted(
            (stat.st_mtime, stat.st_size, path)
            for path in self.folder.rglob("*.npy")
            if (stat := path.stat()).st_mtime < self.started
        )
        wanted, freed = max(needed, round(SPARE * self.limit)), 0
        for _, size, path in entries:
            if freed >= wanted:
                break
            path.unlink(missing_ok=True)
            freed += size
        return freed
