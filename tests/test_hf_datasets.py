"""Data sets of Hugging Face as tasks: saved on disk, and by name from a stand-in of the Hub."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from huggingface_hub import constants

from ajepa.audio import load
from ajepa.cli import main
from ajepa.data.tables import TaskError
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks import open_task
from ajepa.eval.tasks.reading import read_clip
from tests.dataset_hub import DatasetHandler, DatasetServer
from tests.hear_tasks import tones

datasets = pytest.importorskip("datasets", reason="datasets is not installed; the [datasets] extra has it")


def build(folder: Path, numbers: range, **more: Any) -> Any:
    """Clips of two pitches by turns, the low one of the class `low`; FLAC of 8 kHz."""
    names = [f"{n % 2}/{n}.wav" for n in numbers]
    tones(folder, ["0/none.wav", *names], 0.1, 8000)
    for n, name in zip(numbers, names, strict=True):
        wave, rate = soundfile.read(folder / ("0/none.wav" if n % 2 == 0 else names[-1]))
        soundfile.write((folder / name).with_suffix(".flac"), (0.9 + 0.01 * n) * wave, rate)
    files = [str((folder / name).with_suffix(".flac")) for name in names]
    columns = {"sound": files, "kind": [n % 2 for n in numbers]} | more
    made = datasets.Dataset.from_dict(columns).cast_column("sound", datasets.Audio())
    return made.cast_column("kind", datasets.ClassLabel(names=["low", "high"]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {
        "train": range(8),
        "validation": range(8, 12),
        "test": range(12, 16),
        "unlabelled": range(16, 18),
    }
    built = {name: build(tmp_path / "audio", numbers) for name, numbers in parts.items()}
    datasets.DatasetDict(built).save_to_disk(tmp_path / "pitches.v1")
    return tmp_path / "pitches.v1"


def test_a_saved_one_through_the_command(saved: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    common = ["evaluate", "knn", "--model", "logmel", "--cache", str(tmp_path / "cache")]
    assert main([*common, "--task", "hf", "--data", str(saved), "--json", str(record)]) == 0
    (found,) = read_records(record)
    assert (found.task, found.score) == ("pitches.v1", 1.0)
    assert found.clips_by_split == {"test": 4, "train": 8, "valid": 4}
    assert "the splits unlabelled are left out" in found.notes
    assert main([*common, "--task", "hf", "--data", str(saved), "--json", str(record)]) == 0
    assert read_records(record)[0].details["embeddings_cached"]


def test_its_clips_are_audited(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.csv"
    command = ["audit", "--task", "hf", "--data", str(saved), "--model", "none", "--out", str(out)]
    assert main(command) == 0
    assert "unreadable" not in out.read_text()


def test_audio_is_read_out_of_its_file(saved: Path, tmp_path: Path) -> None:
    task = open_task("hf", saved)
    assert task.classes == ("high", "low")
    clip = task.clips[3]
    assert (clip.name, clip.labels, clip.path.name) == (
        "pitches.v1/train/3",
        ("high",),
        "data-00000-of-00001.arrow",
    )
    original = tmp_path / "audio" / "1" / "3.flac"
    assert torch.equal(read_clip(clip, 16_000), load(original))
    part = clip._replace(start=0.02, seconds=0.03)
    assert torch.equal(read_clip(part, 8000), load(original, start=0.02, seconds=0.03, sample_rate=8000))
    assert clip.inside is not None and "_all" not in vars(clip.inside), "what was read is not kept"
    moved = saved.rename(tmp_path / "elsewhere").rename(saved)
    assert open_task("hf", moved).fingerprint() == task.fingerprint()


def test_one_split_is_split(tmp_path: Path) -> None:
    groups = [f"site {n // 2}" for n in range(20)]
    build(tmp_path / "audio", range(20), site=groups, part=[n % 4 for n in range(20)]).save_to_disk(
        tmp_path / "one"
    )
    task = open_task("hf", tmp_path / "one", group="site")
    assert task.counts == {"train": 12, "valid": 4, "test": 4}
    assert len({(clip.group, clip.split) for clip in task.clips}) == 10
    lines = (tmp_path / "one-split.csv").read_text().splitlines()
    assert lines[0] == "row,split" and len(lines) == 21
    again = open_task("hf", tmp_path / "one", split=str(tmp_path / "one-split.csv"))
    assert [clip.split for clip in again.clips] == [clip.split for clip in task.clips]
    assert open_task("hf", tmp_path / "one", fold="part").counts == dict.fromkeys("0123", 5)
    datasets.load_from_disk(tmp_path / "one").to_parquet(tmp_path / "two.parquet")
    from_parquet = open_task("hf", tmp_path / "two.parquet", group="site")
    assert (from_parquet.name, [clip.split for clip in from_parquet.clips]) == (
        "two",
        [clip.split for clip in task.clips],
    )


def test_several_labels_and_segments(tmp_path: Path) -> None:
    tags = [["x", "y"], ["y"], [], ["x"]] * 5
    made = build(tmp_path / "audio", range(20), tags=tags, start=[0.02] * 20, end=[0.05] * 20)
    made.save_to_disk(tmp_path / "tagged")
    task = open_task("hf", tmp_path / "tagged", label="tags", multilabel=True, segments=True, split="auto")
    assert task.metric == "mAP" and task.clips[0].labels == ("x", "y") and task.clips[2].labels == ()
    assert len(read_clip(task.clips[0], 16_000)) == 480


def test_what_is_missing_is_one_line(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = build(tmp_path / "audio", range(6)).map(lambda row: {"kind": -1})
    secret.save_to_disk(tmp_path / "secret")
    datasets.Dataset.from_dict({"label": ["a"]}).save_to_disk(tmp_path / "mute")
    (tmp_path / "empty").mkdir()
    for data, options, message in (
        (tmp_path / "absent", {}, "absent: does not exist; give what save_to_disk wrote, or hf://datasets/"),
        (tmp_path / "empty", {}, "empty: datasets cannot load it"),
        (tmp_path / "mute", {}, "mute: no column holds audio; its columns are label"),
        (tmp_path / "secret", {"split": "auto"}, "row 1: all/0 has no kind"),
        (saved, {"label": "class"}, "no column class; its columns are kind"),
        (
            "hf://datasets/birds",
            {},
            "hf://datasets/birds: is no data set of the Hub; give hf://datasets/owner",
        ),
    ):
        with pytest.raises(TaskError, match=message) as caught:
            open_task("hf", data, **options)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match=r"datasets cannot load it \(.*\); check its name and the network"):
        open_task("hf", "hf://datasets/me/absent")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"needs the package datasets: pip install 'ajepa\[datasets\]'"):
        open_task("hf", saved)


def test_by_name(tmp_path: Path) -> None:
    """In a process of its own: the client reads the server's address when it is imported."""
    build(tmp_path / "audio", range(20)).save_to_disk(tmp_path / "one")
    parquet = tmp_path / "train.parquet"
    datasets.load_from_disk(tmp_path / "one").to_parquet(parquet)
    work = tmp_path / "work"
    work.mkdir()
    with DatasetServer(("127.0.0.1", 0), DatasetHandler) as server:
        server.name, server.requests = "me/pitches", []
        server.files = {"data/train-00000-of-00001.parquet": parquet.read_bytes()}
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        about = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "ajepa.cli", "evaluate", "knn", "--model", "logmel"]
        options = ["--data", "hf://datasets/me/pitches", "--cache", "cache", "--json", "r.json"]
        done = subprocess.run(
            [*command, "--task", "hf", *options],
            cwd=work,
            env=os.environ | about | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    (found,) = read_records(work / "r.json")
    assert (found.task, found.score, found.clips) == ("pitches", 1.0, 20)
    assert "the data set me/pitches of the Hub" in found.notes
    assert (work / "pitches-split.csv").is_file()
