"""Speaker verification: trials, the equal error rate and its interval, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import roc_curve

from ajepa.cli import main
from ajepa.data.tables import TaskError
from ajepa.eval.compare.run import Comparison, compare
from ajepa.eval.protocols.verify import Verify, bootstrap, detection_cost, equal_error_rate, read_trials


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """Four speakers with their own pitch, three utterances each, and all pairs of utterances."""
    rng, names = np.random.default_rng(0), []
    for speaker in range(4):
        for take in range(3):
            name = f"id{speaker}/a/{take}.wav"
            (tmp_path / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
            phase = 2 * np.pi * (200 + 250 * speaker) * np.arange(8000) / 16_000
            tone = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 6))
            noise = 0.02 * rng.standard_normal(8000)
            soundfile.write(tmp_path / "wav" / name, 0.1 * tone + noise, 16_000)
            names.append(name)
    lines = [f"{int(a[:3] == b[:3])} {a} {b}" for n, a in enumerate(names) for b in names[n + 1 :]]
    path = tmp_path / "veri_test.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_error_rate_is_that_of_scikit_learns_curve(generator: torch.Generator) -> None:
    same_N = torch.rand(2000, generator=generator) < 0.3
    cosine_N = torch.randn(2000, generator=generator) + 1.5 * same_N
    rate = float(equal_error_rate(cosine_N, same_N))
    accepted, found, _ = roc_curve(same_N, cosine_N, drop_intermediate=False)
    nearest = np.argmin(np.abs(accepted - (1 - found)))
    assert rate == pytest.approx((accepted[nearest] + 1 - found[nearest]) / 2, abs=2e-3)
    expected = np.min(0.05 * (1 - found) + 0.95 * accepted) / 0.05
    assert float(detection_cost(cosine_N, same_N)) == pytest.approx(expected)


def test_error_rates_by_hand() -> None:
    same_N = torch.tensor([True, True, False, False])
    assert float(equal_error_rate(torch.tensor([0.9, 0.8, 0.2, 0.1]), same_N)) == 0.0
    assert float(equal_error_rate(torch.tensor([0.1, 0.2, 0.8, 0.9]), same_N)) == 1.0
    assert float(equal_error_rate(torch.tensor([0.9, 0.2, 0.8, 0.1]), same_N)) == 0.5
    assert float(equal_error_rate(torch.zeros(4), same_N)) == 0.5, "equal cosines tell nothing"


def test_resampled_speakers_count_as_often_as_they_are_drawn(generator: torch.Generator) -> None:
    same_N = torch.arange(40) % 2 == 0
    cosine_N, speaker_N = torch.randn(40, generator=generator), torch.arange(40) // 10
    twice_SN = torch.where(speaker_N == 1, 2.0, torch.where(speaker_N == 2, 0.0, 1.0))[None]
    rows = torch.cat([torch.where(speaker_N != 2)[0], torch.where(speaker_N == 1)[0]])
    weighted = equal_error_rate(cosine_N, same_N, twice_SN)
    assert float(weighted[0]) == pytest.approx(float(equal_error_rate(cosine_N[rows], same_N[rows])))
    draws_S = bootstrap(cosine_N, same_N, speaker_N)
    assert torch.equal(draws_S, bootstrap(cosine_N, same_N, speaker_N))
    assert draws_S.min() < float(equal_error_rate(cosine_N, same_N)) < draws_S.max()


def test_too_few_speakers_have_no_interval(generator: torch.Generator) -> None:
    """A third of the resamples lack the only speaker with trials of one voice: they have no rate."""
    speaker_N = torch.arange(40) // 10
    same_N = (speaker_N == 0) & (torch.arange(40) % 2 == 0)
    assert len(bootstrap(torch.randn(40, generator=generator), same_N, speaker_N)) == 0
    rare_N = (torch.arange(200) // 10 < 4) & (torch.arange(200) % 2 == 0)  # 4 of 20 speakers: 1 % lack them
    draws_S = bootstrap(torch.randn(200, generator=generator), rare_N, torch.arange(200) // 10)
    assert 950 <= len(draws_S) < 1_000 and draws_S.max() < 1


def test_yaml_says_yes_as_a_truth_value() -> None:
    assert Verify(center=True).center == Verify(center="yes").center == "yes"
    assert Verify(center=False).center == "no"


def test_the_command(trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.json"
    command = ["evaluate", "verify", "--trials", str(trials), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--model", "logmel", "--center", "yes", "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert (record["task"], record["metric"], record["details"]["trials"]) == ("veri_test", "EER", 66)
    assert record["details"]["same"] == 12 and record["clips"] == 12
    assert record["score"] < 0.1, "pitches are easy to tell apart"
    assert record["interval"][0] <= record["score"] <= record["interval"][1]
    said = capsys.readouterr()
    assert "veri_test" in said.out and "equal error rate: lower is better" in said.err


def test_models_are_compared(trials: Path, tmp_path: Path) -> None:
    content = {
        "models": {"log-mel": "logmel", "naive": "hear-naive"},
        "tasks": {"pitches": {"verify": str(trials)}},
        "protocols": {"verify": {}, "centred": {"protocol": "verify", "center": "yes"}},
        "baseline": "log-mel",
    }
    records, failures = compare(Comparison(**content), tmp_path / "out", tmp_path / "cache")  # type: ignore[arg-type]
    assert not failures and len(records) == 4
    assert records[1].baseline is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 a.wav\n", "line 1: '1 a.wav'; expected"),
        ("2 id0/a/0.wav id0/a/1.wav\n", "line 1"),
        ("1 id0/a/0.wav id0/a/1.wav\n", "at least one of each"),
        ("", "at least one of each"),
        ("1 id0/a/0.wav id0/a/1.wav\n0 id0/a/0.wav id9/a/0.wav\n", "1 of 3 files are missing"),
    ],
)
def test_wrong_lists_are_named(trials: Path, text: str, words: str) -> None:
    trials.write_text(text)
    with pytest.raises(TaskError, match=words):
        read_trials(trials)
    with pytest.raises(TaskError, match="no such list"):
        read_trials(trials.parent / "absent.txt")
