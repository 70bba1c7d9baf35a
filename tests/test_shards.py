"""Tar shards: written, indexed, read by place."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ajepa.audio import AudioError, info, load
from ajepa.audio.source import _READ_AT_ONCE
from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.data import open_clips, pack
from ajepa.data.clips import DataError
from ajepa.data.crops import CropDataset
from ajepa.data.encode import Packing
from ajepa.data.order import Draw, StepSampler
from ajepa.data.pack import write_shards
from ajepa.data.shards import LISTING, Shards
from ajepa.data.tars import index_tars
from ajepa.recipes import Recipe, RecipeError
from ajepa.training.loop import pretrain
from tests.file_server import Server
from tests.shard_sets import add, crops


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "flac", "copy"])
def test_crops_from_shards_are_those_of_the_folder(noise_folder: Path, tmp_path: Path, kind: str) -> None:
    """Bit for bit, although parts are read from the middle of a tar."""
    folder = open_clips(noise_folder)
    listing = write_shards(folder, tmp_path / kind, Packing(kind, shard_megabytes=1), workers=2)
    clips = open_clips(tmp_path / kind)
    assert len(clips) == len(folder) == 10
    assert len(listing.shards) > 1
    assert all(shard.size <= 2**20 for shard in listing.shards)
    assert all(map(torch.equal, crops(clips), crops(folder)))
    assert all(map(torch.equal, crops(clips, cache_megabytes=8), crops(folder)))
    for shard in listing.shards:
        data = (tmp_path / kind / shard.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        assert len(data) == shard.size
    assert clips.fingerprint()["files"] == 10


def test_opus_keeps_the_length_and_the_sound(audio_folder: Path, tmp_path: Path) -> None:
    folder = open_clips(audio_folder)
    write_shards(folder, tmp_path / "opus", Packing("opus"))
    clips = open_clips(tmp_path / "opus")
    for index in range(len(folder)):
        ours, theirs = load(clips.clip(index).audio), load(folder.clip(index).audio)
        assert len(ours) == len(theirs) == round((clips.clip(index).seconds or 0) * 16_000)
        assert torch.corrcoef(torch.stack((ours, theirs)))[0, 1] > 0.9


def test_the_stock_library_reads_the_shards(audio_folder: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    table = audio_folder / "set.csv"
    table.write_text("path,start,duration,labels\n00.wav,,,dog\n01.wav,0.1,0.2,\n")
    out = tmp_path / "shards"
    write_shards(open_clips(table, labels=True), out, Packing("flac", sample_rate=8_000))
    samples = list(webdataset.WebDataset(str(out / "shard-000000.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["000000000", "000000001"]
    whole = info(audio_folder / "00.wav").seconds
    about = [sample["json"] for sample in samples]
    assert about[0] == {"path": "00.wav", "duration": pytest.approx(whole, abs=1e-4), "labels": "dog"}
    assert about[1] == {"path": "01.wav", "duration": 0.2, "start": 0.1}
    raw = webdataset.WebDataset(str(out / "shard-000000.tar"), shardshuffle=False)
    for sample, clip in zip(raw, map(open_clips(out).clip, range(2)), strict=True):
        waveform_S, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        assert rate == 8_000
        assert torch.equal(torch.from_numpy(waveform_S), load(clip.audio, sample_rate=8_000))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_writer_goes_on(
    noise_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Killed within the second shard: the first is not made again, and all is as if nothing had happened."""
    clips, packing = open_clips(noise_folder), Packing("flac", shard_megabytes=1)
    write_shards(clips, tmp_path / "whole", packing)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write_shards(clips, out, packing, workers=workers, report=partial(_stop_at, 9))
    assert not (out / LISTING).exists()
    with pytest.raises(DataError, match="another folder"):
        write_shards(clips, out, replace(packing, format="wav"))
    first = out / "shard-000000.tar"
    written = first.stat().st_mtime_ns
    encoded: list[str] = []
    monkeypatch.setattr(pack, "encode_clip", partial(_noting, pack.encode_clip, encoded))
    write_shards(clips, out, packing, workers=workers)
    assert 0 < len(encoded) < 10
    assert first.stat().st_mtime_ns == written
    assert contents(out) == contents(tmp_path / "whole"), "and nothing else is left"
    encoded.clear()
    write_shards(clips, out, packing, workers=workers)
    assert encoded == [], "what is finished stays"
    with pytest.raises(DataError, match="or other options"):
        write_shards(clips, out, replace(packing, sample_rate=8_000))


def _stop_at(stop: int, done: int) -> None:
    if done == stop:
        raise KeyboardInterrupt


def _noting(encode: Any, encoded: list[str], clip: Any, packing: Packing) -> Any:
    encoded.append(clip.name)
    return encode(clip, packing)


def test_broken_files_stop_or_are_listed(
    noise_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (noise_folder / "part/04.wav").write_bytes(b"no audio")
    (noise_folder / "part/zz.wav").write_bytes(b"")
    command = ["data", "shard", str(noise_folder), str(tmp_path / "out"), "--shard-megabytes", "1"]
    assert main(command) == 2
    assert "04.wav: not readable" in capsys.readouterr().err
    assert main([*command, "--skip-broken"]) == 0
    assert "9 clips" in capsys.readouterr().out
    broken = (tmp_path / "out" / "broken.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in broken] == [f"{noise_folder}/part/{n}.wav" for n in ("04", "zz")]
    clips = open_clips(tmp_path / "out")
    names = [clips.clip(index).name for index in range(9)]
    assert "shard-000000.tar/000000005.flac" in names
    assert "shard-000000.tar/000000004.flac" not in names


def test_nothing_usable_and_wrong_options(noise_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Opus has no sample rate 44100"):
        Packing("opus", sample_rate=44_100)
    with pytest.raises(DataError, match="must be one of wav, flac, opus, copy"):
        Packing("mp3")
    table = noise_folder / "set.csv"
    table.write_text("path,start\npart/00.wav,1.0\n")
    with pytest.raises(DataError, match=r"row 1 of .*`copy` keeps files whole"):
        write_shards(open_clips(table), tmp_path / "copy", Packing("copy"))
    (noise_folder / "part/00.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match=r"none of 1 clips can be used.*row 1"):
        write_shards(open_clips(table), tmp_path / "none", skip_broken=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.tar").touch()
    with pytest.raises(DataError, match="tars from elsewhere"):
        write_shards(open_clips(noise_folder), tmp_path / "other")


# --- reading --------------------------------------------------------------------------------------------


def test_long_members_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop of a long WAV or FLAC reads a small part of the member, and gives what the whole has there."""
    rng = np.random.default_rng(0)
    samples = rng.integers(-9_000, 9_000, 16_000 * 200, dtype=np.int16)
    (tmp_path / "long").mkdir()
    for suffix in ("wav", "flac"):
        soundfile.write(tmp_path / "long" / f"long.{suffix}", samples, 16_000)
    folder = open_clips(tmp_path / "long")
    write_shards(folder, tmp_path / "shards", Packing("copy"))
    clips = open_clips(tmp_path / "shards")
    read: list[int] = []
    original = Shards._read

    def counting(self: Shards, shard: Any, member: int, offset: int, count: int) -> bytes:
        read.append(count)
        return original(self, shard, member, offset, count)

    monkeypatch.setattr(Shards, "_read", counting)
    for index in range(2):
        audio = clips.clip(index).audio
        assert not isinstance(audio, str)
        assert audio.size > _READ_AT_ONCE
        part_S = load(audio, start=123.0, seconds=2.0)
        assert torch.equal(part_S, load(folder.clip(index).audio, start=123.0, seconds=2.0))
        assert sum(read) < audio.size / 2, audio.name
        read.clear()


def test_a_run_over_two_ranks_uses_each_clip_once_and_resumes(shards: Path) -> None:
    """Ten clips in batches of 4: the third batch spans two epochs."""
    clips = open_clips(shards, shard_window=1)
    sampler = partial(StepSampler, len(clips), 4, stop=5, seed=1, shard_sizes=clips.shard_sizes, window=1)
    shares = [[draw for batch in sampler(start=0, rank=rank, ranks=2) for draw in batch] for rank in (0, 1)]
    whole = [draw for batch in sampler(start=0) for draw in batch]
    assert Counter(draw.clip for share in shares for draw in share) == dict.fromkeys(range(10), 2)
    dataset = CropDataset(clips, 0.5, 16_000, 6.0)
    alone = {draw.seed: dataset[draw].waveform_S for draw in whole}
    assert all(torch.equal(dataset[draw].waveform_S, alone[draw.seed]) for share in shares for draw in share)
    resumed = [draw for batch in sampler(start=3) for draw in batch]
    assert resumed == whole[12:]
    assert clips.fingerprint()["shard_window"] == 1


def test_pre_training_from_shards_and_over_http(
    tiny_recipe: Recipe, server: Server, shards: Path, tmp_path: Path
) -> None:
    """The same weights from the disk and from a server; another window is another run."""

    def run(source: str, out: str, **data: Any) -> bytes:
        options = {"source": source, "shard_cache": str(tmp_path / "cache")} | data
        recipe = replace(
            tiny_recipe,
            data=replace(tiny_recipe.data, **options),
            optim=replace(tiny_recipe.optim, steps=3, warmup_steps=1),
            run=replace(tiny_recipe.run, out=str(tmp_path / out)),
        )
        saved = checkpoint.load(pretrain(recipe))
        return b"".join(saved.tensors[name].numpy().tobytes() for name in sorted(saved.tensors))

    assert run(str(shards), "local") == run(server.url, "remote", workers=1)
    with pytest.raises(
        RecipeError, match="10 files in windows of 8 shards, now 10 files in windows of 1 shards"
    ):
        run(str(shards), "local", shard_window=1)


def test_shards_travel_to_other_processes(shards: Path) -> None:
    clips = open_clips(shards)
    first = crops(clips)
    assert all(map(torch.equal, crops(pickle.loads(pickle.dumps(clips))), first))
    with ThreadPoolExecutor(4) as pool:  # more threads than shards that stay open
        narrow = CropDataset(open_clips(shards, shard_window=1), 1.0, 16_000, 6.0)
        draws = [Draw(index, 100 + index) for index in range(10)] * 4
        assert all(map(torch.equal, (c.waveform_S for c in pool.map(narrow.__getitem__, draws)), first * 4))


def test_damage_is_told(shards: Path) -> None:
    listing, tar = shards / LISTING, shards / "shard-000001.tar"
    text, data = listing.read_text(), tar.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            open_clips(shards)

    tar.write_bytes(data[:-1])
    refused(r"shard-000001\.tar: has \d+ bytes, the index says \d+; copy it again")
    tar.unlink()
    refused("is missing; copy it again")
    tar.write_bytes(data)
    for wrong in (text[:50], "[]", text.replace('"version": 1', '"version": 2')):
        listing.write_text(wrong)
        refused("ajepa data index")
    for name in ("../shard-000001.tar", "/etc/shard-000001.tar", "a/shard-000001.tar", ".tar"):
        listing.write_text(text.replace("shard-000001.tar", name))
        refused("not a list of shards")
    values = json.loads(text)
    values["shards"].reverse()
    listing.write_text(json.dumps(values))
    refused("does not fit")
    listing.write_text(text)
    (shards / "index.parquet").write_bytes(b"PAR1")
    refused(r"index\.parquet: not readable")
    index_tars(shards)
    crops(open_clips(shards))
    listing.unlink()
    refused("tars without an index; make one with `ajepa data index")


# --- tars of others -------------------------------------------------------------------------------------


def test_tars_of_others_are_indexed(
    noise_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders inside, long names, other members and macOS's ._ files; crops as from the folder."""
    out = tmp_path / "tars"
    out.mkdir()
    files = sorted(noise_folder.rglob("*.wav"))
    for number, part in enumerate((files[:6], files[6:])):
        with tarfile.open(out / f"set.{number}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            add(tar, "part", type=tarfile.DIRTYPE)
            for file in part:
                add(tar, f"part/{'long' * 40}/ä{file.name.upper()}", file.read_bytes())
                add(tar, f"part/._{file.name}", b"of macOS")
                add(tar, f"part/{file.stem}.cls", b"3")
    with pytest.raises(DataError, match="tars without an index"):
        open_clips(out)
    assert main(["data", "index", str(out), "--workers", "2"]) == 0
    assert "10 clips" in capsys.readouterr().out
    clips = open_clips(out)
    assert clips.shard_sizes == (6, 4)
    assert all(map(torch.equal, crops(clips), crops(open_clips(noise_folder))))
    assert list(clips.siblings(7)) == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("/etc/a.wav", {}, "leads out of the tar"),
        ("../a.wav", {}, "leads out of the tar"),
        ("a/../../b.wav", {}, "leads out of the tar"),
        ("a.wav", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link"),
        ("a.wav", {"type": tarfile.LNKTYPE, "linkname": "b.wav"}, "a link"),
        ("a.wav", {"type": tarfile.FIFOTYPE}, "a device"),
    ],
)
def test_unsafe_members_are_refused(tmp_path: Path, name: str, fields: dict[str, Any], reason: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, name, **fields)
    with pytest.raises(DataError, match=f"is refused.*{reason}"):
        index_tars(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_unusable_tars_are_told(noise_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.tar files here"):
        index_tars(noise_folder)
    with tarfile.open(noise_folder / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"a\.tar\.gz is compressed \(1 such files\); unpack the compression"):
        index_tars(noise_folder)
    with (
        tarfile.open(noise_folder / "b.tar", "w"),
        pytest.raises(DataError, match=r"a\.tar\.gz is compressed"),
    ):
        index_tars(noise_folder)  # not even next to plain ones
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(tars / "a.tar", "w") as tar:
        add(tar, "a.txt", b"text")
    with pytest.raises(DataError, match="no audio in its 1 tars"):
        index_tars(tars)
    with tarfile.open(tars / "b.tar", "w") as tar:
        add(tar, "b.wav", b"no audio")
        add(tar, "c.wav", (noise_folder / "part/00.wav").read_bytes())
    with pytest.raises(AudioError, match=r"b\.tar/b\.wav: not readable"):
        index_tars(tars)
    assert index_tars(tars, skip_broken=True).fingerprint()["files"] == 1
    data = (tars / "b.tar").read_bytes()
    (tars / "b.tar").write_bytes(data[:80_000])
    with pytest.raises(DataError, match=r"b\.tar: not readable as an uncompressed tar"):
        index_tars(tars, skip_broken=True)
