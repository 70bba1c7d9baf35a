"""`ajepa audit`: what was put into a folder is found, and nothing else."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
import torch

import ajepa
from ajepa.audit import copies
from ajepa.audit.clips import KINDS, AuditClip, Finding
from ajepa.audit.copies import copy_finding, correlation, same_samples
from ajepa.audit.labels import groups_of, suspects
from ajepa.audit.output import COLUMNS
from ajepa.audit.run import audit
from ajepa.audit.signal import measure, signal_findings
from ajepa.cli import main
from ajepa.recipes import Recipe

RATE = 16_000


def sound(seed: int, seconds: float = 1.5) -> np.ndarray:
    """Syllables: bursts of noise and gliding tones at random times, each seed another sequence."""
    rng = np.random.default_rng(seed)
    samples = 1e-4 * rng.standard_normal(int(seconds * RATE))
    for _ in range(int(6 * seconds)):
        length = int(rng.uniform(0.05, 0.25) * RATE)
        begin = int(rng.uniform(0, len(samples) - length))
        time = np.arange(length) / RATE
        pitch = rng.uniform(120, 3000) * 2 ** (rng.uniform(-3, 3) * time)
        burst = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.3 * rng.standard_normal(length)
        samples[begin : begin + length] += rng.uniform(0.05, 0.2) * burst * np.hanning(length)
    return samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty sounds with nothing wrong."""
    made = tmp_path / "sounds"
    made.mkdir()
    for number in range(20):
        soundfile.write(made / f"{number:02d}.wav", sound(number), RATE)
    return made


@pytest.fixture
def model(tmp_path: Path, tiny_recipe: Recipe) -> str:
    return str(ajepa.pretrain(tiny_recipe, untrained=True))


def found(path: Path) -> dict[str, list[dict[str, str]]]:
    """The findings of a CSV by their kind."""
    by_kind = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            by_kind[row["kind"]].append(row)
    return by_kind


def names(rows: list[dict[str, str]], column: str = "path") -> list[str]:
    return sorted(Path(row[column]).name for row in rows)


def test_a_folder_without_faults(
    folder: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit.csv"
    assert main(["audit", str(folder), "--model", model, "--strict", "--out", str(out)]) == 0
    assert "20 clips, 0.01 h: nothing found" in capsys.readouterr().out
    assert out.read_text().strip().split(",") == [*COLUMNS]
    twice = [str(min(folder.glob("*.wav"))), str(folder)]
    assert main(["audit", *twice, "--model", model, "--strict", "--out", str(out)]) == 0
    assert "20 clips, 0.01 h: nothing found" in capsys.readouterr().out, "a clip is no copy of itself"


def test_faults_of_single_clips(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = sound(100)
    loud, other = (4 * one / np.abs(one).max() for one in (clean, sound(106)))
    middle = int(np.abs(clean).argmax())
    faulty = {
        "zeros.wav": np.zeros(RATE),
        "faint.wav": 5e-4 * clean / np.abs(clean).max(),
        "padded.wav": np.concatenate([sound(101), np.zeros(2 * RATE)]),
        "short.wav": clean[middle - 600 : middle + 600],
        "cut.wav": loud.clip(-1, 1),
        "cut_low.wav": 0.4 * other.clip(-1, 1),
        "offset.wav": sound(103) + 0.1,
    }
    for name, samples in faulty.items():
        soundfile.write(folder / name, samples, RATE)
    soundfile.write(folder / "over.wav", sound(104) * 20, RATE, subtype="FLOAT")
    soundfile.write(folder / "whole.wav", sound(105), RATE)
    (folder / "half.wav").write_bytes((folder / "whole.wav").read_bytes()[:20_000])
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").touch()
    out = tmp_path / "audit.csv"
    command = ["audit", str(folder), "--model", "none", "--out", str(out)]
    assert main(command) == 0
    rows = found(out)
    assert {kind: names(ours) for kind, ours in rows.items()} == {
        "unreadable": ["empty.wav", "text.wav"],
        "truncated": ["half.wav"],
        "silent": ["faint.wav", "zeros.wav"],
        "mostly silent": ["padded.wav"],
        "short": ["short.wav"],
        "clipped": ["cut.wav", "cut_low.wav", "over.wav"],
        "dc offset": ["offset.wav"],
    }
    notes = {Path(row["path"]).name: row["note"] for ours in rows.values() for row in ours}
    assert notes["zeros.wav"] == "digital silence" and notes["faint.wav"] == "peak -66 dB"
    assert notes["offset.wav"] == "mean +0.100 of full scale" and notes["short.wav"] == "0.075 s"
    assert notes["padded.wav"].endswith("% digital silence") and "cut off at 0.400" in notes["cut_low.wav"]
    assert notes["empty.wav"] == "0 bytes" and notes["half.wav"].startswith("truncated: its header")
    assert not any("remove it" in note for note in notes.values())
    shown = capsys.readouterr().out
    assert "Clipped" in shown and "32 clips" in shown
    assert main([*command, "--strict"]) == 1


def test_tones_are_not_clipped(tmp_path: Path) -> None:
    """A low tone has many samples near its peak; it is no wave that was cut off."""
    for hertz in (50, 440):
        path = tmp_path / f"{hertz}.wav"
        soundfile.write(path, np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE), RATE)
        assert not list(signal_findings(0, measure(AuditClip(str(path), str(path)))))


def test_parts_of_files_are_measured_alone(tmp_path: Path) -> None:
    path = tmp_path / "day.wav"
    soundfile.write(path, np.concatenate([sound(0), np.zeros(RATE), sound(1)]), RATE)
    parts = [
        AuditClip("day", str(path), start, seconds) for start, seconds in ((0, 1.5), (1.5, 1), (2.5, None))
    ]
    measured = [measure(part) for part in parts]
    assert [round(one.seconds, 4) for one in measured] == [1.5, 1.0, 1.5]
    assert [one.peak > 0 for one in measured] == [True, False, True]
    whole = measure(AuditClip("", str(path)))
    assert whole.level**2 * 4 == pytest.approx(sum(one.level**2 * one.seconds for one in measured))


def test_a_label_may_end_beyond_its_file_by_rounding(tmp_path: Path) -> None:
    path = tmp_path / "day.wav"
    soundfile.write(path, sound(0, 3.0), RATE)
    rounded, beyond = (measure(AuditClip("day", str(path), 1.0, seconds)) for seconds in (2.03, 2.5))
    assert rounded.failure == "" and rounded.seconds == 2.0
    assert beyond.failure == "ends at 3.00 s, its label at 3.50 s; correct the label"
    (finding,) = signal_findings(0, beyond)
    assert finding.kind == "truncated"


def changed(folder: Path, name: str, samples: np.ndarray, **how: str) -> None:
    soundfile.write(folder / name, samples, RATE, **how)


def test_copies(folder: Path, model: str, tmp_path: Path) -> None:
    originals = {number: soundfile.read(folder / f"{number:02d}.wav")[0] for number in range(20)}
    changed(folder, "same.flac", originals[0])
    changed(folder, "same_again.wav", originals[0])
    changed(folder, "quieter.wav", 0.25 * originals[1])
    changed(folder, "coded.ogg", originals[2])
    changed(folder, "later.wav", np.concatenate([np.zeros(1235), originals[3]]))
    changed(folder, "half.wav", originals[4][: len(originals[4]) * 6 // 10])
    noise = np.random.default_rng(9).standard_normal(len(originals[5]))
    changed(folder, "noisy.wav", originals[5] + noise * originals[5].std() * 10**-1.5)
    changed(folder, "upside_down.wav", -originals[6])
    soundfile.write(folder / "slower.wav", originals[7], RATE * 9 // 10)  # another speed is another sound
    out = tmp_path / "audit.csv"
    assert main(["audit", str(folder), "--model", model, "--out", str(out)]) == 0
    rows = found(out)
    assert set(rows) == {"copy", "near copy"}
    assert {(Path(row["path"]).name, Path(row["copy_of"]).name) for row in rows["copy"]} == {
        ("same.flac", "00.wav"),
        ("same_again.wav", "00.wav"),
    }
    pairs = {(Path(row["path"]).name, Path(row["copy_of"]).name) for row in rows["near copy"]}
    assert pairs == {
        ("quieter.wav", "01.wav"),
        ("coded.ogg", "02.wav"),
        ("later.wav", "03.wav"),
        ("half.wav", "04.wav"),
        ("noisy.wav", "05.wav"),
        ("upside_down.wav", "06.wav"),
    }


def test_each_of_many_copies_is_reported_once(folder: Path) -> None:
    samples = soundfile.read(folder / "00.wav")[0]
    for number in range(7):
        changed(folder, f"copy{number}.wav", samples * 0.9 ** (number + 1))
    clips = [AuditClip(str(path), str(path)) for path in sorted(folder.iterdir())]
    findings = audit(clips, None).findings
    assert sorted(one.clip for one in findings) == [*range(20, 27)]
    assert all(one.kind == "near copy" for one in findings)


def direct(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Correlations by their definition, for each shift that counts."""
    total = min(((one - one.mean(0)) ** 2).sum(), ((other - other.mean(0)) ** 2).sum())
    values = []
    for shift in range(-len(one) + 1, len(other)):
        a = one[max(0, -shift) : len(other) - shift]
        b = other[max(0, shift) : len(one) + shift]
        a, b = a - a.mean(0), b - b.mean(0)
        if len(a) >= min(len(one), len(other)) / 2 and min((a**2).sum(), (b**2).sum()) >= total / 2:
            values.append(float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())))
    return values


@pytest.mark.parametrize(("first", "second", "channels"), [(20, 20, 1), (11, 30, 3), (25, 8, 2)])
def test_correlation_is_that_of_the_definition(first: int, second: int, channels: int) -> None:
    rng = np.random.default_rng(first)
    one, other = 5 + rng.standard_normal((first, channels)), rng.standard_normal((second, channels)) - 3
    values = direct(one, other)
    assert correlation(one, other) == pytest.approx(max(values))
    assert correlation(one, other, inverted=True) == pytest.approx(max(map(abs, values)))


def test_a_copy_may_be_shifted_by_part_of_a_sample() -> None:
    """White noise, the hardest case: samples half a step apart have a correlation of 2/pi."""
    rng = np.random.default_rng(0)
    fine = soxr.resample(rng.standard_normal(8000), 1, 2, quality="VHQ")[:, None]
    one, other = fine[::2], fine[1::2]
    assert correlation(one, other) < 0.7
    assert correlation(one, other, fractions=2) > 0.98
    assert correlation(one, other, fractions=4) == pytest.approx(
        correlation(other, one, fractions=4), abs=1e-3
    )


def test_correlation_of_nothing() -> None:
    assert correlation(np.ones((5, 2)), np.ones((9, 2))) == -1.0
    assert correlation(np.zeros((1, 1)), np.ones((9, 1))) == -1.0


def test_same_samples_are_listed_by_the_first() -> None:
    assert same_samples([b"a", b"b", b"a", b"", b"", b"b", b"a"]) == {0: [2, 6], 1: [5]}


def test_copies_across_splits_are_leaks(folder: Path, tmp_path: Path, model: str) -> None:
    samples = [soundfile.read(folder / f"{number:02d}.wav")[0] for number in range(3)]
    changed(folder, "a.flac", samples[0])
    changed(folder, "b.wav", 0.5 * samples[1])
    changed(folder, "c.wav", 0.5 * samples[2])
    lines = ["path,label,split"]
    for number in range(20):
        split = "train" if number < 14 else "valid" if number < 17 else "test"
        lines.append(f"sounds/{number:02d}.wav,{'ab'[number % 2]},{split}")
    lines += ["sounds/a.flac,a,test", "sounds/b.wav,a,test", "sounds/c.wav,a,train"]
    table, out, page = tmp_path / "labels.csv", tmp_path / "audit.json", tmp_path / "audit.html"
    table.write_text("\n".join(lines) + "\n")
    command = ["audit", "--task", "table", "--data", str(table), "--model", model]
    assert main([*command, "--out", str(out), "--html", str(page)]) == 0
    rows = {Path(row["path"]).name: row for row in json.loads(out.read_text())["findings"]}
    assert {name: row["leak"] for name, row in rows.items()} == {
        "a.flac": True,
        "b.wav": True,
        "c.wav": False,
    }
    assert rows["a.flac"]["note"] == "the same samples; in test and train"
    assert rows["b.wav"]["note"].endswith("; in test and train; labels a and b")
    assert (rows["b.wav"]["split"], rows["b.wav"]["copy_of_split"]) == ("test", "train")
    text = page.read_text()
    assert text.count("<audio") == 6 and "Copies across splits" in text and "Near copies" in text

    parquet = tmp_path / "audit.parquet"
    assert main([*command, "--out", str(parquet)]) == 0
    assert pq.read_table(parquet).to_pylist() == list(json.loads(out.read_text())["findings"])


def test_the_worst_comes_first() -> None:
    """A leak before a copy in the same split, another label before the same one."""
    clips = [
        AuditClip("0", "0", label="a", split="train"),
        AuditClip("1", "1", label="a", split="train"),
        AuditClip("2", "2", label="a", split="test"),
        AuditClip("3", "3", label="b", split="test"),
    ]
    values = [copy_finding(clips, 0, other, 0.95).value for other in (1, 2, 3)]
    assert values == sorted(values) and len(set(values)) == 3


def clusters(count: int, wrong: dict[int, str]) -> tuple[list[AuditClip], torch.Tensor]:
    """Clips of four classes, whose embeddings are in four clusters, some with another label."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=generator)
    values_ND = centres[torch.arange(count) % 4] + 0.2 * torch.randn(count, 16, generator=generator)
    clips = [AuditClip(str(n), "", label=wrong.get(n, "abcd"[n % 4])) for n in range(count)]
    return clips, values_ND


def test_labels_that_look_wrong() -> None:
    wrong = {3: "a", 50: "b", 51: "a", 120: "d"}
    clips, values_ND = clusters(200, wrong)
    findings = list(suspects(clips, range(200), values_ND, range(200)))
    assert {one.clip: one.suggestion for one in findings} == {n: "abcd"[n % 4] for n in wrong}
    assert all(one.value > 0.5 and one.note.startswith(wrong[one.clip]) for one in findings)


def test_a_group_does_not_vouch_for_its_own_label() -> None:
    """Ten clips of one recording have a wrong label: the other recordings tell."""
    wrong = dict.fromkeys(range(0, 40, 4), "b")
    clips, values_ND = clusters(200, wrong)
    alone = list(suspects(clips, range(200), values_ND, range(200)))
    assert not {one.clip for one in alone} >= wrong.keys()
    groups = [0 if n in wrong else 1 + n for n in range(200)]
    together = list(suspects(clips, range(200), values_ND, groups))
    assert {one.clip for one in together} >= wrong.keys()


def test_few_labels_say_nothing() -> None:
    clips, values_ND = clusters(40, {3: "a"})
    assert not list(suspects(clips, range(40), values_ND, range(40)))
    clips, values_ND = clusters(200, {3: "a"})
    assert not list(suspects(clips, range(200), values_ND, [n % 2 for n in range(200)]))


def test_groups_join_copies_and_recordings() -> None:
    clips = [AuditClip(str(n), "", group=group) for n, group in enumerate(["x", "", "x", "", "y", ""])]
    groups = groups_of(clips, [(2, 3), (5, 4)])
    assert groups[0] == groups[2] == groups[3] and groups[4] == groups[5]
    assert len({groups[0], groups[1], groups[4]}) == 3


def test_kinds_have_explanations() -> None:
    findings = {Finding(kind, 0, 1.0, "") for kind in KINDS}
    assert len(findings) == 10 and all(explanation.endswith(".") for _, explanation in KINDS.values())


def test_a_file_that_goes_away_is_like_nothing(tmp_path: Path) -> None:
    waves = copies.Waves([AuditClip("gone", str(tmp_path / "gone.wav"))])
    assert correlation(waves.of(0), np.ones((100, 1))) == -1.0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name audio, or a task"),
        (["{folder}", "--task", "table"], "name audio, or a task"),
        (["{folder}", "--label", "x"], "--label belongs to a task: add --task"),
        (["{folder}", "--data", "x"], "--data belongs to a task: add --task"),
        (["--task", "table"], "--task table: add --data"),
        (["{folder}", "--out", "x.txt"], "ends in .csv, .json or .parquet"),
        (["{folder}", "--workers", "0"], "--workers is 0"),
        (["{folder}/none"], "no such file"),
    ],
)
def test_wrong_use(
    folder: Path, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *(text.replace("{folder}", str(folder)) for text in arguments)]) == 2
    assert problem in capsys.readouterr().err
