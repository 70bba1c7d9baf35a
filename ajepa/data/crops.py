"""Random crops of audio files as an endless, resumable stream of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ajepa.audio import AudioError, info, load, random_crop


class Draw(NamedTuple):
    """One crop to make: which file, and the seed of its randomness."""

    file: int
    seed: int


@dataclass(frozen=True)
class Batch:
    """Crops of one step.

    Attributes:
        waveform_BS: float32 mono crops.
        files: the path each crop was cut from.
        broken: (path, reason) of every unreadable file that was met and replaced.
        failure: why there is no batch, where a file could not be used or replaced; else empty. Told, not
            raised, so that it reaches the training process without a worker's traceback around it.
    """

    waveform_BS: Tensor
    files: list[str]
    broken: list[tuple[str, str]]
    failure: str = ""

    def pin_memory(self) -> Batch:
        """Called by the DataLoader, so that the copy to a GPU need not wait."""
        return replace(self, waveform_BS=self.waveform_BS.pin_memory())


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several integers (the mixing function of SplitMix64, applied part by part)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class StepSampler(Sampler[list[Draw]]):
    """Batches of draws from step `start` on: a pure function of (files, batch size, seed, step).

    Files run through one random permutation after another, so that each is drawn once an epoch, and an
    epoch's last files share a batch with the next one's first. Each rank takes its slice of every batch.
    """

    def __init__(
        self, files: int, batch_size: int, start: int, stop: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        if batch_size % ranks:
            raise ValueError(f"batch size {batch_size} cannot be divided over {ranks} processes")
        self.files, self.batch_size, self.seed = files, batch_size, seed
        self.start, self.stop, self.rank, self.ranks = start, stop, rank, ranks

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch_size // self.ranks
        for step in range(self.start, self.stop):
            first = step * self.batch_size + self.rank * share
            yield [self.draw(position) for position in range(first, first + share)]

    def draw(self, position: int) -> Draw:
        """The draw at a place of the endless stream."""
        epoch, place = divmod(position, self.files)
        return Draw(_permutation(self.files, self.seed, epoch)[place], mix_seed(self.seed, position))


@lru_cache(maxsize=2)
def _permutation(files: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, files))
    return torch.randperm(files, generator=generator).tolist()


class Crop(NamedTuple):
    """One item of a `CropDataset`; see `Batch` for the fields."""

    waveform_S: Tensor
    file: str
    broken: list[tuple[str, str]]
    failure: str = ""


class CropDataset(Dataset[Crop]):
    """Files to crops; indexed by `Draw`, so that it holds no random state.

    Args:
        files: audio files.
        seconds, sample_rate, gain_db: see `ajepa.audio.random_crop`.
        cache_megabytes: memory for decoded files. Which files it takes is settled at the start, in the
            order given: resampled piece by piece a file differs in the last bits, a resumed run must not.
        skip_broken: replace unreadable files by others (chosen by the draw's seed) and report them.
    """

    ATTEMPTS = 16

    def __init__(
        self,
        files: Sequence[Path],
        seconds: float,
        sample_rate: int,
        gain_db: float,
        cache_megabytes: int = 0,
        skip_broken: bool = False,
    ) -> None:
        self.files = [str(path) for path in files]
        self.seconds, self.sample_rate, self.gain_db = seconds, sample_rate, gain_db
        self.skip_broken = skip_broken
        self._cache: dict[int, Tensor | None] = self._plan_cache(cache_megabytes * 2**20)

    def _plan_cache(self, size: int) -> dict[int, Tensor | None]:
        """Places for the files that fit, still empty."""
        places: dict[int, Tensor | None] = {}
        for file, path in enumerate(self.files):
            if size <= 0:
                break
            try:
                size -= round(info(path).seconds * self.sample_rate) * torch.float32.itemsize
            except AudioError:
                continue  # told when it is drawn
            if size >= 0:
                places[file] = None
        return places

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Draw) -> Crop:
        broken: list[tuple[str, str]] = []
        file, generator = draw.file, torch.Generator().manual_seed(draw.seed)
        for _ in range(self.ATTEMPTS):
            try:
                return Crop(self._crop(file, generator), self.files[file], broken)
            except AudioError as error:
                broken.append((self.files[file], str(error)))
                if not self.skip_broken:
                    return Crop(torch.empty(0), self.files[file], broken, str(error))
                file = int(torch.randint(len(self.files), (), generator=generator))
        failure = f"{self.ATTEMPTS} files in a row cannot be used, the last of them: {broken[-1][1]}"
        return Crop(torch.empty(0), self.files[file], broken, failure)

    def _crop(self, file: int, generator: torch.Generator) -> Tensor:
        path = self.files[file]
        if file not in self._cache:
            return random_crop(
                path, self.seconds, generator, sample_rate=self.sample_rate, gain_db=self.gain_db
            )
        waveform = self._cache[file]
        if waveform is None:
            waveform = self._cache[file] = load(path, sample_rate=self.sample_rate)
        try:
            return random_crop(
                waveform, self.seconds, generator, sample_rate=self.sample_rate, gain_db=self.gain_db
            )
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from error


def collate(crops: list[Crop]) -> Batch:
    """Stack crops of equal length, or tell the first failure."""
    files = [crop.file for crop in crops]
    broken = [entry for crop in crops for entry in crop.broken]
    failure = next((crop.failure for crop in crops if crop.failure), "")
    if failure:
        return Batch(torch.empty(0), files, broken, failure)
    return Batch(torch.stack([crop.waveform_S for crop in crops]), files, broken)
