"""Events in recordings: targets, events from probabilities, scores, and the protocol."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.cli import main
from ajepa.data.tables import TaskError
from ajepa.eval.models.open import EncoderModel, Named
from ajepa.eval.probe.embeddings import EmbeddingError
from ajepa.eval.probe.event_probe import recordings_of
from ajepa.eval.probe.events import (
    Event,
    choose,
    events_above,
    f_measure,
    frame_targets,
    onset_hits,
    probabilities,
    score_events,
    smoothed,
)
from ajepa.eval.probe.frames import embed_recordings
from ajepa.eval.protocols.base import ProtocolError
from ajepa.eval.protocols.events import Events, bootstrap
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks import Clip, Task, open_task
from ajepa.model import AudioEncoder
from ajepa.recipes import Recipe
from tests.hear_tasks import write_rows

RATE = 16_000
sed_eval = pytest.importorskip("sed_eval", reason="sed_eval is not installed; the [events] extra has it")


def drawn_events(rng: np.random.Generator, count: int) -> list[Event]:
    onsets = rng.uniform(0, 20, count)
    return [Event(int(rng.integers(3)), onset, onset + rng.uniform(0.1, 2)) for onset in onsets]


def test_hits_are_those_of_sed_eval() -> None:
    rng = np.random.default_rng(0)
    for collar in (0.05, 0.2, 1.0):
        truths = [drawn_events(rng, int(rng.integers(0, 30))) for _ in range(10)]
        found = [drawn_events(rng, int(rng.integers(0, 30))) for _ in range(10)]
        scores = score_events(truths, found, "abc", collar)
        hits = [onset_hits(*pair, collar) for pair in zip(truths, found, strict=True)]
        assert scores.onset_R3[:, 0].tolist() == hits
        assert scores.onset_R3[:, 1:].tolist() == [
            [len(truth), len(events)] for truth, events in zip(truths, found, strict=True)
        ]
        assert scores.by_class_C3.sum(0).tolist() == scores.onset_R3.sum(0).tolist()
        all_at_once = sed_eval.sound_event.SegmentBasedMetrics(list("012"), time_resolution=1.0)
        for truth, events in zip(truths, found, strict=True):
            named = [
                [{"event_label": str(a), "event_onset": b, "event_offset": c} for a, b, c in some]
                for some in (truth, events)
            ]
            all_at_once.evaluate(*named)
        expected = all_at_once.results_overall_metrics()["f_measure"]["f_measure"]
        assert f_measure(*scores.segment_R3.sum(0).tolist()) == pytest.approx(expected)


def test_targets_are_shares_of_the_frames_own_time() -> None:
    events = [Event(1, 0.1, 0.5), Event(0, 0.55, 0.6), Event(1, 0.45, 0.55), Event(0, 9.0, 10.0)]
    target_LC = frame_targets(events, 4, first=0.1, step=0.2, classes=2)  # 0 to 0.2 s, 0.2 to 0.4 s, ...
    np.testing.assert_allclose(target_LC, [[0, 0.5], [0, 1], [0.25, 1], [0, 0]], atol=1e-6)


def test_events_are_stretches_above_the_threshold() -> None:
    chance_KC = np.zeros((12, 2))
    chance_KC[[0, 1, 2, 4, 10, 11], 0] = 0.8
    chance_KC[6:9, 1] = 0.6
    found = events_above(chance_KC, 0.5, 0.1)
    assert [(one.label, round(one.onset, 3), round(one.offset, 3)) for one in found] == [
        (0, 0.0, 0.15),
        (0, 0.5, 0.6),
        (1, 0.3, 0.45),
    ]
    assert len(events_above(chance_KC, 0.7, 0.0)) == 3
    smooth_KC = smoothed(chance_KC, 0.15)
    np.testing.assert_array_equal(np.flatnonzero(smooth_KC[:, 0]), [0, 1, 2, 3, 10, 11])
    assert smoothed(chance_KC, 0.0) is not None and np.array_equal(smoothed(chance_KC, 0.0), chance_KC)


def test_probabilities_between_frames() -> None:
    logits_LC = torch.tensor([[-2.0], [2.0]])
    chance_KC = probabilities(logits_LC, 0.42, first=0.1, step=0.2)
    assert len(chance_KC) == 8
    times = np.clip((0.05 * (np.arange(8) + 0.5) - 0.1) / 0.2, 0, 1)
    np.testing.assert_allclose(chance_KC[:, 0], 1 / (1 + np.exp(2 - 4 * times)), rtol=1e-5)


def test_the_grid_reaches_the_end() -> None:
    """0.35 / 0.05 is 6.999..., and is seven."""
    for seconds, times in ((0.35, 7), (1.15, 23), (4.35, 87), (0.36, 7), (0.02, 1)):
        assert len(probabilities(torch.zeros(100, 1), seconds, 0.025, 0.05)) == times


def test_what_does_best_is_chosen() -> None:
    truths = [[Event(0, 0.5, 1.0)], [Event(0, 0.2, 0.6)], []]
    chances = [np.full((40, 1), 0.1) for _ in truths]
    chances[0][10:20] = chances[1][4:12] = 0.35
    chances[2][5:6] = 0.9  # a click
    settings, best = choose(chances, truths, 0.2)
    assert best == 1.0
    assert settings == (0.3, 0.25, 0.125), "of equals the first"
    assert choose([np.zeros((9, 1))], [[]], 0.2)[1] == 1.0, "nothing to find, nothing found"


def test_recordings_are_drawn() -> None:
    counts_R3 = torch.tensor([[4.0, 4.0, 4.0], [0.0, 4.0, 4.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    clips = [Clip(Path(f"/{name}.wav"), (), "test") for name in "abc"]
    draws_S = bootstrap([(counts_R3, clips)])
    assert torch.equal(draws_S, bootstrap([(counts_R3, clips)]))
    assert set(draws_S.tolist()) > {0.0, 0.5, 1.0} and 0.4 < float(draws_S.mean()) < 0.65
    together = [clip._replace(group="site") for clip in clips]
    assert len(bootstrap([(counts_R3, together)])) == 0, "one group says nothing about another"
    folds_S = bootstrap([(counts_R3[:1], clips[:1]), (counts_R3[1:2], clips[1:2])])
    assert set(folds_S.tolist()) == {0.0, 0.5, 1.0}, "of folds of one recording the folds are drawn"


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Fifteen recordings of 4 s with tones of two pitches in noise; every fifth has none."""
    rng, rows = np.random.default_rng(0), []
    for number in range(15):
        wave = 0.01 * rng.standard_normal(4 * RATE)
        split, lines = ("train", "train", "train", "valid", "test")[number % 5], []
        for slot in range(4) if number % 7 else ():
            for label, hertz in (("low", 400), ("high", 3000)):
                if rng.random() < 0.6:
                    start = slot + rng.uniform(0, 0.4)
                    first, samples = round(start * RATE), round(rng.uniform(0.3, 0.6) * RATE)
                    wave[first : first + samples] += 0.2 * np.sin(
                        2 * np.pi * hertz * np.arange(samples) / RATE
                    )
                    end = (first + samples) / RATE
                    rows.append(f"{number}.wav,{start:.4f},{end:.4f},{label},{split},{number % 3}")
                    lines.append(f"{start:.4f}\t{end:.4f}\t{label}\n")
        if not lines:
            rows.append(f"{number}.wav,,,,{split},{number % 3}")
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE)
        (tmp_path / f"{number}.txt").write_text("".join(lines))
    return write_rows(tmp_path / "events.csv", "path,start,end,label,part,third", *rows)


def run(tmp_path: Path, *arguments: str) -> dict:
    out = tmp_path / "record.json"
    common = ["evaluate", "events", "--cache", str(tmp_path / "cache"), "--json", str(out)]
    assert main([*common, *arguments]) == 0
    read_records(out)
    found: dict = json.loads(out.read_text())
    return found


def test_the_command(field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ["--task", "table", "--data", str(field), "--split", "part"]
    record = run(tmp_path, "--model", "logmel", *table)
    assert (record["metric"], record["clips"], record["clips_by_split"]) == (
        "onset F",
        15,
        {"test": 3, "train": 9, "valid": 3},
    )
    assert record["score"] > 0.9, "tones are easy to find"
    assert record["interval"][0] <= record["score"] <= record["interval"][1]
    assert set(record["details"]["onset_f_by_label"]) == {"high", "low"}
    assert record["details"]["segment_f"] > 0.9 and record["details"]["step_seconds"] == 0.05
    (chosen,) = record["chosen"]
    assert chosen["split"] == "test" and chosen["threshold"] in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert "onset" not in capsys.readouterr().err
    again = run(tmp_path, "--model", "logmel", *table)
    assert again["details"]["embeddings_cached"] and again["score"] == record["score"]
    (kept,) = (tmp_path / "cache").glob("*-frames.safetensors")
    kept.write_bytes(kept.read_bytes()[:1000])
    repaired = run(tmp_path, "--model", "logmel", *table)
    assert not repaired["details"]["embeddings_cached"] and repaired["score"] == record["score"]


def test_folds_and_label_tracks(field: Path, tmp_path: Path) -> None:
    folded = run(tmp_path, "--model", "logmel", "--task", "table", "--data", str(field), "--fold", "third")
    assert set(folded["folds"]) == {"0", "1", "2"} and folded["score"] > 0.9
    assert [one["split"] for one in folded["chosen"]] == ["0", "1", "2"]
    tracks = run(tmp_path, "--model", "logmel", "--task", "audacity", "--data", str(field.parent))
    assert tracks["clips"] == 15 and tracks["score"] > 0.8
    assert tracks["details"]["events"] == folded["details"]["events"]


def test_frames_are_those_of_the_encoder(tiny_recipe: Recipe, field: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = AudioEncoder(tiny_recipe.front_end, tiny_recipe.encoder, 1.28).eval()
    named = Named("tiny", "", EncoderModel(encoder).eval())
    task = open_task("table", field, split="part", multilabel=True)
    recordings = recordings_of(task)
    clips = tuple(recording.clip for recording in recordings)
    found = embed_recordings(named, clips, "field", layer="1", pool="mean", cache=tmp_path / "cache")
    assert found.step_seconds == encoder.hop_seconds and found.seconds_R.tolist() == [4.0] * 15
    wave_S = soundfile.read(clips[3].path, dtype="float32")[0]
    with torch.no_grad():
        expected = encoder(torch.from_numpy(wave_S)[None], layers=True).layers[0][0].mean(1)
    own = found.values_LD.split(found.counts_R.tolist())[3]
    torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-3)
    with pytest.raises(EmbeddingError, match=r"tiny: layer is '3'; choose last, or blocks from 1 to 2"):
        embed_recordings(named, clips, "field", layer="3", pool="mean", cache=tmp_path / "cache")


def test_one_event_of_two_kinds_and_recordings_without_any(field: Path) -> None:
    task = open_task("table", field, split="part", multilabel=True)
    recordings = recordings_of(task)
    assert len(recordings) == 15
    assert [recording.clip.path.stem for recording in recordings if not recording.events] == ["0", "7", "14"]
    times = (0.5, 0.25)
    clips = [Clip(Path("/a.wav"), ("x", "y"), split, "", *times) for split in ("train",)]
    clips += [Clip(Path(f"/{split}.wav"), ("x",), split, "", *times) for split in ("valid", "test")]
    (first, *_) = recordings_of(Task("two", tuple(clips), False, multilabel=True))
    assert first.events == (Event(0, 0.5, 0.75), Event(1, 0.5, 0.75))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("6.wav,3", "6.wav,9", r"6\.wav: ends at 4\.00 s, but an event of it begins at 9"),
        ("start,end", "from,to", "no columns start and end"),
    ],
)
def test_labels_that_cannot_be_right(
    old: str, new: str, message: str, field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = field.read_text()
    lines = [line.replace(old, new, 1) for line in text.splitlines()]
    if new == "6.wav,9":
        lines = [line.replace(line.split(",")[2], "9.9", 1) if "6.wav,9" in line else line for line in lines]
    field.write_text("\n".join(lines) + "\n")
    arguments = ["--task", "table", "--data", str(field), "--split", "part", "--cache", str(tmp_path / "c")]
    assert main(["evaluate", "events", "--model", "logmel", *arguments]) != 0
    assert re.search(message, capsys.readouterr().err)


def test_what_has_no_events_or_frames(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tuple(
        Clip(Path(f"/{n}.wav"), ("ab"[n % 2],), ("train", "valid", "test")[n % 3]) for n in range(6)
    )
    with pytest.raises(TaskError, match="its clips are whole files, not events"):
        recordings_of(Task("t", clips, False))
    split = [Clip(Path("/a.wav"), ("x",), one, "", start, 1.0) for start, one in ((0, "train"), (1, "test"))]
    split += [Clip(Path("/b.wav"), ("y",), "valid", "", 0, 1.0)]
    with pytest.raises(TaskError, match=r"events of /a\.wav are in train and in test"):
        recordings_of(Task("t", tuple(split), False))
    arguments = ["--task", "table", "--data", str(field), "--split", "part", "--cache", str(tmp_path / "c")]
    assert main(["evaluate", "events", "--model", "hear-naive", *arguments]) != 0
    assert "the protocol events cannot score hear-naive" in capsys.readouterr().err
    for wrong, message in (({"layer": "each"}, "layer is 'each'"), ({"collar": 0}, "collar is 0.0")):
        with pytest.raises(ProtocolError, match=message):
            Events(**wrong)
