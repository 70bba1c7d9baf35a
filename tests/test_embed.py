"""Embedding jobs: what is written, after interruptions, by several processes, of long audio."""

from __future__ import annotations

import csv
import hashlib
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

import ajepa
from ajepa.audio import load
from ajepa.cli import main
from ajepa.data import open_clips
from ajepa.data.encode import Packing
from ajepa.data.pack import write_shards
from ajepa.embed import job as jobs
from ajepa.embed import read_embeddings
from ajepa.embed.inputs import Inputs
from ajepa.embed.job import Job, run
from ajepa.embed.options import EmbedError, Wanted
from ajepa.embed.output import finish, job_folder, merged_blocks
from ajepa.embed.table import describe
from ajepa.features import LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.model.stream import Statistics, encode_stream
from ajepa.nn.encoder import EncoderConfig
from tests import forks

RATE = 16_000


@pytest.fixture
def model(tmp_path: Path, tiny_recipe: Any) -> str:
    """The first checkpoint of a run: a small encoder that embeds in no time."""
    return str(ajepa.pretrain(tiny_recipe, untrained=True))


def embed(model: str, *arguments: object) -> int:
    return main(["embed", "--model", model, *map(str, arguments)])


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    length = int(seconds * RATE)
    envelope = np.interp(np.arange(length), np.arange(0, length, 4000), rng.random(-(-length // 4000)))
    return (0.2 * envelope * rng.standard_normal(length)).astype(np.float32)


def direct(model: str, path: Path, **options: Any) -> Any:
    encoder = ajepa.load_model(model, **options)
    with torch.inference_mode():
        return encoder(load(path)[None], layers=True)


def test_a_folder_becomes_parts_with_what_they_are_of(
    model: str, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "embeddings"
    assert embed(model, audio_folder, "--out", out) == 0
    assert "12 clips" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "job.json",
        "part-000000.parquet",
        "plan-0000.parquet",
    ]
    found = ajepa.read_embeddings(out)
    assert found.paths == [str(path) for path in sorted(audio_folder.iterdir())]
    for path, start, end, sha256, value in zip(
        found.paths, found.start, found.end, found.sha256, found.values, strict=True
    ):
        assert (start, end) == (0.0, soundfile.info(path).duration)
        assert sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        expected = direct(model, Path(path)).clip[0].numpy()
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    table = pq.read_table(out / "part-000000.parquet").to_pandas()
    assert list(table.columns) == ["path", "start", "end", "sha256", "clip"]
    np.testing.assert_array_equal(np.stack(table["clip"]), found.values)
    with pytest.raises(ajepa.AjepaError, match="holds a job with other values of what"):
        main_raising(model, audio_folder, out)


def main_raising(model: str, audio: Path, out: Path) -> None:
    from ajepa.embed.inputs import Inputs
    from ajepa.embed.options import Wanted
    from ajepa.embed.table import describe

    encoder = ajepa.load_model(model)
    jobs.Job(out, Inputs([str(audio)]), describe(encoder, Wanted("frames")))


@pytest.mark.parametrize("what", ["frames", "patches", "layers"])
def test_what_is_wanted(model: str, audio_folder: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "e.parquet"
    path = audio_folder / "03.wav"
    assert embed(model, path, "--out", out, "--what", what, "--pooling", "mean+std") == 0
    found, expected = read_embeddings(out), direct(model, path)
    (value,) = found.values
    wanted = {
        "frames": expected.frames[0],
        "patches": expected.patches[0],
        "layers": torch.stack(
            [
                torch.cat([layer.mean((0, 1)).flatten(), layer.std((0, 1), correction=0).flatten()])
                for layer in (*expected.layers, expected.patches)
            ]
        ),
    }[what]
    np.testing.assert_allclose(value, wanted.numpy(), rtol=1e-3, atol=1e-5)
    assert found.about["hop_seconds"] == 0.16


def test_windows_cover_a_recording_to_its_end(model: str, tmp_path: Path) -> None:
    audio = tmp_path / "recordings"
    audio.mkdir()
    soundfile.write(audio / "long.wav", sound(3.5), RATE)
    soundfile.write(audio / "short.wav", sound(0.6), RATE)
    out = tmp_path / "e.parquet"
    assert embed(model, audio, "--out", out, "--window", "1", "--hop", "0.75", "--numbers", "float16") == 0
    found = read_embeddings(out)
    spans = [
        (Path(path).name, start, end)
        for path, start, end in zip(found.paths, found.start, found.end, strict=True)
    ]
    assert spans == [
        ("long.wav", 0.0, 1.0),
        ("long.wav", 0.75, 1.75),
        ("long.wav", 1.5, 2.5),
        ("long.wav", 2.25, 3.25),
        ("long.wav", 2.5, 3.5),
        ("short.wav", 0.0, 0.6),
    ]
    encoder = ajepa.load_model(model)
    with torch.inference_mode():
        expected = encoder(load(audio / "long.wav", start=2.5, seconds=1.0)[None]).clip[0].numpy()
    assert found.values.dtype == np.float16  # type: ignore[union-attr]
    np.testing.assert_allclose(found.values[4], expected, atol=2e-3, rtol=2e-3)


def test_windows_of_a_stream_are_those_of_the_whole(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.flac", sound(20.3), RATE)
    for name, seconds in (("whole", 60.0), ("stream", 1.0)):
        monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", seconds)
        assert embed(model, tmp_path / "a.flac", "--out", tmp_path / name, "--window", 4, "--hop", 6) == 0
    whole, streamed = (read_embeddings(tmp_path / name) for name in ("whole", "stream"))
    assert whole.start.tolist() == streamed.start.tolist() == [0.0, 6.0, 12.0, 16.3]
    np.testing.assert_array_equal(whole.values, streamed.values)


@pytest.mark.parametrize("seconds", [1.9, 2.56, 2.57, 4.0, 7.7, 15.36, 15.37, 31.0])
@pytest.mark.parametrize("patch", [(16, 16), (4, 64)])
def test_a_stream_is_embedded_like_the_whole(seconds: float, patch: tuple[int, int]) -> None:
    """Whatever the blocks; chunks that overlap, and the last one at the end, included."""
    torch.manual_seed(0)
    encoder = EncoderConfig(size="ti", width=32, depth=2, heads=2, patch=patch)
    model = AudioEncoder(LogMelConfig(), encoder, chunk_seconds=2.56).eval()
    wave_S = torch.from_numpy(sound(seconds, seed=3))
    with torch.inference_mode():
        whole = model(wave_S[None], layers=True)
    expected_TLFD = torch.stack([*whole.layers, whole.patches], 2)[0]
    for size in (997, 50_000):
        steps_TLFD = torch.cat(list(encode_stream(model, iter(wave_S.split(size)), layers=True)))
        torch.testing.assert_close(steps_TLFD, expected_TLFD, rtol=1e-4, atol=1e-4)


def test_statistics_of_pieces_are_those_of_the_whole(generator: torch.Generator) -> None:
    values_TX = 3 + torch.randn(1000, 7, generator=generator)
    statistics = Statistics()
    for piece in values_TX.split([1, 400, 5, 594]):
        statistics.add(piece)
    expected = torch.stack([values_TX.mean(0), values_TX.std(0, correction=0)])
    torch.testing.assert_close(statistics.pooled("mean+std"), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.pooled("mean"), expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
def test_long_clips_are_streamed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    soundfile.write(tmp_path / "a.wav", sound(9.0), 22_050)
    for what in ("clip", "layers", "frames"):
        results = []
        for seconds in (60.0, 1.0):
            monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", seconds)
            out = tmp_path / f"{what}-{seconds}.parquet"
            assert embed(model, tmp_path / "a.wav", "--out", out, "--what", what, "--pooling", pooling) == 0
            results.append(read_embeddings(out))
        np.testing.assert_allclose(results[1].values[0], results[0].values[0], rtol=1e-3, atol=1e-4)
        assert results[0].end.tolist() == results[1].end.tolist()


def test_a_level_that_needs_the_whole_clip_is_not_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", sound(5.0), RATE)
    values = []
    for seconds in (60.0, 1.0):
        monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", seconds)
        out = tmp_path / f"{seconds}.parquet"
        assert embed("audio-jepa-small-cpu", tmp_path / "a.wav", "--out", out) == 0
        values.append(read_embeddings(out).values)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-5)


def test_new_files_are_added(model: str, audio_folder: Path, tmp_path: Path) -> None:
    folder, one = tmp_path / "parts", tmp_path / "one.parquet"
    late = tmp_path / "late.wav"
    (audio_folder / "05.wav").rename(late)
    for out in (folder, one):
        assert embed(model, audio_folder, "--out", out) == 0
    before = (folder / "part-000000.parquet").stat().st_mtime_ns
    late.rename(audio_folder / "05.wav")
    for out in (folder, one):
        assert embed(model, audio_folder, audio_folder / "05.wav", "--out", out) == 0
        found = read_embeddings(out)
        assert len(found) == 12 and found.paths[-1] == str(audio_folder / "05.wav")
        assert embed(model, audio_folder, "--out", out) == 0, "nothing is left to do"
        assert len(read_embeddings(out)) == 12
    assert (folder / "part-000000.parquet").stat().st_mtime_ns == before
    (audio_folder / "00.wav").unlink()  # it is embedded already
    assert embed(model, audio_folder, "--out", one) == 0
    one.unlink()
    assert embed(model, audio_folder, "--out", one) == 2, "the job begins again, and one of its files is gone"


def test_a_job_that_did_nothing_gives_way(model: str, audio_folder: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "e.npz", (audio_folder / "03.wav").read_bytes()
    (audio_folder / "03.wav").write_bytes(b"RIFF")
    assert embed(model, audio_folder, "--out", out) == 2
    (audio_folder / "03.wav").write_bytes(whole)
    assert embed(model, audio_folder, "--out", out, "--pooling", "mean+std") == 0
    with np.load(out) as arrays:
        assert arrays["clip"].shape == (12, 512)


def test_a_job_that_is_at_work_does_not_give_way(model: str, audio_folder: Path, tmp_path: Path) -> None:
    """Else its rows would stand in for those of the other options."""
    out, encoder = tmp_path / "out", ajepa.load_model(model)
    inputs = Inputs([str(audio_folder)])
    first = Job(out, inputs, describe(encoder, Wanted()))
    with first.claimed(0) as mine:
        assert mine
        with pytest.raises(EmbedError, match=r"another process is at work there with other values of window"):
            Job(out, inputs, describe(encoder, Wanted(window=0.5)))
    second = Job(out, inputs, describe(encoder, Wanted(window=0.5)))  # between two blocks of the first
    with pytest.raises(EmbedError, match="another process began here with other options"):
        run(first, encoder, Wanted())
    assert second.left() == len(second) == 12
    run(second, encoder, Wanted(window=0.5))
    assert read_embeddings(out).about["window"] == 0.5


def test_the_process_that_comes_last_finds_the_file_finished(
    model: str, audio_folder: Path, tmp_path: Path
) -> None:
    encoder, inputs = ajepa.load_model(model), Inputs([str(audio_folder)])
    for out in (tmp_path / "e.npz", tmp_path / "e.parquet"):
        both = [
            Job(job_folder(out), inputs, describe(encoder, Wanted()), merged_blocks(out)) for _ in range(2)
        ]
        run(both[0], encoder, Wanted())
        assert [finish(job, out) for job in both] == [True, True]
        assert job_folder(out).exists() == (out.suffix == ".parquet")


def test_segments_manifests_and_shards(model: str, audio_folder: Path, tmp_path: Path) -> None:
    table = audio_folder / "segments.csv"
    table.write_text("path,start,end,what\n00.wav,0.1,0.3,a\n01.wav,,,b\n00.wav,0.2,,c\n")
    shards = tmp_path / "shards"
    write_shards(open_clips(audio_folder), shards, Packing())
    out = tmp_path / "e.parquet"
    assert embed(model, table, shards, "--out", out) == 0
    found = read_embeddings(out)
    assert found.paths[:3] == [str(audio_folder / name) for name in ("00.wav", "01.wav", "00.wav")]
    assert found.start[:3].tolist() == [0.1, 0.0, 0.2]
    assert found.end[0] == pytest.approx(0.3)
    assert found.end[2] == pytest.approx(soundfile.info(str(audio_folder / "00.wav")).duration)
    assert len(found) == 15 and found.paths[3] == f"{shards}/shard-000000.tar/000000000.flac"
    bad = audio_folder / "bad.csv"
    bad.write_text("path,start,end\n00.wav,1.0,0.5\n")
    assert embed(model, bad, "--out", out) == 2


def test_broken_files_are_listed(
    model: str, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (audio_folder / "03.wav").write_bytes(b"RIFF")
    cut = (audio_folder / "04.wav").read_bytes()
    (audio_folder / "04.wav").write_bytes(cut[: len(cut) // 2])
    out = tmp_path / "out"
    assert embed(model, audio_folder, "--out", out) == 2
    assert "03.wav" in capsys.readouterr().err
    assert not list(out.glob("part-*"))
    assert embed(model, audio_folder, "--out", out, "--skip-broken") == 0
    assert "10 clips" in capsys.readouterr().out
    with (out / "broken-000000.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["03.wav", "04.wav"]
    assert all(row["path"] in row["reason"] for row in rows)
    assert len(read_embeddings(out)) == 10
    (audio_folder / "03.wav").write_bytes((audio_folder / "05.wav").read_bytes())
    (audio_folder / "04.wav").write_bytes(cut)
    (out / "part-000000.parquet").unlink()
    assert embed(model, audio_folder, "--out", out, "--skip-broken") == 0
    assert not list(out.glob("broken-*")), "they have been repaired"
    assert "could not be used" not in capsys.readouterr().out


def test_a_long_file_that_breaks_off_has_no_row(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ajepa.embed.pieces.LONG_SECONDS", 1.0)
    audio = tmp_path / "recordings"
    audio.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(audio / name, sound(30.0), RATE, subtype="FLOAT")
    data = bytearray((audio / "a.wav").read_bytes())
    data[-4000:-3996] = np.float32(np.nan).tobytes()
    (audio / "a.wav").write_bytes(data)
    for name, more in (("whole", []), ("windows", ["--window", "4"])):
        out = tmp_path / name
        assert embed(model, audio, "--out", out, "--skip-broken", *more) == 0
        assert {Path(path).name for path in read_embeddings(out).paths} == {"b.wav"}
        assert "NaN" in (out / "broken-000000.csv").read_text()


@pytest.mark.parametrize("name", ["e.npz", "e.parquet"])
def test_what_could_not_be_used_is_listed_next_to_one_file(
    name: str, model: str, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (audio_folder / "03.wav").write_bytes(b"RIFF")
    assert embed(model, audio_folder, "--out", tmp_path / name, "--skip-broken") == 0
    listed = tmp_path / f"{name}.broken.csv"
    assert f"1 could not be used, see {listed}" in capsys.readouterr().out
    with listed.open() as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == ["03.wav"]


def test_npz(model: str, audio_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.npz"
    assert embed(model, audio_folder, "--out", out, "--what", "frames") == 0
    assert [path.name for path in tmp_path.glob(".e.npz*")] == []
    with np.load(out) as arrays:
        assert arrays["files"].tolist() == [str(path) for path in sorted(audio_folder.iterdir())]
        assert arrays["steps"].sum() == len(arrays["frames"])
        assert arrays["start"].tolist() == [0.0] * 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "e.csv"], "name a folder, or a file that ends in .parquet or .npz"),
        (["--out", "e", "--hop", "1"], "--hop needs --window"),
        (["--out", "e", "--window", "-1"], "--window is -1.0; give seconds above 0"),
        (["--out", "other.parquet"], "other.parquet: exists"),
        (["--out", "e", "--batch", "0"], "--batch is 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str],
    words: str,
    audio_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.parquet").write_bytes(b"PAR1")
    assert main(["embed", str(audio_folder), "--model", "ajepa-demo", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def embed_small_blocks(*arguments: str) -> None:
    jobs.BLOCK_CLIPS = 2
    sys.exit(main(list(arguments)))


def test_killed_at_any_moment_the_files_are_the_same(
    model: str, audio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL after each claim, part and plan, and between; two processes share what is left."""
    options = ["embed", str(audio_folder), "--model", model, "--window", "0.5", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "BLOCK_CLIPS", 2)
        assert main([*options, str(whole)]) == 0

    def started() -> BaseProcess:
        process = forks.context().Process(target=embed_small_blocks, args=(*options, str(killed)))
        process.start()
        return process

    reached = 0
    for wanted in (0, 1, 3):
        process = started()
        while process.is_alive() and len(list(killed.glob("part-*"))) <= wanted:
            time.sleep(0.002)
        process.kill()
        process.join()
        reached = max(reached, len(list(killed.glob("part-*"))))
    assert reached > 0, "the kills came before any work"
    (killed / ".claim-000000").touch()  # as of one that was killed right after its part was there
    both = [started(), started()]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    parts = sorted(path.name for path in whole.glob("part-*"))
    assert len(parts) == 6
    for name in parts:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert [path for path in killed.iterdir() if ".partial" in path.name or "claim" in path.name] == []


def test_several_processes_by_one_option(
    model: str, audio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.parquet"
    line = ["embed", str(audio_folder), "--model", model, "--out", str(out), "--devices", "2"]
    monkeypatch.setattr(sys, "argv", ["ajepa", *line])  # its processes repeat it
    assert main() == 0
    assert len(read_embeddings(out)) == 12
