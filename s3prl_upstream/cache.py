"""Features of clips on disk: s3prl runs a frozen upstream anew at every step, on the same clips.

A clip is known by the samples that s3prl hands over, so a file that is read whole is computed once and random
crops of it are not found again. An entry is a `.npy` file [L, T, X] in a folder of its model:

    FOLDER/<model>/<first two digits>/<clip>.npy

Any number of processes may share a folder: entries appear whole, under their final name, and what the folder
holds is counted under a lock.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ajepa.model import AudioEncoder

ABANDONED_SECONDS = 3600  # a partial file older than this has nobody who writes it
SPARE = 0.1  # share of the limit that one clearing frees, so that it is not done for every entry


def clip_key(wav: Tensor) -> str:
    """Key of a waveform [S]: its samples, exactly, and their type."""
    samples_S = wav.detach().cpu()
    digest = hashlib.blake2b(str(samples_S.dtype).encode(), digest_size=16)
    digest.update(_bytes(samples_S))
    return digest.hexdigest()


def weights_key(model: AudioEncoder, *options: object) -> str:
    """Key of all that turns a waveform into features: weights, front end, encoder, device and options."""
    described = (
        version("ajepa"),
        model.features.config,
        model.encoder.config,
        model.chunk_patches,
        model.device.type,
        *options,
    )
    digest = hashlib.blake2b(repr(described).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


class FeatureCache:
    """A folder of features that holds at most `limit` bytes.

    When it is full, entries that no one has used since this object was made go first, the longest unused
    before the others. Entries of this run stay, and then nothing more is stored: going through a data set
    again and again, an eviction of the oldest would drop each entry just before it is wanted.

    Attributes:
        hits, misses: how often `get` found and did not find an entry.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.hits = self.misses = 0
        self.started = time.time()
        self.full = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock")
        self._counter = self.folder / "bytes"
        with self._lock:
            self._counter.write_text(str(self._count()))

    def get(self, model: str, clip: str) -> Tensor | None:
        """The features of a clip, on the CPU, or None."""
        path = self._path(model, clip)
        try:
            features = torch.from_numpy(np.load(path, allow_pickle=False))
            os.utime(path)  # now used, see `_clear`
        except (FileNotFoundError, ValueError, EOFError):  # absent, just removed, or cut by a crash
            self.misses += 1
            return None
        self.hits += 1
        return features

    def put(self, model: str, clip: str, features: Tensor) -> None:
        """Store the features of a clip, if there is room."""
        if self.full:
            return
        path = self._path(model, clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
        with partial.open("wb") as file:
            np.save(file, features.detach().cpu().numpy())
        size = partial.stat().st_size
        with self._lock:
            used = self._used()
            if used + size > self.limit:
                used -= self._clear(used + size - self.limit)
            self.full = used + size > self.limit
            if self.full:
                partial.unlink()
            else:
                replaced = path.stat().st_size if path.exists() else 0
                partial.replace(path)
                used += size - replaced
            self._counter.write_text(str(used))
        if self.full:
            warnings.warn(
                f"{self.folder}: the cache holds its {self.limit / 1e9:g} GB; further clips are computed "
                "each time. Raise cache_gigabytes, or delete what is not needed",
                stacklevel=2,
            )

    def _path(self, model: str, clip: str) -> Path:
        return self.folder / model / clip[:2] / f"{clip}.npy"

    def _used(self) -> int:
        text = self._counter.read_text() if self._counter.exists() else ""
        return int(text) if text.isdecimal() else self._count()  # a kill may leave it empty

    def _count(self) -> int:
        """Bytes of all entries, after removing what a killed process left behind."""
        for partial in self.folder.rglob("*.partial"):
            if partial.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                partial.unlink(missing_ok=True)
        return sum(path.stat().st_size for path in self.folder.rglob("*.npy"))

    def _clear(self, needed: int) -> int:
        """Remove entries unused since the start, at least `needed` bytes if there are; returns the bytes."""
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
