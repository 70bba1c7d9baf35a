"""The command line as users call it."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.native import Checkpoint
from ajepa.cli import GROUPS, build_parser, collect_less_often, let_threads_sleep, main
from ajepa.embed.compute import embed
from ajepa.embed.inputs import Inputs
from ajepa.embed.options import Wanted
from ajepa.embed.pieces import decode
from ajepa.model.loading import ModelError, load_model
from ajepa.recipes import Recipe, dump_recipe, load_recipe


@pytest.fixture
def recipe_file(tiny_recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(tiny_recipe))
    return path


def test_pretrain_embed_and_go_on(
    recipe_file: Path, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["optim.steps=4", "--run.keep", "5", "--run.checkpoint_every=2"]
    assert main(["pretrain", str(recipe_file), *options]) == 0
    assert str(out / "encoder.safetensors") in capsys.readouterr().out
    assert main(["pretrain", str(recipe_file), *options]) == 0, "a finished run is finished again"
    embeddings = tmp_path / "embeddings.npz"
    assert main(["embed", str(audio_folder), "--model", str(out), "--out", str(embeddings)]) == 0
    with np.load(embeddings) as arrays:
        assert arrays["clip"].shape == (12, 256)
        assert arrays["files"][0].endswith("00.wav")
    assert not list(tmp_path.glob(".*npz*"))
    (audio_folder / "05.wav").write_bytes(b"")
    again = ["embed", str(audio_folder), "--model", str(out), "--out", str(embeddings)]
    capsys.readouterr()
    assert main(again) == 2
    assert "05.wav: 0 bytes; remove it, or pass --skip-broken\n" in capsys.readouterr().err
    similar = ["similar", str(audio_folder / "05.wav"), "--among", str(audio_folder), "--model", str(out)]
    assert main(similar) == 2
    assert capsys.readouterr().err.endswith("05.wav: 0 bytes; remove it\n"), "similar cannot skip it"
    assert main([*again, "--skip-broken"]) == 0
    with np.load(embeddings) as arrays:
        assert len(arrays["files"]) == 11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrain", "nonsense"], ["no recipe", "ajepa-small-cpu"]),
        (["pretrain", "ajepa-small-cpu"], ["data.source is empty"]),
        (["pretrain", "ajepa-small-cpu", "--optim.speed", "3"], ["speed"]),
        (["pretrain", "ajepa-small-cpu", "optim.stepz=3"], ["optim.stepz", "did you mean optim.steps?"]),
        (["pretrain", "ajepa-smal-cpu"], ["did you mean ajepa-small-cpu?"]),
        (
            ["pretrain", "ajepa-small-cpu", "--data.source", "absent", "--run.out", "x"],
            ["absent", "no such folder"],
        ),
        (["embed", "absent.wav", "--out", "e.npz"], ["absent.wav"]),
        (
            ["evaluate", "hear", "--model", "logmel", "--tasks-dir", "absent", "--out", "x"],
            ["absent", "hear-task"],
        ),
        (["data", "hear-task", "esc50", "--source", "absent", "--out", "x"], ["absent"]),
    ],
)
@pytest.mark.filterwarnings("ignore:no model was named")
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("ajepa: ")
    assert all(word in message for word in words), message
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_embeddings_have_a_place_before_they_are_computed(
    audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is not even looked for."""
    for place, words in (
        (tmp_path, "a folder with other files"),
        (audio_folder / "00.wav" / "e.npz", "cannot"),
    ):
        assert main(["embed", str(audio_folder), "--model", "absent", "--out", str(place)]) == 2
        assert f"--out {place}" in (said := capsys.readouterr().err) and words in said


def test_embeddings_that_are_not_finite_are_refused(
    source: str, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are too large are named, and embeddings that are infinite all the same, with the clip."""
    whole = load_model(source)
    tensors = {f"encoder.{name}": value for name, value in whole.encoder.state_dict().items()}
    tensors |= {f"features.{name}": value for name, value in whole.features.state_dict().items()}
    tensors["encoder.norm.weight"].fill_(3e38)
    recipe = load_recipe(source).as_dict()
    damaged = checkpoint.save(tmp_path / "damaged.safetensors", Checkpoint(tensors, recipe, 0, {}))
    out = tmp_path / "embeddings.npz"
    assert main(["embed", str(audio_folder), "--model", str(damaged), "--out", str(out)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{damaged}: encoder.norm.weight has weights beyond 1e+06" in message
    assert not out.exists() and not list(tmp_path.rglob("part-*"))
    whole.encoder.norm.weight.data.fill_(3e38)
    (item,), wanted = Inputs([str(audio_folder / "00.wav")]), Wanted()
    pieces = decode(item, wanted, whole.sample_rate).pieces
    with pytest.raises(ModelError, match=r"the embedding of .*00\.wav has values that are NaN or infinite"):
        list(embed(whole, pieces, wanted, 8, lambda item, error: None))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "a.wav", "--out", "e.npz", "--modl", "x"], "--modl x (did you mean --model?)"),
        (["data", "shard", "a", "b", "--formt=wav"], "--formt=wav (did you mean --format?)"),
        (["pretrain", "ajepa-demo", "--untraind"], "--untraind (did you mean --untrained?)"),
        (["pretrian", "ajepa-demo"], "'pretrian' is unknown (did you mean pretrain?)"),
        (["data", "synthetic", "esc5", "--out", "x"], "'esc5' is unknown (did you mean esc50?)"),
        (
            ["embed", "a.wav", "--out", "e.npz", "--zzz"],
            "ajepa embed: unrecognized arguments: --zzz (`ajepa embed --help`",
        ),
    ],
)
def test_misspelt_words_are_refused_with_the_nearest(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert words in capsys.readouterr().err


def test_help_shows_every_command_in_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    commands = list(build_parser().commands.choices)
    assert sorted(commands) == sorted(name for group in GROUPS.values() for name in group)
    places = [text.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    assert all(text.count(f"\n  {name} ") == 1 for name in commands)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert all(word in script for word in ("pretrain", "--skip-broken", "hear-task"))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(
    device: str, audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(audio_folder), "--out", str(tmp_path / "e.npz"), "--device", device]) == 2
    said = capsys.readouterr().err
    assert f"ajepa: --device {device}: " in said and "or choose cpu" in said


def test_a_comparison_on_a_missing_device_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text("models: {a: logmel}\ntasks: {esc10: {data: nowhere}}\nprotocols: [linear]\n")
    assert main(["compare", str(file), "--out", str(tmp_path / "out"), "--device", "cuda:99"]) == 2
    assert "ajepa: --device cuda:99: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_waiting_threads_fall_asleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    for given in ("", *names):
        with monkeypatch.context() as patch:
            for name in names:
                patch.delenv(name, raising=False)
            if given:
                patch.setenv(given, "5")
            let_threads_sleep()
            found = {name: os.environ.pop(name) for name in names if name in os.environ}
            assert found == ({given: "5"} if given else {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"})


def test_garbage_is_looked_for_less_often_unless_the_user_says_otherwise() -> None:
    before = gc.get_threshold()
    try:
        for given, expected in ((700, 10_000), (50_000, 50_000), (0, 0)):
            gc.set_threshold(given, 9, 8)
            collect_less_often()
            assert gc.get_threshold() == (expected, 9, 8)
    finally:
        gc.set_threshold(*before)


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    names = capsys.readouterr().out.split()
    assert {"ajepa-demo", "ajepa-small-cpu"} <= set(names)
    assert main(["recipes", "ajepa-demo"]) == 0
    assert "masks_per_clip: 1" in capsys.readouterr().out


def test_synthetic_audio_becomes_a_hear_task(tmp_path: Path) -> None:
    audio, tasks = tmp_path / "audio", tmp_path / "tasks"
    from ajepa.data.synthetic import write_esc50

    write_esc50(audio, clips_per_class=5, classes=3, seconds=0.5)
    assert main(["data", "hear-task", "esc50", "--source", str(audio), "--out", str(tasks)]) == 0
    (task,) = tasks.iterdir()
    metadata = json.loads((task / "task_metadata.json").read_text())
    assert metadata["split_mode"] == "presplit_kfold"
    assert len(list(task.glob("16000/*/*.wav"))) == 15


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("masks ajepa-small-cpu --seed 99999999999999999999", "no whole number from 0 to"),
        ("data manifest a m.csv --workers -1", "no whole number from 1 to"),
        ("data synthetic esc50 out --seed x", "no whole number from 0 to"),
        (
            "data shard a s --sample-rate 99999999999999999999",
            "--sample-rate is 99999999999999999999 Hz; give 1,000",
        ),
        ("data shard a s --sample-rate 700000 --format flac", "give 1,000 to 655,350"),
        ("data shard a s --sample-rate 0", "give 1,000"),
        ("similar a/0.wav --among a --start inf", "--start is inf"),
        ("similar a/0.wav --among a --seconds inf", "--seconds inf"),
        ("data shard a s --shard-megabytes 0", "--shard-megabytes is 0; give at least 1"),
        ("pretrain ajepa-small-cpu run.seed=99999999999999999999", "run.seed is 99999999999999999999"),
    ],
)
def test_absurd_numbers_are_wrong_use(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    soundfile.write("a/0.wav", np.zeros(4_000), 16_000)
    try:
        status = main(line.split())
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert words in " ".join(capsys.readouterr().err.split())
