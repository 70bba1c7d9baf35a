"""Shared fixtures. Real audio is looked for beside the checkout, or where AJEPA_SHARED says."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.data import download, open_clips
from ajepa.data.encode import Packing
from ajepa.data.pack import write_shards
from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.a_jepa import AJEPAConfig
from ajepa.recipes import Recipe, dump_recipe
from ajepa.recipes.recipe import DataConfig, OptimConfig, RunConfig
from tests.file_server import Handler, Server
from tests.range_server import RangeHandler, RangeServer


def pytest_configure() -> None:
    """A job in the background of a script ignores Ctrl-C, and so would all that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end, when a process finds no other file, little is left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


pytest.register_assert_rewrite("tests.hear_tasks", "tests.hear_toolkit")  # failures show their values

TINY = EncoderConfig(size="ti", width=32, depth=2, heads=2)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("AJEPA_SHARED", Path(__file__).parents[1].parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real audio: {folder} does not exist (AJEPA_SHARED names another place)")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    """Twelve files of 0.4 to 3 s: tones in noise."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        time = np.arange(int(16_000 * rng.uniform(0.4, 3.0))) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000) * time)
        soundfile.write(folder / f"{number:02d}.wav", tone + 0.01 * rng.standard_normal(len(time)), 16_000)
    return folder


@pytest.fixture
def tiny_recipe(audio_folder: Path, tmp_path: Path) -> Recipe:
    """A run of a second or two."""
    return Recipe(
        name="tiny",
        front_end=LogMelConfig(),
        encoder=TINY,
        objective=AJEPAConfig(
            masking=MaskingConfig(masks_per_clip=2),
            predictor=PredictorConfig(kind="global", depth=1, width=32, heads=2),
        ),
        data=DataConfig(source=str(audio_folder), crop_seconds=1.28),
        optim=OptimConfig(steps=6, batch_size=4, lr=1e-3, warmup_steps=2),
        run=RunConfig(
            out=str(tmp_path / "run"), log_every=1, health_every=2, checkpoint_every=2, accelerator="cpu"
        ),
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The recipe's file of a tiny encoder of random weights: 2 blocks, 8 frequency patches, width 32."""
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(Recipe(name="tiny", encoder=TINY, data=DataConfig(crop_seconds=1.28))))
    return path


@pytest.fixture
def source(tiny: Path) -> str:
    """The same as people name it."""
    return str(tiny)


@pytest.fixture
def noise_folder(tmp_path: Path) -> Path:
    """Ten mono clips of 16 bits at 16 kHz, 4 to 6 s of noise: 150 kB each, so that seven fill a megabyte."""
    folder = tmp_path / "noise"
    (folder / "part").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        samples = rng.integers(-20_000, 20_000, int(16_000 * rng.uniform(4, 6)), dtype=np.int16)
        soundfile.write(folder / "part" / f"{number:02d}.wav", samples, 16_000)
    return folder


@pytest.fixture
def shards(noise_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "shards"
    write_shards(open_clips(noise_folder), out, Packing("wav", shard_megabytes=1))
    return out


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    with Server(("127.0.0.1", 0), partial(Handler, directory=str(shards))) as running:
        running.requests, running.answers = Counter(), {}
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    (tmp_path / "web").mkdir()
    with RangeServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(tmp_path / "web"))) as server:
        server.requests, server.answers = Counter(), {}
        server.asked, server.cuts, server.tags = [], [], True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
