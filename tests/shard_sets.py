"""Crops of sets of clips, and members of tars, for the tests of shards."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import torch

from ajepa.data.clips import Clips
from ajepa.data.crops import CropDataset
from ajepa.data.order import Draw


def crops(clips: Clips, **options: Any) -> list[torch.Tensor]:
    dataset = CropDataset(clips, 1.0, 16_000, 6.0, **options)
    found = [dataset[Draw(index, 100 + index)] for index in range(len(clips))]
    assert not any(crop.failure or crop.broken for crop in found)
    return [crop.waveform_S for crop in found]


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))
