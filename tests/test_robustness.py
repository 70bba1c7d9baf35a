"""The robustness protocol: clean-trained probes on corrupted test clips, in evaluate, records and tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.cli import main
from ajepa.eval.results.record import read_records
from ajepa.eval.results.scores import Scored, bootstrap
from ajepa.eval.robustness.curve import robustness

RATE = 16_000


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """A table of 48 half-second clips: four pitches, soft beside the noise that is added."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    time = np.arange(RATE // 2) / RATE
    for number in range(48):
        label, split = number % 4, ("train", "valid", "test", "test")[number // 12]
        pitch = 400 * 1.5**label * rng.uniform(0.97, 1.03)
        noise = 0.02 * rng.standard_normal(len(time))
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * np.sin(2 * np.pi * pitch * time) + noise, RATE)
        rows.append(f"{number}.wav,pitch {label},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "labels.csv"


def evaluate(table: Path, out: Path, *options: str) -> dict:
    command = ["evaluate", "linear", "--task", "table", "--data", str(table), "--label", "label"]
    command += ["--split", "split", "--model", "logmel", "--cache", str(table.parent / "cache")]
    assert main([*command, "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


def test_scores_fall_with_noise(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt = ["--corrupt", "noise:30dB", "--corrupt", "noise:-30dB", "--corrupt", "level:+0dB"]
    content = evaluate(tones, tmp_path / "corrupted.json", *corrupt)
    clean = evaluate(tones, tmp_path / "clean.json")
    assert content["score"] == clean["score"] > 0.9, "the probe is that of clean clips"
    assert clean["corrupted"] == [] and clean["noise_area"] is None
    (record,) = read_records(tmp_path / "corrupted.json")
    soft, loud, level = record.corrupted
    assert [one.corruption for one in record.corrupted] == ["noise:30dB", "noise:-30dB", "level:+0dB"]
    assert soft.score > loud.score + 0.2 and loud.score < 0.7
    assert level.score == record.score and level.loss == 0 and level.loss_interval == (0, 0)
    assert loud.loss == pytest.approx(record.score - loud.score)
    assert loud.loss_interval is not None and loud.loss_interval[0] > 0
    assert record.noise_area is not None
    assert record.noise_area.score == pytest.approx((soft.score + loud.score) / 2)
    printed = capsys.readouterr().out
    assert "noise:-30dB" in printed and "noise area" in printed and f"{loud.score:.3f}" in printed


def test_noise_from_a_folder_is_part_of_the_result(tones: Path, tmp_path: Path) -> None:
    folder = tmp_path / "noises"
    folder.mkdir()
    hum = 0.1 * np.sin(2 * np.pi * 600 * np.arange(RATE) / RATE)  # the second pitch
    soundfile.write(folder / "hum.wav", hum, RATE)
    command = ["--corrupt", "noise:0dB"]
    made = evaluate(tones, tmp_path / "made.json", *command)
    recorded = evaluate(tones, tmp_path / "recorded.json", *command, "--noise", str(folder))
    assert made["details"]["noise"] == "synthetic" and recorded["details"]["noise"] == str(folder)
    assert made["corrupted"][0]["score"] != recorded["corrupted"][0]["score"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corrupt", "loud"], "no corruption is called 'loud'"),
        (["--noise", "noises"], "asks for none"),
        (["--corrupt", "noise:0dB", "--noise", "missing"], "missing"),
    ],
)
def test_what_cannot_be_asked_for(
    options: list[str], message: str, tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "linear", "--task", "table", "--data", str(tones), "--label", "label"]
    assert main([*command, "--split", "split", "--model", "logmel", *options]) != 0
    printed = capsys.readouterr()
    assert message in printed.err + printed.out


def answers(right: int, clips: int = 40) -> list[Scored]:
    """A test split of which the first `right` clips are answered rightly."""
    target = torch.zeros(clips, dtype=torch.long)
    scores_MC = torch.zeros(clips, 2)
    scores_MC[:right, 0] = 1.0
    scores_MC[right:, 1] = 1.0
    return [Scored("test", scores_MC, target, ("",) * clips)]


def test_area_is_the_mean_height_of_the_curve() -> None:
    scores, draws = {}, {}
    for noise, right in (("noise:0dB", 10), ("noise:10dB", 20), ("noise:20dB", 36)):
        scores[noise], draws[noise] = right / 40, bootstrap(answers(right))
    drawn_XS, clean_S = torch.stack(list(draws.values())), bootstrap(answers(40))
    curve, area = robustness(list(scores), list(scores.values()), drawn_XS, 1.0, clean_S)
    assert [one.score for one in curve] == [0.25, 0.5, 0.9]
    assert [one.loss for one in curve] == pytest.approx([0.75, 0.5, 0.1])
    assert area is not None and area.low_db == 0 and area.high_db == 20
    assert area.score == pytest.approx((0.25 / 2 + 0.5 + 0.9 / 2) / 2)
    assert area.interval is not None and area.interval[0] < area.score < area.interval[1]
    _, none = robustness(["noise:0dB"], [0.25], drawn_XS[:1], 1.0, clean_S)
    assert none is None
