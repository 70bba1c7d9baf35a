"""Tar shards on a server: fetched once, checked, bounded, shared, and ahead of need."""

from __future__ import annotations

import ssl
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ajepa.data import download, open_clips, remote
from ajepa.data.clips import DataError
from ajepa.data.crops import CropDataset
from ajepa.data.order import Draw, StepSampler
from ajepa.data.shards import LISTING
from ajepa.data.tars import index_tars
from tests.file_server import Server
from tests.shard_sets import add, crops


def test_remote_shards_are_fetched_once(server: Server, shards: Path, tmp_path: Path) -> None:
    server.answers = {"shard-000000.tar": ["cut", "wrong", 503], LISTING: [500], "index.parquet": ["wrong"]}
    local = open_clips(shards)
    clips = open_clips(server.url, shard_cache=tmp_path / "cache")
    assert server.requests == {LISTING: 2, "index.parquet": 2}, "no shard before one is needed"
    assert clips.fingerprint() == local.fingerprint()
    assert all(map(torch.equal, crops(clips), crops(local)))
    tars = {shard.name: 1 for shard in clips.listing.shards} | {"shard-000000.tar": 4}  # type: ignore[attr-defined]
    assert len(tars) == 2
    assert {name: server.requests[name] for name in tars} == tars
    again = open_clips(f"{server.url}/{LISTING}", shard_cache=tmp_path / "cache")
    crops(again)
    assert {name: server.requests[name] for name in tars} == tars, "the cache serves the next run"


def test_a_wrong_checksum_and_absent_files_are_told(server: Server, tmp_path: Path) -> None:
    clips = open_clips(server.url, shard_cache=tmp_path / "cache")
    server.answers = {"shard-000000.tar": ["wrong"] * download.ATTEMPTS, "shard-000001.tar": [404]}
    dataset = CropDataset(clips, 0.5, 16_000, 0.0, skip_broken=True)
    crop = dataset[Draw(0, 0)]
    assert f"{download.ATTEMPTS} attempts without progress, the last: the SHA-256 of its" in crop.failure
    assert "ajepa data index" in crop.failure
    assert crop.broken == [], "a server's failure is no reason to leave clips out"
    crop = dataset[Draw(9, 0)]
    assert "shard-000001.tar: the server answers 404" in crop.failure
    assert server.requests["shard-000001.tar"] == 1
    assert not list((tmp_path / "cache").glob("*.tar"))
    assert not dataset[Draw(0, 0)].failure, "the server is well again"
    with pytest.raises(DataError, match="answers 404"):
        open_clips(f"{server.url}/elsewhere", shard_cache=tmp_path / "cache")


def test_the_cache_stays_within_its_limit(
    noise_folder: Path, server: Server, shards: Path, tmp_path: Path
) -> None:
    """Ten shards of 150 kB, room for four: the least recently used go, what is in use stays readable."""
    many = shards / "many"
    files = sorted(noise_folder.rglob("*.wav"))
    many.mkdir()
    for number, file in enumerate(files):
        with tarfile.open(many / f"{number}.tar", "w") as tar:
            add(tar, "a.wav", file.read_bytes())
    index_tars(many)
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"is 1, too little for 9 shards.*raise it to 2"):
        open_clips(f"{server.url}/many", shard_cache=cache, shard_cache_megabytes=1)
    clips = open_clips(f"{server.url}/many", shard_cache=cache, shard_cache_megabytes=1, shard_window=2)
    (cache / f"{'0' * 64}.partial").write_bytes(bytes(2**20))  # left by a process that was killed
    dataset = CropDataset(clips, 0.5, 16_000, 0.0)
    expected = CropDataset(open_clips(many), 0.5, 16_000, 0.0)

    def draw(index: int) -> None:
        assert torch.equal(dataset[Draw(index, index)].waveform_S, expected[Draw(index, index)].waveform_S)
        assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= 2**20

    for index in range(10):
        draw(index)
        draw(0)  # used again and again: held open, and fetched once
    assert not list(cache.glob("*.partial"))
    assert server.requests["0.tar"] == 1
    kept = len(list(cache.glob("*.tar")))
    assert 4 <= kept < 10
    draw(1)
    assert server.requests["1.tar"] == 2, "evicted, so fetched again"
    draw(9)
    assert server.requests["9.tar"] == 1


def test_processes_share_a_download(server: Server, shards: Path, tmp_path: Path) -> None:
    """As loader processes do: several readers, each with its own open shards, one request a shard."""
    readers = [open_clips(server.url, shard_cache=tmp_path / "cache") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(crops, readers))
    assert all(all(map(torch.equal, ours, crops(open_clips(shards)))) for ours in found)
    assert server.requests["shard-000000.tar"] == server.requests["shard-000001.tar"] == 1


def test_the_next_window_is_fetched_while_this_one_is_read(
    noise_folder: Path, server: Server, shards: Path, tmp_path: Path
) -> None:
    many = shards / "many"
    many.mkdir()
    for number, file in enumerate(sorted(noise_folder.rglob("*.wav"))):
        with tarfile.open(many / f"{number}.tar", "w") as tar:
            add(tar, "a.wav", file.read_bytes())
    index_tars(many)
    cache = tmp_path / "cache"
    clips = open_clips(f"{server.url}/many", shard_cache=cache, shard_cache_megabytes=1, shard_window=2)
    ahead = remote.look_ahead(clips)
    assert ahead is not None
    sampler = StepSampler(10, 1, 0, 10, seed=0, shard_sizes=clips.shard_sizes, window=2, ahead=ahead)
    steps = iter(sampler)
    next(steps), next(steps)  # the first window's draws; their shards are not read here
    later = {f"{sampler.draw(position).clip}.tar" for position in (2, 3)}
    for _ in range(500):
        if set(server.requests) >= later:
            break
        time.sleep(0.01)
    first = {f"{sampler.draw(position).clip}.tar" for position in (0, 1)}
    assert {name for name in server.requests if name.endswith(".tar")} == later and not later & first


def test_no_look_ahead_without_room_or_need(server: Server, shards: Path, tmp_path: Path) -> None:
    assert remote.look_ahead(open_clips(shards)) is None
    near = open_clips(server.url, shard_cache=tmp_path / "a", shard_cache_megabytes=2, shard_window=1)
    assert remote.look_ahead(near) is not None  # two shards in all: both fit
    assert isinstance(near, remote.RemoteShards)
    near.looks_ahead = False
    assert remote.look_ahead(near) is None


def test_a_failed_look_ahead_is_told_by_who_needs_the_shard(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers = {"shard-000000.tar": [404, 404]}
    clips = open_clips(server.url, shard_cache=tmp_path / "cache", shard_window=1)
    ahead = remote.look_ahead(clips)
    assert ahead is not None
    ahead(0), ahead(1)
    while not server.requests["shard-000001.tar"]:  # the thread goes on with the next
        time.sleep(0.01)
    crop = CropDataset(clips, 0.5, 16_000, 0.0)[Draw(0, 0)]
    assert "answers 404" in crop.failure
    assert "Traceback" not in capfd.readouterr().err


def test_a_broken_connection_is_no_full_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of TLS, too, whose errors are the system's by their class."""
    clips = open_clips(server.url, shard_cache=tmp_path / "cache")

    def broken(*args: object, **options: object) -> None:
        raise ssl.SSLError("decryption failed")

    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(download.urllib.request, "urlopen", broken)
    failure = CropDataset(clips, 0.5, 16_000, 0.0)[Draw(0, 0)].failure
    assert f"{download.ATTEMPTS} attempts without progress, the last: " in failure
    assert "decryption failed" in failure and "free space" not in failure


def test_a_transfer_that_broke_off_is_resumed(
    server: Server, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next process as well: what a killed one began is there, and counts as long as room is left."""
    cache = tmp_path / "cache"
    clips = open_clips(server.url, shard_cache=cache)
    assert isinstance(clips, remote.RemoteShards)
    shard = clips.listing.shards[0]
    whole = (shards / shard.name).read_bytes()
    (cache / f"{shard.sha256}.fetched.part").write_bytes(whole[:-7])
    (cache / f"{shard.sha256}.reserved").write_bytes(b"")
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    assert all(map(torch.equal, crops(clips), crops(open_clips(shards))))
    assert (cache / f"{shard.sha256}.tar").read_bytes() == whole
    assert not list(cache.glob("*.fetched*")) and not list(cache.glob("*.reserved"))
