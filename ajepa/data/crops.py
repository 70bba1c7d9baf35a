"""Random crops of clips, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ajepa.audio import AudioError, info, load, random_crop

from .clips import Clip, Clips, DataError
from .order import Draw


@dataclass(frozen=True)
class Batch:
    """Crops of one step.

    Attributes:
        waveform_BS: float32 mono crops.
        files: the path each crop was cut from, or its shard and member.
        broken: (path, reason) of every unreadable file that was replaced.
        failure: why there is no batch, if a file could neither be used nor replaced; else empty. It is not
            raised, so that it reaches the training process without a worker's traceback.
    """

    waveform_BS: Tensor
    files: list[str]
    broken: list[tuple[str, str]]
    failure: str = ""

    def pin_memory(self) -> Batch:
        """Called by the DataLoader: a copy from pinned memory to a GPU does not block."""
        return replace(self, waveform_BS=self.waveform_BS.pin_memory())


class Crop(NamedTuple):
    """One item of a `CropDataset`; see `Batch` for the fields."""

    waveform_S: Tensor
    file: str
    broken: list[tuple[str, str]]
    failure: str = ""


class CropDataset(Dataset[Crop]):
    """Clips to crops; indexed by `Draw`, so that it holds no random state.

    Args:
        clips: the set, see `ajepa.data.open_clips`.
        seconds, sample_rate, gain_db: see `ajepa.audio.random_crop`.
        cache_megabytes: memory for decoded clips. The first clips that fit are chosen at the start: a file
            that is resampled piece by piece differs in the last bits, and a resumed run must not differ.
            Headers are read for clips of unknown length only, and only until the memory is full.
        skip_broken: replace unreadable clips by others (chosen by the draw's seed) and report them.
    """

    ATTEMPTS = 16

    def __init__(
        self,
        clips: Clips,
        seconds: float,
        sample_rate: int,
        gain_db: float,
        cache_megabytes: int = 0,
        skip_broken: bool = False,
    ) -> None:
        self.clips = clips
        self.seconds, self.sample_rate, self.gain_db = seconds, sample_rate, gain_db
        self.skip_broken = skip_broken
        self._cache: dict[int, Tensor | None] = self._plan_cache(cache_megabytes * 2**20)

    def _plan_cache(self, size: int) -> dict[int, Tensor | None]:
        """Places for the clips that fit, still empty."""
        places: dict[int, Tensor | None] = {}
        for index in range(len(self.clips)):
            if size <= 0:
                break
            clip = self.clips.clip(index)
            try:
                seconds = info(clip.audio).seconds - clip.start if clip.seconds is None else clip.seconds
            except AudioError:
                # Reported when it is drawn. It counts like a crop, so that a missing disk ends the search.
                size -= round(self.seconds * self.sample_rate) * torch.float32.itemsize
                continue
            size -= round(max(0.0, seconds) * self.sample_rate) * torch.float32.itemsize
            if size >= 0:
                places[index] = None
        return places

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> Crop:
        broken: list[tuple[str, str]] = []
        index, generator = draw.clip, torch.Generator().manual_seed(draw.seed)
        for _ in range(self.ATTEMPTS):
            clip = self.clips.clip(index)
            file = str(clip.audio)
            try:
                return Crop(self._crop(index, clip, generator), file, broken)
            except AudioError as error:
                reason = f"{error} ({clip.origin})" if clip.origin else str(error)
                broken.append((file, reason))
                if not self.skip_broken:
                    return Crop(torch.empty(0), file, broken, reason)
            except DataError as error:
                return Crop(torch.empty(0), file, broken, str(error))
            siblings = self.clips.siblings(index)
            index = siblings[int(torch.randint(len(siblings), (), generator=generator))]
        failure = f"{self.ATTEMPTS} files in a row cannot be used, the last one: {broken[-1][1]}"
        return Crop(torch.empty(0), file, broken, failure)

    def _crop(self, index: int, clip: Clip, generator: torch.Generator) -> Tensor:
        cut = partial(
            random_crop,
            seconds=self.seconds,
            generator=generator,
            sample_rate=self.sample_rate,
            gain_db=self.gain_db,
        )
        if index not in self._cache:
            return cut(clip.audio, start=clip.start, duration=clip.seconds)
        waveform_S = self._cache[index]
        if waveform_S is None:
            waveform_S = load(
                clip.audio, start=clip.start, seconds=clip.seconds, sample_rate=self.sample_rate
            )
            self._cache[index] = waveform_S
        try:
            return cut(waveform_S)
        except AudioError as error:
            raise AudioError(f"{clip.audio}: {error}") from error


def collate(crops: list[Crop]) -> Batch:
    """Stack crops of equal length, or report the first failure."""
    files = [crop.file for crop in crops]
    broken = [entry for crop in crops for entry in crop.broken]
    failure = next((crop.failure for crop in crops if crop.failure), "")
    if failure:
        return Batch(torch.empty(0), files, broken, failure)
    return Batch(torch.stack([crop.waveform_S for crop in crops]), files, broken)
