"""The cache of features: the same features, known by weights and audio, bounded, shared by processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ajepa.s3prl_upstream import UpstreamExpert
from ajepa.s3prl_upstream.cache import FeatureCache, clip_key
from tests.users import as_another_user, only_root, open_folder

LIMIT = 10**9


@pytest.fixture
def wavs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=generator) for samples in (16_000, 3_000, 40_001)]


def counted(expert: UpstreamExpert) -> tuple[int, int]:
    assert expert.cache is not None
    return expert.cache.hits, expert.cache.misses


@torch.no_grad()
def test_features_are_those_of_the_encoder(source: str, wavs: list[torch.Tensor], tmp_path: Path) -> None:
    plain = UpstreamExpert(source).eval()
    cached = UpstreamExpert(source, cache=str(tmp_path / "cache")).eval()
    wanted = plain(wavs)["hidden_states"]
    for round_ in range(3):
        for state, expected in zip(cached(wavs)["hidden_states"], wanted, strict=True):
            torch.testing.assert_close(state, expected, atol=1e-5, rtol=0)
        assert counted(cached) == (3 * round_, 3)
    again = UpstreamExpert(source, cache=str(tmp_path / "cache")).eval()  # another run of the program
    alone = again(wavs[1:2])["hidden_states"]
    assert counted(again) == (1, 0)
    torch.testing.assert_close(alone[-1], plain(wavs[1:2])["hidden_states"][-1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_other_weights_audio_and_options_are_other_entries(
    source: str, wavs: list[torch.Tensor], tmp_path: Path
) -> None:
    folder = str(tmp_path / "cache")
    UpstreamExpert(source, cache=folder).eval()(wavs)
    expert = UpstreamExpert(source, cache=folder).eval()
    for other in (
        UpstreamExpert(source, cache=folder, seed=1),
        UpstreamExpert(source, cache=folder, frequency="average"),
        UpstreamExpert(source, cache=folder, repeat=2),
        UpstreamExpert(source, cache=folder, chunk_seconds=0.64),
        UpstreamExpert(source, cache=folder).half(),
    ):
        other.eval()(wavs)
        assert counted(other) == (0, 3)
    expert([wavs[0] + 1e-6, wavs[0][:-1], wavs[0]])
    assert counted(expert) == (1, 2)


def test_training_goes_past_the_cache(source: str, wavs: list[torch.Tensor], tmp_path: Path) -> None:
    """With -f the weights change: no feature of older ones comes back, and gradients flow."""
    expert = UpstreamExpert(source, cache=str(tmp_path / "cache")).eval()
    with torch.no_grad():
        before = expert(wavs)["last_hidden_state"]
    expert.train()
    expert(wavs)["last_hidden_state"].square().mean().backward()
    assert counted(expert) == (0, 3)
    torch.optim.SGD(expert.parameters(), lr=0.1).step()
    expert.eval()
    with torch.no_grad():
        after = expert(wavs)["last_hidden_state"]
        assert counted(expert) == (0, 6)
        expert.load_state_dict(UpstreamExpert(source).state_dict())
        torch.testing.assert_close(expert(wavs)["last_hidden_state"], before, atol=1e-5, rtol=0)
    assert not torch.allclose(before, after)


def entry(size: int) -> torch.Tensor:
    return torch.zeros(1, 1, size // 4)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.npy"))


def test_the_limit_holds_and_entries_of_this_run_stay(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=10_000)
    for number in range(8):
        cache.put("model", f"{number:02d}", entry(1_000))  # and 128 bytes of header
    with pytest.warns(UserWarning, match="Raise cache_gigabytes"):
        cache.put("model", "08", entry(1_000))
    cache.put("model", "09", entry(1_000))
    assert cache.get("model", "09") is None
    assert 8_000 < on_disk(tmp_path) <= 10_000
    assert cache.get("model", "00") is not None


def test_what_no_one_uses_any_more_goes_first(tmp_path: Path) -> None:
    old = FeatureCache(tmp_path, limit=10_000)
    for number in range(8):
        old.put("old", f"{number:02d}", entry(1_000))
        path = next((tmp_path / "old").rglob(f"{number:02d}.npy"))
        os.utime(path, (time.time() - 1000 + number,) * 2)
    cache = FeatureCache(tmp_path, limit=10_000)
    assert cache.get("old", "00") is not None  # used now
    for number in range(5):
        cache.put("new", f"{number:02d}", entry(1_000))
    assert not cache.full
    assert on_disk(tmp_path) <= 10_000
    assert cache.get("old", "00") is not None
    assert cache.get("old", "01") is None
    assert all(cache.get("new", f"{number:02d}") is not None for number in range(5))


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, LIMIT)
    cache.put("model", "ab", torch.ones(2, 3, 4))
    path = next(tmp_path.rglob("*.npy"))
    for content in (path.read_bytes()[:-5], b"", b"\x93NUMPY\x01\x00\x10\x00x", pickle.dumps([1])):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"ab\.npy: no readable array .* computed again"):
            assert cache.get("model", "ab") is None
    np.save(path, np.zeros(3, np.int64))
    with pytest.warns(UserWarning, match="an array of int64"):
        assert cache.get("model", "ab") is None
    cache.put("model", "ab", torch.ones(2, 3, 4))
    found = cache.get("model", "ab")
    assert found is not None
    assert torch.equal(found, torch.ones(2, 3, 4))
    (tmp_path / "bytes").write_text("")  # a kill in the middle of writing
    cache.put("model", "cd", torch.ones(2, 3, 4))
    assert int((tmp_path / "bytes").read_text()) == on_disk(tmp_path)


def put_many(folder: Path, first: int) -> None:
    cache = FeatureCache(folder, limit=60_000)
    for number in range(40):
        name = f"{(first + number) % 50:02d}"
        found = cache.get("model", name)
        assert found is None or bool((found == int(name)).all())
        cache.put("model", name, torch.full((1, 1, 250), float(name)))


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=put_many, args=(tmp_path, 7 * number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert on_disk(tmp_path) == int((tmp_path / "bytes").read_text()) <= 60_000
    assert not list(tmp_path.rglob(".*"))
    cache = FeatureCache(tmp_path, limit=60_000)
    found = [cache.get("model", f"{number:02d}") for number in range(50)]
    assert all(value is not None and bool((value == number).all()) for number, value in enumerate(found))


def test_an_upstream_with_a_cache_can_be_copied(
    source: str, wavs: list[torch.Tensor], tmp_path: Path
) -> None:
    expert = UpstreamExpert(source, cache=str(tmp_path)).eval()
    for other in (copy.deepcopy(expert), pickle.loads(pickle.dumps(expert))):
        with torch.no_grad():
            other(wavs)
    assert other.cache is not None and other.cache.hits == len(wavs)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, LIMIT)
    cache.put("model", "ab", torch.ones(2, 3, 4))
    folder = next(tmp_path.rglob("*.npy")).parent
    (folder / f".ajepa.cd.npy.{socket.gethostname()}.1.partial").touch()
    FeatureCache(tmp_path, LIMIT)
    assert [path.name for path in folder.iterdir()] == ["ab.npy"]


@only_root
def test_a_cache_of_another_user_is_read() -> None:
    code = (
        "cache = FeatureCache(sys.argv[1], 10**9)\n"
        "cache.put('model', 'cd', torch.ones(2, 3, 4))\n"
        "assert cache.get('model', 'cd') is None\n"
        "print(cache.get('model', 'ab').shape)\n"
    )
    imports = "import sys, torch; from ajepa.s3prl_upstream.cache import FeatureCache"
    with open_folder(0o755) as folder:
        FeatureCache(folder, LIMIT).put("model", "ab", torch.ones(2, 3, 4))
        done = as_another_user(imports, code, folder)
    assert done.stdout == "torch.Size([2, 3, 4])\n", done.stderr
    assert "cannot be written to; features that are not in it are computed each time" in done.stderr


def test_keys_tell_samples_apart() -> None:
    wav = torch.randn(1000)
    assert clip_key(wav) == clip_key(wav.clone()) == clip_key(torch.stack([wav, wav], 1)[:, 0])
    assert (
        len({clip_key(wav), clip_key(wav[:-1]), clip_key(wav.double()), clip_key(wav.nextafter(wav + 1))})
        == 4
    )
