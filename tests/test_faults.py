"""Faults of the machine: damaged side files, a full disk, little shared memory, loaders that die."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from ajepa import files, read_embeddings
from ajepa.audio import load
from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.data import open_clips, pack
from ajepa.data.clips import DataError
from ajepa.data.synthetic import write_esc50
from ajepa.data.tables import TaskError, read_table
from ajepa.data.tars import index_tars
from ajepa.embed import output
from ajepa.embed.options import EmbedError
from ajepa.eval.tasks import open_task
from ajepa.recipes import Recipe, RecipeError
from ajepa.training import step
from ajepa.training.guard import TrainingError
from ajepa.training.loop import pretrain
from ajepa.training.prepare import check_shared_memory


@pytest.fixture
def stopped(tiny_recipe: Recipe) -> Recipe:
    """The recipe of a run whose last step is to be done again."""
    out = pretrain(tiny_recipe).parent
    (out / "encoder.safetensors").unlink()
    paths = sorted((out / "checkpoints").iterdir())
    if len(paths) > 2:
        paths[-1].unlink()
    return tiny_recipe


DAMAGED: dict[str, list[bytes]] = {
    "metrics.jsonl": [b"", b"{", b"null\n[]\n", b'{"step": "x"}\n{"loss": 1}\n', b"\xff\xfe\n\0\n"],
    "run.json": [b"", b"{}", b"[", b"\xff", b"[" * 5000],
    "broken.txt": [b"\xff\xfe caf\xe9\n"],
    "best.safetensors": [b"", b"{}", b"\xff" * 100],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_side_file_does_not_block_a_sound_checkpoint(stopped: Recipe, name: str) -> None:
    out = Path(stopped.run.out)
    for content in DAMAGED[name]:
        (out / name).write_bytes(content)
        assert pretrain(stopped).is_file()
        (out / "encoder.safetensors").unlink()
    assert isinstance(json.loads((out / "run.json").read_text()), list)


def test_a_damaged_line_of_the_log_leaves_the_others(
    stopped: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(stopped.run.out) / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], "}broken{", *lines[1:]]) + "\n")
    pretrain(stopped)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert f"{log}: 1 damaged lines are left out" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["cut", "one bit"])
def test_a_damaged_checkpoint_offers_the_one_before(stopped: Recipe, how: str) -> None:
    before, last = sorted((Path(stopped.run.out) / "checkpoints").iterdir())[-2:]
    content = bytearray(last.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    else:
        content[-100] ^= 1
    last.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"{last}: .*remove it to go on from {before.name}") as caught:
        pretrain(stopped)
    assert "\n" not in str(caught.value)
    last.unlink()
    assert pretrain(stopped).is_file()


def test_checkpoints_of_version_0_3_have_no_checksum() -> None:
    path = Path(__file__).parent / "fixtures" / "a-jepa.checkpoint.safetensors"
    checkpoint.verify(path)


def test_little_shared_memory_is_said_before_the_run(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, workers=2))
    check_shared_memory(recipe, 1, tmp_path)
    check_shared_memory(recipe, 1, tmp_path / "none")
    large = replace(recipe, optim=replace(recipe.optim, batch_size=10**9))
    with pytest.raises(RecipeError, match=r"MiB free, batches of .* --shm-size"):
        check_shared_memory(large, 1, tmp_path)
    check_shared_memory(replace(large, data=replace(large.data, workers=0)), 1, tmp_path)


class Dies:
    """A loader whose process is gone."""

    def __iter__(self) -> Any:
        raise RuntimeError("DataLoader worker (pid(s) 123) exited unexpectedly")
        yield


def test_a_dead_loader_process_is_named(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, audio_folder: Path
) -> None:
    monkeypatch.setattr(step, "crop_loader", lambda run, clips: Dies())
    with pytest.raises(
        TrainingError, match=r"loader process has ended or hangs .*123.*last checkpoint is whole"
    ):
        pretrain(tiny_recipe)


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=r"No space left.*a\.json"), files.in_place_of(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    if Path("/dev/full").exists():
        full = Path("/dev/full")
        with pytest.raises(OSError, match="/dev/full"), files.naming(full), full.open("w") as file:
            file.write("x" * 100_000)


# --- One rule for one thing ---


def wav(path: Path, seconds: float = 1.0) -> Path:
    samples = 0.3 * np.sin(np.arange(round(seconds * 16_000)) / 7)
    soundfile.write(path, samples, 16_000)
    return path


@pytest.mark.parametrize("name", ["train 0.tar", "train(0).tar", "train=0.tar", "_train.tar", "größe.tar"])
def test_a_tar_that_can_be_indexed_can_be_used(tmp_path: Path, name: str) -> None:
    import tarfile

    wav(tmp_path / "t.wav")
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(folder / name, "w") as tar:
        tar.add(tmp_path / "t.wav", "t.wav")
    (folder / "._mac.tar").write_bytes(b"\0\5\26\7" + bytes(100))
    index_tars(folder)
    clips = open_clips(folder)
    assert len(clips) == 1 and load(clips.clip(0).audio).numel() == 16_000


def test_a_tar_that_cannot_be_used_is_not_indexed(tmp_path: Path) -> None:
    (tmp_path / "a\nb.tar").touch()
    with pytest.raises(DataError, match="rename it"):
        index_tars(tmp_path)
    (tmp_path / "a\nb.tar").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tar"))
    with pytest.raises(DataError, match="rename it"):
        index_tars(tmp_path)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,start,duration", "t.wav,0.2,0.5"),
        ("path, start, duration", "t.wav, 0.2, 0.5"),
        ("Path,Start,Duration", "t.wav,0.2,0.5"),
        (" path ,x,start\t,duration", "t.wav,y,0.2,0.5"),
    ],
)
def test_a_manifests_header_is_read_or_refused(tmp_path: Path, header: str, row: str) -> None:
    wav(tmp_path / "t.wav")
    (tmp_path / "m.csv").write_text(f"{header}\n{row}\n")
    clip = open_clips(tmp_path / "m.csv").clip(0)
    assert (clip.start, clip.seconds) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("header", "message"),
    [("path,begin,end", "'begin'"), ("path,start,start", "two columns are named start")],
)
def test_a_column_that_would_be_ignored_is_an_error(tmp_path: Path, header: str, message: str) -> None:
    wav(tmp_path / "t.wav")
    (tmp_path / "m.csv").write_text(f"{header}\nt.wav,0.2,0.7\n")
    with pytest.raises(DataError, match=message):
        open_clips(tmp_path / "m.csv")


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("path, label ,split,label\na.wav,1,train,2\n")
    with pytest.raises(TaskError, match=f"{path}: two columns are named label"):
        read_table(path, ["label"])
    path.write_text(f"path, label \na.wav,{'x' * 200_000}\n")
    assert len(read_table(path, ["label"]).rows[0]["label"]) == 200_000
    path.write_bytes(b"path,label\na.wav,caf\xe9\n")
    with pytest.raises(TaskError, match=f"{path}: is not UTF-8") as caught:
        read_table(path, ["label"])
    assert "\n" not in str(caught.value)


def test_a_users_table_may_hold_absolute_paths(tmp_path: Path) -> None:
    audio, tables = tmp_path / "audio", tmp_path / "tables"
    audio.mkdir()
    tables.mkdir()
    rows = ["path,label,split"]
    for number in range(12):
        file = wav(audio / f"{number}.wav", 0.1)
        place = str(file) if number % 2 else f"../audio/{number}.wav"
        rows.append(f"{place},{number % 3 % 2},{('train', 'valid', 'test')[number // 4]}")
    (tables / "t.csv").write_text("\n".join(rows) + "\n")
    task = open_task("table", tables / "t.csv", split="split")
    assert {clip.path for clip in task.clips} == {audio / f"{number}.wav" for number in range(12)}


# --- Side files of an embedding job, and of shards that are being written ---


@pytest.mark.parametrize("name", ["job.json", "plan-0000.parquet", "part-000000.parquet"])
def test_a_damaged_file_of_a_job_is_named(
    name: str, audio_folder: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(audio_folder), "--model", source, "--out", str(tmp_path / "job")]
    assert main(command) == 0
    path = tmp_path / "job" / name
    for content in (path.read_bytes()[:-9], b"", b"text"):
        path.write_bytes(content)
        capsys.readouterr()
        status, other = main(command), main([*command[:-1], str(tmp_path / "one.parquet")])
        said = capsys.readouterr().err
        if name.startswith("part"):  # is not needed to go on
            with pytest.raises(EmbedError, match=rf"{name}: not readable .*; remove it"):
                read_embeddings(tmp_path / "job")
        else:
            assert status == 2 and f"{name}: " in said and "to begin again" in said
        assert other == 0


def test_a_damaged_part_is_set_aside_and_embedded_again(
    audio_folder: Path,
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "one.parquet"
    command = ["embed", str(audio_folder), "--model", source, "--out", str(out)]
    with monkeypatch.context() as stopped:
        stopped.setattr(output, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    (part,) = (tmp_path / ".one.parquet.job").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    capsys.readouterr()
    assert main(command) == 2
    assert "part-000000.parquet: damaged" in capsys.readouterr().err
    assert main(command) == 0
    assert len(read_embeddings(out)) == 12


@pytest.mark.parametrize(
    "metadata",
    [b"{}", b"x", b"[1]", b'{"what": "clip"}', b'{"what": ["clip"]}', b'{"what": "path", "features": 1}'],
)
def test_a_strangers_parquet_is_no_embedding(metadata: bytes, tmp_path: Path) -> None:
    table = pa.table({"path": ["a"], "clip": [[1.0]]}).replace_schema_metadata({b"ajepa": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(EmbedError, match=r"a\.parquet: Parquet, but not of `ajepa embed`"):
        read_embeddings(tmp_path / "a.parquet")


@pytest.mark.parametrize(("name", "goes_on"), [("plan.json", False), ("000000.json", True)])
def test_damaged_notes_of_shards(
    name: str, goes_on: bool, noise_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    command = ["data", "shard", str(noise_folder), str(out), "--shard-megabytes", "1"]
    with monkeypatch.context() as stopped:
        stopped.setattr(pack, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    note = out / ".progress" / name
    note.write_bytes(note.read_bytes()[:-9])
    assert main(command) == (0 if goes_on else 2)
    if not goes_on:
        note.unlink()
        assert main(command) == 0
    assert len(open_clips(out)) == 10


# --- Names that are no text ---


def test_names_that_are_not_utf8(
    noise_folder: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command does its work, or says in one line which name it cannot take."""
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    noise_folder.rename(strange)
    write_esc50(strange / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    out = strange / "out"
    commands = {
        f"evaluate knn --model logmel --task esc50 --data {strange}/esc50 --out {out}/o": 0,
        f"data hear-task esc50 --source {strange}/esc50 --out {out}/h": 0,
        f"data xares esc50 --source {strange}/esc50 --out {out}/x": 0,
        f"masks {source} --out {out}/m.png": 0,
        f"embed {strange} --model {source} --out {tmp_path}/e.npz": 2,
        f"embed {tmp_path}/a.wav --model {source} --out {out}/e": 2,
        f"data shard {strange} {out}/shards": 2,
        f"data manifest {strange} {out}/m.csv": 2,
        f"pretrain {source} --data.source {strange} --run.out {tmp_path}/run": 2,
    }
    wav(tmp_path / "a.wav")
    for command, status in commands.items():
        capsys.readouterr()
        assert main(command.split()) == status, command
        said = capsys.readouterr().err.strip().splitlines()[-1:]
        assert not status or ("caf" in said[0] and "not UTF-8" in said[0] and "rename" in said[0]), said
    next((strange / "part").glob("*.wav")).rename(os.fsdecode(os.fsencode(strange / "part") + b"/\xff.wav"))
    with pytest.raises(DataError, match=r"the name of the file \\udcff\.wav is not UTF-8"):
        open_clips(strange / "part")
