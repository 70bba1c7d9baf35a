"""An epoch hears hours, not files: draws in proportion to length, and runs from before that rule."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.data import open_clips
from ajepa.data.lengths import clip_seconds, draws_of
from ajepa.data.order import StepSampler
from ajepa.eval.compare.pretraining import Pretraining
from ajepa.eval.digest import digest
from ajepa.recipes import Recipe, RecipeError, dump_recipe, load_recipe, recipe_from_dict
from ajepa.training.loop import pretrain
from ajepa.training.prepare import LENGTHS, prepare


@pytest.fixture
def recordings(tiny_recipe: Recipe, tmp_path: Path) -> Recipe:
    """A run on three clips of a second and a recording of 12.9 s, with crops of 1.28 s."""
    folder, rng = tmp_path / "recordings", np.random.default_rng(0)
    folder.mkdir()
    for name, seconds in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("long", 12.9)):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(int(16_000 * seconds)), 16_000)
    return replace(tiny_recipe, data=replace(tiny_recipe.data, source=str(folder)))


def with_data(recipe: Recipe, **values: Any) -> Recipe:
    return replace(recipe, data=replace(recipe.data, **values))


def test_draws_are_rounded_to_the_nearest_and_at_least_one() -> None:
    seconds = np.array([0.1, 4.9, 5.0, 14.9, 15.0, 300.0, np.nan, 1e12])
    assert draws_of(seconds, 10.0).tolist() == [1, 1, 1, 1, 2, 30, 1, 48 * 360]


@settings(max_examples=60, deadline=None)
@given(
    repeats=st.lists(st.integers(1, 5), min_size=1, max_size=9),
    batch=st.integers(1, 4),
    window=st.integers(1, 3),
    shards=st.booleans(),
)
def test_an_epoch_has_each_clip_as_often_as_its_length_says(
    repeats: list[int], batch: int, window: int, shards: bool
) -> None:
    clips, draws = len(repeats), sum(repeats)
    sizes = [clips // 2, clips - clips // 2] if shards and clips > 1 else []

    def sampler(first: int, last: int, rank: int = 0, ranks: int = 1) -> list[Any]:
        made = StepSampler(
            clips,
            2 * batch,
            first,
            last,
            3,
            rank,
            ranks,
            repeats=np.array(repeats),
            shard_sizes=sizes,
            window=window,
        )
        return [draw for some in made for draw in some]

    steps = -(-2 * draws // (2 * batch))
    whole = sampler(0, steps)
    for epoch in (whole[:draws], whole[draws : 2 * draws]):
        assert Counter(draw.clip for draw in epoch) == dict(enumerate(repeats))
    assert len({draw.seed for draw in whole}) == len(whole), "each draw is another crop"
    assert whole == sampler(0, steps // 2) + sampler(steps // 2, steps)
    halves = [sampler(0, steps, rank, 2) for rank in (0, 1)]
    assert sorted(draw.seed for half in halves for draw in half) == sorted(draw.seed for draw in whole)


def test_shards_keep_their_order_in_windows() -> None:
    """Of three shards two are open at a time, however long their clips are."""
    repeats = np.array([1, 7, 2, 2, 1, 1, 9, 1, 1])
    sampler = StepSampler(9, 1, 0, int(repeats.sum()), 0, repeats=repeats, shard_sizes=(3, 3, 3), window=2)
    shards = [draw.clip // 3 for (draw,) in sampler]
    last = shards[-1]
    assert last not in shards[: shards.index(last)] and set(shards[shards.index(last) :]) == {last}


def test_clips_of_one_length_keep_their_order() -> None:
    plain, repeated = (
        list(StepSampler(7, 3, 0, 9, 5, repeats=repeats, shard_sizes=(4, 3), window=1))
        for repeats in (None, np.ones(7, np.int64))
    )
    assert plain == repeated


def test_a_long_recording_is_heard_in_proportion(
    recordings: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    training_set, recipe, info = prepare(with_data(recordings, segment_seconds=2.0))
    assert training_set.repeats is not None and training_set.repeats.tolist() == [1, 1, 1, 6]
    assert info["data"]["draws"] == training_set.draws == 9 and info["data"]["files"] == 4
    training_set, recipe, info = prepare(recordings)
    assert recipe.data.segment_seconds == 1.28, "the crop's length"
    assert info["data"]["draws"] == 3 + 10
    _, recipe, _ = prepare(with_data(recordings, segment_seconds=None, crop_seconds=0.05))
    assert recipe.data.segment_seconds == 0.1, "of a shorter crop, as far as an epoch may be divided"
    in_epochs = replace(recordings, optim=replace(recordings.optim, epochs=2.0, warmup_epochs=1.0))
    _, recipe, _ = prepare(in_epochs)
    assert (recipe.optim.steps, recipe.optim.warmup_steps) == (7, 4), "of 26 and 13 crops in batches of 4"
    out = pretrain(recordings).parent
    assert "4 clips, 13 crops an epoch, steps 0 to 6 of 4" in capsys.readouterr().err
    saved = checkpoint.load(out / "encoder.safetensors", ()).recipe
    assert (
        saved["data"]["segment_seconds"] == 1.28 == load_recipe(str(out / "recipe.yaml")).data.segment_seconds
    )


def test_files_that_cannot_be_read_count_once(recordings: Recipe) -> None:
    (Path(recordings.data.source) / "broken.wav").write_bytes(b"RIFF")
    training_set, _, _ = prepare(recordings)
    assert training_set.repeats is not None and training_set.repeats.tolist() == [1, 1, 1, 1, 10]


def test_headers_are_read_once(recordings: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = prepare(recordings)
    monkeypatch.setattr("ajepa.data.lengths.seconds_of", lambda audio: pytest.fail("a header is read"))
    again, _, _ = prepare(recordings)
    assert first.repeats is not None and np.array_equal(again.repeats, first.repeats)
    kept = Path(recordings.run.out) / LENGTHS
    kept.write_bytes(kept.read_bytes()[:40])
    monkeypatch.undo()
    assert prepare(recordings)[0].draws == first.draws, "a damaged file is made again"
    soundfile.write(Path(recordings.data.source) / "d.wav", np.ones(16_000 * 4) / 9, 16_000)
    assert prepare(recordings)[0].draws == first.draws + 3, "other data"


def test_manifests_and_shards_say_their_lengths(recordings: Recipe, tmp_path: Path) -> None:
    folder = Path(recordings.data.source)
    (folder / "set.csv").write_text("path,start,end\na.wav,,\nlong.wav,2.0,\nlong.wav,1.0,4.0\n")
    clips = open_clips(folder / "set.csv")
    assert np.isnan(clips.seconds()).tolist() == [True, True, False]
    assert clip_seconds(clips).tolist() == pytest.approx([1.0, 10.9, 3.0])
    assert main(["data", "shard", str(folder / "set.csv"), str(tmp_path / "shards"), "--format", "wav"]) == 0
    assert open_clips(tmp_path / "shards").seconds().tolist() == pytest.approx([1.0, 10.9, 3.0])


# -- runs of version 0.3, whose recipes have no such key --


def as_of_version_03(out: Path) -> None:
    """Take from a run with the old rule what version 0.3 did not write."""
    for path in [*(out / "checkpoints").iterdir(), *out.glob("encoder*.safetensors")]:
        saved = checkpoint.load(path)
        assert saved.recipe["data"].pop("segment_seconds", 0.0) == 0.0 and "draws" not in saved.info["data"]
        checkpoint.save(path, checkpoint.Checkpoint(saved.tensors, saved.recipe, saved.step, saved.info))
    text = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(text.replace("  segment_seconds: 0.0\n", ""))


def test_a_run_without_the_key_goes_on_as_before(recordings: Recipe, tmp_path: Path) -> None:
    old = with_data(recordings, segment_seconds=0.0)
    whole = pretrain(replace(old, run=replace(old.run, out=str(tmp_path / "whole"))))
    out = pretrain(replace(old, run=replace(old.run, keep=9))).parent
    as_of_version_03(out)
    for name in (
        "encoder.safetensors",
        "checkpoints/step-00000006.safetensors",
        "checkpoints/step-00000004.safetensors",
    ):
        (out / name).unlink()
    # By the same command, and by the recipe that the run wrote.
    resumed = pretrain(recordings)
    ours, theirs = checkpoint.load(resumed), checkpoint.load(whole)
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    as_of_version_03(out)
    assert pretrain(load_recipe(str(out / "recipe.yaml"))) == resumed, "finished"
    with pytest.raises(RecipeError, match=r"data\.segment_seconds \(0\.0, now 1\.28\)"):
        pretrain(with_data(recordings, segment_seconds=1.28))


def test_a_start_that_learnt_nothing_gives_way_to_the_new_rule(recordings: Recipe) -> None:
    out = pretrain(with_data(recordings, segment_seconds=0.0), untrained=True).parent.parent
    as_of_version_03(out)
    corrected = replace(recordings, optim=replace(recordings.optim, lr=1e-4))
    pretrain(corrected)
    assert checkpoint.load(out / "encoder.safetensors", ()).info["data"]["draws"] == 13


def test_stored_recipes_without_the_key_have_the_old_rule(tmp_path: Path) -> None:
    values = Recipe().as_dict()
    del values["data"]["segment_seconds"]
    assert recipe_from_dict(values).data.segment_seconds == 0.0
    path = tmp_path / "mine.yaml"
    path.write_text(dump_recipe(Recipe(name="mine")))
    assert load_recipe(str(path)).data.segment_seconds is None
    assert load_recipe(str(path), ["data.segment_seconds=5"]).data.segment_seconds == 5.0
    with pytest.raises(RecipeError, match=r"data\.segment_seconds is 0\.01, must be at least 0\.1"):
        load_recipe(str(path), ["data.segment_seconds=0.01"])


def test_comparisons_keep_the_folders_of_their_runs() -> None:
    """A run of a comparison is named by its recipe; those of version 0.3 are found again."""
    values = load_recipe("ajepa-demo").as_dict()
    del values["data"]["segment_seconds"], values["objective"]["stretching"]  # keys of later versions
    given: dict[str, Any] = {"recipe": "ajepa-demo"}
    (run,) = Pretraining.read("m", given, {}).runs(Path("runs"))
    assert run.folder.name.endswith(digest([json.dumps(values, sort_keys=True)], 10))
    (other,) = Pretraining.read("m", given | {"set": {"data.segment_seconds": 3}}, {}).runs(Path("runs"))
    assert run.folder != other.folder


# -- where a run may be --


@pytest.mark.parametrize("inside", ["", "runs/first"])
def test_a_run_in_the_folder_of_its_data_is_refused(
    inside: str, recordings: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(dump_recipe(recordings))
    source = Path(recordings.data.source)
    line = ["pretrain", str(tmp_path / "r.yaml"), "--run.out", str(source / inside)]
    assert main(line) == 2
    (said,) = capsys.readouterr().err.splitlines()
    where = "is inside it" if inside else "is the folder of the data"
    assert where in said and "such as runs/first" in said
    assert sorted(path.name for path in source.iterdir()) == ["a.wav", "b.wav", "c.wav", "long.wav"]
    link = tmp_path / "link"
    link.symlink_to(source)
    assert main([*line[:2], "--run.out", str(link / "run")]) == 2, "by another name"


def test_what_is_no_audio_is_counted(
    recordings: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(recordings.data.source)
    for name in ("notes.txt", "more.TXT", "archive.zip", "README", ".hidden"):
        (source / name).write_text("no audio")
    pretrain(recordings, untrained=True)
    found = [line for line in capsys.readouterr().err.splitlines() if "other kinds" in line]
    start = f"{source}: 4 audio files; left out: 4 files of other kinds (2 .txt, "
    ends = ("1 .zip, 1 without an ending)", "1 without an ending, 1 .zip)")
    assert len(found) == 1 and found[0] in [start + end for end in ends]
    assert main(["data", "manifest", str(source), str(tmp_path / "set.csv")]) == 0
    assert "left out: 4 files of other kinds" in capsys.readouterr().err
    line = ["embed", str(source), "--model", str(recordings.run.out), "--out", str(tmp_path / "e.parquet")]
    assert main(line) == 0
    assert "left out: 4 files of other kinds" in capsys.readouterr().err


# -- out of memory --

ROWS = ("a.wav,x,1", "b.wav,y,2", "c.wav,x,3")


def test_out_of_memory_names_the_settings_that_help(
    recordings: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With networks that no machine holds; torch's own error of the processor."""
    huge = replace(recordings, encoder=replace(recordings.encoder, width=2**36, depth=1))
    path, source = tmp_path / "huge.yaml", Path(recordings.data.source)
    path.write_text(dump_recipe(huge))
    table = tmp_path / "table.csv"
    table.write_text("path,label,fold\n" + "".join(f"recordings/{row}\n" for row in ROWS))
    task = ["--task", "table", "--data", str(table), "--fold", "fold"]
    for line, words in (
        (["pretrain", str(path)], "raise optim.accumulate"),
        (["embed", str(source), "--model", str(path), "--out", str(tmp_path / "e.npz")], "lower --batch"),
        (["evaluate", "linear", "--model", str(path), *task], "--set batch_size=8"),
    ):
        assert main(line) == 2
        said = [one for one in capsys.readouterr().err.splitlines() if not one.startswith("note")]
        assert len(said) == 1 and words in said[0], said
        assert "out of memory (can't allocate memory: you tried to allocate" in said[0]


def test_a_fine_tuning_that_needs_too_much_says_so(
    recordings: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ajepa.eval.finetune import training

    monkeypatch.setattr(training, "_crops", lambda *_: torch.empty(2**58))  # the real error, at a real place
    path, source = tmp_path / "r.yaml", Path(recordings.data.source)
    path.write_text(dump_recipe(recordings))
    table = source / "table.csv"
    table.write_text("path,label,split\na.wav,x,train\nb.wav,y,train\nc.wav,x,valid\nlong.wav,y,test\n")
    line = [
        "evaluate",
        "finetune",
        "--model",
        str(path),
        "--task",
        "table",
        "--data",
        str(table),
        "--split",
        "split",
    ]
    assert main(line) == 1
    assert "out of memory (can't allocate memory: you tried to allocate" in capsys.readouterr().err
