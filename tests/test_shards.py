"""Tar shards: written, indexed, read by place, fetched from a server."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ajepa import checkpoint
from ajepa.audio import AudioError, info, load
from ajepa.audio_bytes import _READ_AT_ONCE
from ajepa.cli import main
from ajepa.data import open_clips, pack, remote
from ajepa.data.clips import Clips, DataError
from ajepa.data.crops import CropDataset
from ajepa.data.encode import Packing
from ajepa.data.order import Draw, StepSampler
from ajepa.data.pack import write_shards
from ajepa.data.shards import LISTING, Shards
from ajepa.data.tars import index_tars
from ajepa.recipe import Recipe, RecipeError
from ajepa.training.loop import pretrain


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


def crops(clips: Clips, **options: Any) -> list[torch.Tensor]:
    dataset = CropDataset(clips, 1.0, 16_000, 6.0, **options)
    found = [dataset[Draw(index, 100 + index)] for index in range(len(clips))]
    assert not any(crop.failure or crop.broken for crop in found)
    return [crop.waveform_S for crop in found]


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
    with pytest.raises(DataError, match="another --out"):
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
    with pytest.raises(DataError, match="of other options"):
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
    with pytest.raises(DataError, match="tars of another origin"):
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
    refused("is not there; copy it again")
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
    refused("tars without an index; `ajepa data index")


# --- tars of others -------------------------------------------------------------------------------------


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


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
    with pytest.raises(DataError, match=r"unpack the compression of a\.tar\.gz"):
        index_tars(noise_folder)
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


# --- shards on a server ---------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Counts requests; `answers` plans the next ones of a name: "cut", "wrong" or a status."""

    requests: Counter[str]
    answers: dict[str, list[str | int]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests[name] += 1
        planned = self.server.answers.get(name)
        answer = planned.pop(0) if planned else ""
        if not answer:
            return super().do_GET()
        if isinstance(answer, int):
            return self.send_error(answer)
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:1000] if answer == "cut" else bytes(len(data)))
        return None

    def log_message(self, *values: object) -> None:
        pass


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    with Server(("127.0.0.1", 0), partial(Handler, directory=str(shards))) as running:
        running.requests, running.answers = Counter(), {}
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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
    server.answers = {"shard-000000.tar": ["wrong"] * remote.ATTEMPTS, "shard-000001.tar": [404]}
    dataset = CropDataset(clips, 0.5, 16_000, 0.0, skip_broken=True)
    crop = dataset[Draw(0, 0)]
    assert f"not fetched in {remote.ATTEMPTS} attempts" in crop.failure
    assert "checksum" in crop.failure
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
