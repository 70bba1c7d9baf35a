"""The online probe of a run in progress."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ajepa import load_model
from ajepa.checkpoints import native as checkpoint
from ajepa.features import LogMel
from ajepa.nn.encoder import Encoder
from ajepa.pictures.curves import curve, read_metrics
from ajepa.recipes import Recipe, RecipeError
from ajepa.recipes.parts import ProbeConfig
from ajepa.training.loop import pretrain
from ajepa.training.probe import Probe, knn_accuracy
from ajepa.training.state import BestEncoder


def test_neighbours_vote() -> None:
    """Three clusters: all right when they are apart, chance when labels are shuffled."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(60) % 3
    features = torch.eye(3)[label].repeat(1, 4) + 0.1 * torch.randn(60, 12, generator=generator)
    every = torch.ones(60, dtype=torch.bool)
    assert knn_accuracy(features, label, every, alone=True) == 1.0
    shuffled = label[torch.randperm(60, generator=generator)]
    assert knn_accuracy(features, shuffled, every, alone=True) < 0.6
    train = torch.arange(60) < 40
    assert knn_accuracy(features, label, train, alone=False) == 1.0
    assert knn_accuracy(features, torch.where(train, label, (label + 1) % 3), train, alone=False) == 0.0


def test_a_clip_has_no_vote_for_itself() -> None:
    features, label = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    assert knn_accuracy(features, label, torch.ones(6, dtype=torch.bool), alone=True) == 0.0


def table(folder: Path, audio: Path, split: bool) -> Path:
    path = folder / "probe.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *(["split"] if split else [])])
        for number, clip in enumerate(sorted(audio.iterdir())):
            where = "train" if number % 3 else "test"
            writer.writerow([f"{audio.name}/{clip.name}", number % 2, *([where] if split else [])])
    return path


def split_table(path: Path, audio: Path, splits: list[str]) -> Path:
    """The first clips, of two classes by turns, with these splits."""
    clips = zip(sorted(audio.iterdir()), splits, strict=False)
    rows = [f"{audio.name}/{clip.name},{number % 2},{split}" for number, (clip, split) in enumerate(clips)]
    path.write_text("\n".join(["path,label,split", *rows]))
    return path


@pytest.mark.parametrize("split", [False, True])
def test_a_run_is_probed_and_its_best_encoder_kept(
    tiny_recipe: Recipe, audio_folder: Path, tmp_path: Path, split: bool
) -> None:
    """At the start, at the end and at its own steps, whichever of them have a line of metrics otherwise."""
    probe = ProbeConfig(
        table=str(table(tmp_path, audio_folder, split)), split="split" if split else "", every=4
    )
    run = replace(tiny_recipe.run, probe=probe, log_every=5, health_every=3)
    out = pretrain(replace(tiny_recipe, run=run)).parent
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = {record["step"]: record["probe"] for record in records if "probe" in record}
    assert list(scores) == [0, 4, 6]
    assert [record["step"] for record in records if "rankme" in record] == [3, 6]
    assert [record["step"] for record in records if "loss" in record] == [3, 4, 5, 6]
    assert all(0 <= score <= 1 for score in scores.values())
    best = checkpoint.load(out / "best.safetensors")
    assert best.info["probe"] == max(scores.values())
    assert best.step == min(step for step, score in scores.items() if score == max(scores.values()))
    assert load_model(out / "best.safetensors").source.step == best.step


def test_a_run_that_goes_on_keeps_the_score_of_its_start(
    tiny_recipe: Recipe, audio_folder: Path, tmp_path: Path
) -> None:
    """Also from the first checkpoint, and in the same numbers; its curves can be drawn."""
    probe = ProbeConfig(table=str(table(tmp_path, audio_folder, split=True)), split="split", every=2)
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, probe=probe))

    def lines(out: Path) -> list[dict[str, float]]:
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{key: record.get(key) for key in ("step", "loss", "probe", "rankme")} for record in records]

    out = pretrain(recipe).parent
    finished = out / "encoder.safetensors"
    whole = lines(out)
    assert [record["step"] for record in whole] == [0, 1, 2, 3, 4, 5, 6]
    for last in (0, 4):
        for path in (out / "checkpoints").glob("step-*"):
            if int(path.stem.removeprefix("step-")) > last:
                path.unlink()
        finished.unlink()
        pretrain(recipe)
        assert lines(out) == whole
    assert curve(read_metrics(out), "probe")[0] == [0, 2, 4, 6]
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("probe")] == [0, 2, 4, 6]


def test_a_score_of_another_probe_is_no_measure(
    tiny_recipe: Recipe, audio_folder: Path, tmp_path: Path
) -> None:
    probe = ProbeConfig(table=str(table(tmp_path, audio_folder, split=False)), every=2)
    recipe = replace(tiny_recipe, run=replace(tiny_recipe.run, probe=probe))
    out = pretrain(recipe).parent
    best = checkpoint.load(out / BestEncoder.NAME)
    later = replace(probe, every=3)
    assert BestEncoder(out, later).score == best.info["probe"], "when it looks does not matter"
    assert BestEncoder(out, replace(probe, table="another.csv")).score == -1.0


@pytest.mark.parametrize(
    ("others", "scored"), [(["valid", "test"], 1), (["validation", "test"], 1), (["test", "extra"], 2)]
)
def test_test_clips_have_no_part_where_there_are_validation_clips(
    tiny_recipe: Recipe, audio_folder: Path, tmp_path: Path, others: list[str], scored: int
) -> None:
    path = split_table(tmp_path / "splits.csv", audio_folder, ["train", "train", *others] * 3)
    recipe = replace(
        tiny_recipe, run=replace(tiny_recipe.run, probe=ProbeConfig(table=str(path), split="split"))
    )
    probe = Probe(recipe, LogMel(recipe.front_end), Encoder(recipe.encoder))
    assert int(probe.reference_B.sum()) == 6
    assert int((~probe.reference_B).sum()) == 3 * scored
    assert len(probe.waveforms) == 6 + 3 * scored
    assert 0 <= probe.score() <= 1


def test_what_is_wrong_with_a_table_is_told(tiny_recipe: Recipe, audio_folder: Path, tmp_path: Path) -> None:
    path = table(tmp_path, audio_folder, split=False)
    few = split_table(tmp_path / "few.csv", audio_folder, ["train", "valid", "test", "test"])
    unnamed = split_table(tmp_path / "unnamed.csv", audio_folder, ["train", "", "train", "test"])
    for probe, message in (
        (ProbeConfig(table=str(tmp_path / "absent.csv")), "absent.csv: no such file"),
        (ProbeConfig(table=str(path), label="class"), "no column class; its columns are path, label"),
        (ProbeConfig(table=str(path), split="label"), "0 reference clips and 12 to score"),
        (ProbeConfig(table=str(few), split="split"), "1 reference clips and 1 to score.*`train` marks"),
        (ProbeConfig(table=str(unnamed), split="split"), "row 2: .*column 'split' is empty"),
    ):
        with pytest.raises(RecipeError, match=message):
            pretrain(replace(tiny_recipe, run=replace(tiny_recipe.run, probe=probe)))
    (audio_folder / "03.wav").unlink()
    with pytest.raises(RecipeError, match=r"no such file .*03\.wav"):
        pretrain(replace(tiny_recipe, run=replace(tiny_recipe.run, probe=ProbeConfig(table=str(path)))))
