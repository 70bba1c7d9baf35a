"""The order of clips, crops of them, and the memory cache."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ajepa.audio import AudioError, load, random_crop
from ajepa.data import open_clips
from ajepa.data.clips import Clip, Folder
from ajepa.data.crops import CropDataset, collate
from ajepa.data.order import Draw, StepSampler


def stream(sampler: StepSampler) -> list[Draw]:
    return [draw for batch in sampler for draw in batch]


# --- the order ------------------------------------------------------------------------------------------


def test_each_clip_once_an_epoch_and_ranks_share_a_batch() -> None:
    draws = stream(StepSampler(10, 4, 0, 10, seed=3))
    for epoch in range(4):
        assert sorted(draw.clip for draw in draws[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert len({draw.seed for draw in draws}) == len(draws)
    halves = [list(StepSampler(10, 4, 0, 10, seed=3, rank=rank, ranks=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == list(StepSampler(10, 4, 0, 10, seed=3))
    assert list(StepSampler(10, 4, 6, 10, seed=3)) == list(StepSampler(10, 4, 0, 10, seed=3))[6:]
    with pytest.raises(ValueError, match="divided"):
        StepSampler(10, 5, 0, 1, seed=0, rank=0, ranks=2)
    with pytest.raises(ValueError, match="add up to 9 clips, but the set has 10"):
        StepSampler(10, 5, 0, 1, seed=0, shard_sizes=(4, 5))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    window=st.integers(1, 5),
    ranks=st.sampled_from([1, 2, 4]),
    start=st.integers(0, 8),
    seed=st.integers(0, 5),
)
def test_shards_are_shuffled_in_windows(
    sizes: list[int], window: int, ranks: int, start: int, seed: int
) -> None:
    clips, batch_size = sum(sizes), 4
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    steps = -(-2 * clips // batch_size)

    def sampler(first: int, rank: int = 0, ranks: int = 1) -> StepSampler:
        return StepSampler(
            clips, batch_size, first, steps, seed, rank, ranks, shard_sizes=sizes, window=window
        )

    draws = stream(sampler(0))
    for epoch in range(2):
        order = [draw.clip for draw in draws[clips * epoch : clips * (epoch + 1)]]
        assert sorted(order) == list(range(clips)), "each clip once an epoch"
        # A window's shards come to their end before those of the next one begin.
        first_use = list(dict.fromkeys(shard_of[order].tolist()))
        places = {shard: np.flatnonzero(shard_of[order] == shard) for shard in first_use}
        open_at = [sum(p[0] <= place <= p[-1] for p in places.values()) for place in range(clips)]
        assert max(open_at) <= window
    start = min(start, steps)
    assert stream(sampler(start)) == draws[start * batch_size :], "resumed at any step"
    shares = [list(sampler(0, rank, ranks)) for rank in range(ranks)]
    joined = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == list(sampler(0)), "any number of ranks draws the same"


def test_the_order_is_shuffled_and_changes_with_epoch_and_seed() -> None:
    sizes = (50,) * 20
    orders = [
        [draw.clip for draw in stream(StepSampler(1000, 100, 0, 20, seed, shard_sizes=sizes, window=4))]
        for seed in (0, 1)
    ]
    assert orders[0][:1000] != orders[0][1000:] != orders[1][1000:]
    # Of 4 shards in equal parts, each next clip comes from another one in 3 of 4 cases.
    shards = np.array(orders[0]) // 50
    assert 0.7 < (shards[1:] != shards[:-1]).mean() < 0.8


# --- crops ----------------------------------------------------------------------------------------------


def test_the_memory_cache_changes_nothing(audio_folder: Path) -> None:
    first = min(audio_folder.glob("*.wav"))
    soundfile.write(first, np.random.default_rng(1).uniform(-0.5, 0.5, (44_100, 2)), 44_100)
    clips = open_clips(audio_folder)
    draws = stream(StepSampler(len(clips), 4, 0, 9, seed=0))
    none = CropDataset(clips, 0.5, 16_000, 6.0)
    some = CropDataset(clips, 0.5, 16_000, 6.0, cache_megabytes=1)
    assert 0 < len(some._cache) < len(clips), "room for a few files only"
    for draw in [*draws, *reversed(draws)]:
        torch.testing.assert_close(some[draw].waveform_S, none[draw].waveform_S, atol=1e-5, rtol=0)
        assert torch.equal(some[draw].waveform_S, some[draw].waveform_S)


class Known:
    """Two million clips of known length that are not there."""

    shard_sizes: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.looked_up = 0

    def __len__(self) -> int:
        return 2_000_000

    def clip(self, index: int) -> Clip:
        self.looked_up += 1
        return Clip(str(index), f"/absent/{index}.wav", seconds=10.0 if index % 2 else None)

    def siblings(self, index: int) -> range:
        return range(len(self))

    def fingerprint(self) -> dict[str, object]:
        return {}


def test_planning_the_cache_ends_with_its_memory() -> None:
    """Lengths come from the set where it knows them; files that are missing use memory up, too."""
    clips = Known()
    dataset = CropDataset(clips, 10.0, 16_000, 0.0, cache_megabytes=10)
    assert len(dataset._cache) == 8
    assert all(index % 2 for index in dataset._cache)
    assert clips.looked_up < 20


def test_a_part_of_a_file_is_all_there_is(tmp_path: Path) -> None:
    """Crops of [1 s, 1.5 s) of a ramp hold values of that part only, and go round at its end."""
    path = tmp_path / "ramp.wav"
    ramp_S = np.arange(32_000, dtype=np.int16)
    soundfile.write(path, ramp_S, 16_000)
    seen: set[int] = set()
    for seed in range(40):
        cut = partial(random_crop, seconds=0.25, gain_db=0.0, start=1.0, duration=0.5)
        crop_S = cut(path, generator=torch.Generator().manual_seed(seed))
        values_S = (crop_S * 32_768).long()
        following_S = torch.where(values_S[:-1] < 23_999, values_S[:-1] + 1, 16_000)
        assert torch.equal(values_S[1:], following_S)
        seen |= set(values_S.tolist())
        same_S = cut(load(path), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(crop_S, same_S), "from memory as from the file"
    assert seen == set(range(16_000, 24_000))
    longer_S = random_crop(path, 0.75, torch.Generator().manual_seed(0), gain_db=0.0, start=1.0, duration=0.5)
    assert Counter((longer_S * 32_768).long().tolist()).keys() == seen, "a short part is tiled"
    with pytest.raises(AudioError, match="starts at 2 s, but it ends at 2 s"):
        random_crop(path, 0.25, torch.Generator(), start=2.0)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_processes_give_the_same_batches(audio_folder: Path, context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not start processes by {context}")
    clips = open_clips(audio_folder)
    dataset = CropDataset(clips, 0.5, 16_000, 6.0)
    sampler = StepSampler(len(clips), 4, 0, 5, seed=0)
    plain = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    apart = DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate, num_workers=1, multiprocessing_context=context
    )
    for ours, theirs in zip(plain, apart, strict=True):
        assert ours.files == theirs.files
        assert torch.equal(ours.waveform_BS, theirs.waveform_BS)


def test_a_folder_is_fingerprinted_by_names_and_sizes(audio_folder: Path) -> None:
    before = Folder(audio_folder).fingerprint()
    assert before["files"] == 12
    assert Folder(audio_folder).fingerprint() == before
    with (audio_folder / "03.wav").open("ab") as file:
        file.write(b"x")
    changed = Folder(audio_folder).fingerprint()
    assert changed["sha256"] != before["sha256"]
    (audio_folder / "03.wav").rename(audio_folder / "3.wav")
    assert Folder(audio_folder).fingerprint()["sha256"] not in (before["sha256"], changed["sha256"])
