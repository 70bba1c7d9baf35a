"""The nearest clips: exact, in the right space, without the query itself; as a table, JSON and a page."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import ajepa
from ajepa.cli import main
from ajepa.embed.inputs import Inputs
from ajepa.pages.rows import Clip, Row, Section, write_page
from ajepa.recipes import Recipe, dump_recipe
from ajepa.search import cosine
from ajepa.search.among import _digest
from ajepa.search.cosine import PLAIN, Space, nearest, neighbours

RATE = 16_000


@pytest.fixture
def vectors() -> Tensor:
    """200 vectors of 12 features with unequal variances around a mean far from 0."""
    generator = torch.Generator().manual_seed(0)
    return 5 + torch.randn(200, 12, generator=generator) * torch.linspace(0.05, 3, 12)


def whitened(values_ND: Tensor) -> np.ndarray:
    """The space by the definition: all directions, scaled by one over the root of variance plus ridge."""
    x = values_ND.double().numpy()
    centred = x - x.mean(0)
    variance, directions = np.linalg.eigh(centred.T @ centred / len(x))
    moved = centred @ directions / np.sqrt(variance + 0.01 * variance.max())
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["whitened", "plain"])
def test_nearest_are_those_of_all(vectors: Tensor, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "ROWS", 7)  # many blocks, the last one short
    unit = whitened(vectors)
    if kind == "plain":
        unit = vectors.double().numpy()
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    all_scores = unit[[3, 50]] @ unit.T
    expected = np.argsort(-all_scores, axis=1)[:, :9]
    space = PLAIN if kind == "plain" else Space.of(vectors)
    for numbers, tolerance in ((torch.float32, 1e-4), (torch.float16, 2e-2)):
        scores, rows = nearest(vectors.to(numbers), vectors[[3, 50]], 9, space)
        np.testing.assert_allclose(scores, np.take_along_axis(all_scores, expected, 1), atol=tolerance)
        if numbers == torch.float32:
            np.testing.assert_array_equal(rows, expected)


def test_the_space_is_that_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "SAMPLE", 1000)
    values_ND = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 7)
    np.testing.assert_allclose(Space.of(values_ND).unit(values_ND[:50]), whitened(values_ND)[:50], atol=0.5)
    spread = np.std(Space.of(values_ND).unit(values_ND).numpy(), axis=0)
    assert spread.max() < 1.3 * spread.min(), "each direction counts equally"


def test_more_than_there_are(vectors: Tensor) -> None:
    scores, rows = nearest(vectors[:5], vectors[:1], 9, Space.of(vectors))
    assert scores.shape == (1, 5) and sorted(rows[0].tolist()) == [0, 1, 2, 3, 4]


def test_few_rows_have_no_space_of_their_own(vectors: Tensor) -> None:
    assert Space.of(vectors[:15]) is PLAIN
    assert Space.of(vectors[:16]) is not PLAIN
    constant = Space.of(torch.ones(20, 3))
    assert constant.unit(torch.ones(1, 3)).tolist() == [[0, 0, 0]], "no NaN"


def test_neighbours_leave_out_the_row_itself(vectors: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "QUERIES", 30)
    vectors[100:110] = vectors[0]  # ten copies: more than `top`
    unit = whitened(vectors)
    scores, rows = neighbours(vectors, 4, Space.of(vectors))
    assert not (rows == torch.arange(200)[:, None]).any()
    found = unit @ unit.T
    np.fill_diagonal(found, -2)
    np.testing.assert_allclose(scores, -np.sort(-found, axis=1)[:, :4], atol=1e-4)
    copies = {0, *range(100, 110)}
    assert all(set(rows[row].tolist()) <= copies for row in copies)


def test_whitened_finds_what_a_large_common_part_hides() -> None:
    """Ten classes differ in small directions; two large ones have nothing to do with them."""
    generator = torch.Generator().manual_seed(0)
    label_N = torch.arange(200) % 10
    class_ND = torch.randn(10, 16, generator=generator)[label_N]
    noise_ND = torch.randn(200, 16, generator=generator)
    loud_ND = torch.randn(200, 2, generator=generator)
    values_ND = torch.cat([class_ND + 0.2 * noise_ND, 20 * loud_ND], 1)
    right = [
        (label_N[neighbours(values_ND, 1, space).rows_QK[:, 0]] == label_N).float().mean().item()
        for space in (PLAIN, Space.of(values_ND))
    ]
    assert right[0] < 0.7 and right[1] > 0.95


@pytest.fixture
def model(tmp_path: Path, tiny_recipe: Recipe) -> str:
    return str(ajepa.pretrain(tiny_recipe, untrained=True))


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Twenty tones and noises; two files sound the same."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for number in range(20):
        tone = 0.3 * np.sin(2 * np.pi * 150 * 1.2**number * time)
        samples = tone if number % 2 else tone * np.exp(-5 * time) + 0.05 * rng.standard_normal(RATE)
        soundfile.write(folder / f"{number:02d}.wav", samples, RATE)
    shutil.copy(folder / "05.wav", folder / "copy.wav")
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


def similar(model: str, *arguments: object) -> int:
    return main(["similar", "--model", model, *map(str, arguments)])


def test_command(
    model: str,
    sounds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "similar.json"
    command = (sounds / "05.wav", "--among", sounds, "--json", out, "--top", "3")
    assert similar(model, *command) == 0
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines() if line.strip()]
    assert lines[2] == ["1", "1.000", "0.00", "1.00", str(sounds / "copy.wav")] and len(lines) == 5
    assert "broken.wav" in shown.err and "1 of 22 files could not be used" in shown.err
    answer = json.loads(out.read_text())
    assert answer["space"] == "whitened" and answer["matches"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert str(sounds / "05.wav") not in [match["path"] for match in answer["matches"]], "not the file itself"

    # From the cache; and again once a file has changed.
    cached = list((tmp_path / "cache").rglob("*.parquet"))
    assert len(cached) == 1 and similar(model, *command) == 0
    assert list((tmp_path / "cache").rglob("*.parquet")) == cached
    shutil.copy(sounds / "06.wav", sounds / "copy.wav")
    assert similar(model, *command) == 0
    assert json.loads(out.read_text())["matches"][0]["score"] < 0.999
    capsys.readouterr()

    # A query that is not in the collection, by another name of its file.
    (tmp_path / "linked.wav").symlink_to(sounds / "07.wav")
    assert similar(model, tmp_path / "linked.wav", "--among", sounds, "--json", out) == 0
    assert not any(match["path"].endswith("07.wav") for match in json.loads(out.read_text())["matches"])


def test_stored_embeddings(
    model: str, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "broken.wav").unlink()
    stored, out = tmp_path / "stored.parquet", tmp_path / "similar.json"
    assert main(["embed", str(sounds), "--model", model, "--out", str(stored), "--pooling", "mean+std"]) == 0
    assert similar(model, sounds / "05.wav", "--among", stored, "--json", out, "--plain") == 0
    answer = json.loads(out.read_text())
    encoder = ajepa.load_model(model, pooling="mean+std")
    with torch.inference_mode():
        clips = {path: encoder(ajepa.audio.load(path)[None]).clip[0] for path in sorted(sounds.glob("*.wav"))}
    query = clips.pop(sounds / "05.wav")
    scores = {str(path): torch.cosine_similarity(query, clip, dim=0).item() for path, clip in clips.items()}
    best = sorted(scores, key=lambda path: -scores[path])[:10]
    assert [match["path"] for match in answer["matches"]] == best
    for match in answer["matches"]:
        assert match["score"] == pytest.approx(scores[match["path"]], abs=1e-4)

    for arguments, problem in (
        (("--among", stored, "--window", "1"), "holds embeddings already"),
        (("--among", sounds, "--top", "0"), "--top is 0"),
        (("--among", sounds, "--seconds", "0"), "--seconds 0.0"),
        (("--among", tmp_path / "none"), "no such file"),
        (("--among", sounds, "--out", tmp_path / "x.npz"), "name a folder or a .parquet file"),
    ):
        assert similar(model, sounds / "05.wav", *arguments) == 2
        assert problem in capsys.readouterr().err
    assert main(["similar", str(sounds / "05.wav"), "--among", str(stored)]) == 2
    assert "embedded by another encoder" in capsys.readouterr().err
    frames = tmp_path / "frames.parquet"
    assert main(["embed", str(sounds), "--model", model, "--out", str(frames), "--what", "frames"]) == 0
    assert similar(model, sounds / "05.wav", "--among", frames) == 2
    assert "holds frames; search needs one vector a clip" in capsys.readouterr().err


def test_embeddings_in_bfloat16_are_searched(model: str, sounds: Path, tmp_path: Path) -> None:
    (sounds / "broken.wav").unlink()
    stored = tmp_path / "stored.parquet"
    line = ["embed", str(sounds), "--model", model, "--out", str(stored), "--precision", "bf16"]
    assert main(line) == 0
    assert similar(model, sounds / "05.wav", "--among", stored) == 0


def test_shards_of_other_audio_are_embedded_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their clips have no dates, and in every project they may be called the same."""
    keys = []
    for place, pitch in (("one", 300), ("two", 500)):
        folder = tmp_path / place
        (folder / "audio").mkdir(parents=True)
        for number in range(3):
            wave = np.sin(2 * np.pi * (pitch + number) * np.arange(16_000) / 16_000)
            soundfile.write(folder / "audio" / f"{number}.wav", 0.3 * wave, 16_000)
        monkeypatch.chdir(folder)
        assert main(["data", "shard", "audio", "shards", "--format", "wav"]) == 0
        keys.append(_digest(Inputs(["shards"]), {}))
        assert keys[-1] == _digest(Inputs(["shards"]), {})
    assert keys[0] != keys[1]


def test_windows_of_long_files(model: str, tmp_path: Path, sounds: Path) -> None:
    (sounds / "broken.wav").unlink()
    parts = [soundfile.read(sounds / f"{number:02d}.wav")[0] for number in (3, 11, 14, 5, 18, 3)]
    soundfile.write(tmp_path / "day.wav", np.concatenate(parts), RATE)
    shutil.copy(tmp_path / "day.wav", sounds / "day.wav")
    out, windows = tmp_path / "similar.json", tmp_path / "windows"
    arguments = ("--among", sounds, "--window", "1", "--out", windows, "--json", out)
    assert similar(model, sounds / "05.wav", *arguments) == 0
    best = json.loads(out.read_text())["matches"][:2]
    places = {(Path(match["path"]).name, match["start"], match["end"]) for match in best}
    assert places == {("copy.wav", 0.0, 1.0), ("day.wav", 3.0, 4.0)}

    # A part of a file: its other windows count, the part itself does not.
    query = (sounds / "day.wav", "--start", "0", "--seconds", "1", "--among", windows, "--json", out)
    assert similar(model, *query) == 0
    best = json.loads(out.read_text())["matches"][:2]
    assert {(Path(match["path"]).name, match["start"]) for match in best} == {
        ("03.wav", 0.0),
        ("day.wav", 5.0),
    }


class Page(html.parser.HTMLParser):
    """What a page has: text, and the addresses that it fetches."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.fetched, self.tags = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [(tag, value) for name, value in attributes if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained(model: str, sounds: Path, tmp_path: Path) -> None:
    (sounds / "broken.wav").unlink()
    shutil.move(sounds / "05.wav", sounds / "<b>5 & more.wav")
    out = tmp_path / "similar.html"
    query = (sounds / "copy.wav", "--among", sounds, "--out", tmp_path / "e", "--html", out, "--top", 2)
    assert similar(model, *query) == 0
    page = Page(out.read_text())
    assert "<b>5 & more.wav" in page.text and "b" not in page.tags
    assert page.tags.count("audio") == page.tags.count("img") == 3
    for tag, address in page.fetched:
        assert address.startswith("#" if tag == "a" else "data:")
    data = next(address for tag, address in page.fetched if tag == "audio")
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data.partition(",")[2])))
    assert rate == RATE and len(heard) / rate == pytest.approx(1, abs=0.1)
    spectrum = np.abs(np.fft.rfft(heard[:RATE]))
    assert spectrum.argmax() * RATE / len(heard[:RATE]) == pytest.approx(150 * 1.2**5, rel=0.02)


def test_a_page_stays_under_its_size(sounds: Path, tmp_path: Path) -> None:
    rows = [Row((), (Clip(str(sounds / f"{number:02d}.wav")),)) for number in range(20)]
    rows.append(Row((), (Clip(str(sounds / "broken.wav")), Clip(str(sounds / "00.wav")))))
    write_page(tmp_path / "all.html", "All", [], [Section("All", "", (), rows)])
    whole = (tmp_path / "all.html").read_text()
    assert whole.count("<audio") == 21 and "1 clips have no sound here: they cannot be decoded" in whole
    write_page(tmp_path / "few.html", "Few", [], [Section("Few", "", (), rows)], megabytes=0.05)
    few = (tmp_path / "few.html").read_text()
    assert 0 < few.count("<audio") < 20 and "the page was to stay under 0.05 MB" in few


def test_recipes_have_random_weights_of_one_seed(tiny_recipe: Recipe, sounds: Path, tmp_path: Path) -> None:
    """A recipe is a model too: the same weights each time, so that stored embeddings fit."""
    (tmp_path / "r.yaml").write_text(dump_recipe(tiny_recipe))
    arguments: tuple[Any, ...] = (sounds / "05.wav", "--among", sounds, "--out", tmp_path / "e")
    assert similar(str(tmp_path / "r.yaml"), *arguments) == 0
    assert similar(str(tmp_path / "r.yaml"), sounds / "05.wav", "--among", tmp_path / "e") == 0
