"""s3prl's own commands, each in its own process, cured by the bridge, on data in the true layouts."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ajepa.cli import main
from ajepa.data.synthetic import write_speech_commands, write_voxceleb1
from ajepa.nn.encoder import EncoderConfig
from ajepa.recipes import Recipe, dump_recipe
from tests.toolkits import enabled_site, needs_s3prl, python

REPOSITORY = Path(__file__).resolve().parent.parent
SPEC = importlib.util.find_spec("s3prl")

pytestmark = [pytest.mark.slow, needs_s3prl]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hook, a tiny encoder `tiny.yaml` and both data sets in s3prl's form."""
    folder = tmp_path_factory.mktemp("s3prl")
    enabled_site(folder, "s3prl")
    recipe = Recipe(name="tiny", encoder=EncoderConfig(size="ti", width=32, depth=2, heads=2))
    (folder / "tiny.yaml").write_text(dump_recipe(replace(recipe, data=replace(recipe.data, source=""))))
    write_speech_commands(folder / "words", words=4, speakers=14, takes=1, seconds=0.5, noise_seconds=2.0)
    write_voxceleb1(folder / "speakers", speakers=4, sessions=3, utterances=2, seconds=0.6)
    words = sorted(
        path.name for path in (folder / "words").iterdir() if path.is_dir() and path.name[0] != "_"
    )
    made = ["--source", str(folder / "words"), "--out", str(folder / "ks"), "--keywords", ",".join(words[:3])]
    assert main(["data", "s3prl", "speech_commands", *made]) == 0
    assert (
        main(
            ["data", "s3prl", "voxceleb1", "--source", str(folder / "speakers"), "--out", str(folder / "sid")]
        )
        == 0
    )
    return folder


def steps(number: int, **more: object) -> list[str]:
    """-o for a run of so many steps, evaluated and saved at its end, without worker processes."""
    every = {f"config.runner.{name}_step": number for name in ("log", "eval", "save")}
    values = {"config.runner.total_steps": number, **every, "config.downstream_expert.datarc.num_workers": 0}
    return ["-o", ",,".join(f"{key}={value}" for key, value in {**values, **more}.items())]


def scores(folder: Path) -> dict[tuple[str, int], float]:
    """(split, step) -> accuracy on held-out clips, from s3prl's log."""
    found = re.findall(r"^(dev|test) at step (\d+): (\S+)$", (folder / "log.log").read_text(), re.MULTILINE)
    return {(split, int(step)): float(score) for split, step, score in found}


def run(work: Path, *command: str, hook: bool = True) -> str:
    """A command in `work`, on the CPU; with `hook`, as after `ajepa harness enable s3prl`."""
    path = [work / "site", REPOSITORY] if hook else [REPOSITORY]
    done = python(*command, "--device", "cpu", cwd=work, path=path)
    return done.stdout + done.stderr


def test_train_resume_evaluate(work: Path) -> None:
    """`python -m s3prl.run_downstream` from the PyPI package, fine-tuning; then -e twice."""
    module = ["-m", "s3prl.run_downstream"]
    task = ["-u", "ajepa", "-k", "tiny.yaml", "-d", "speech_commands", "-c", "ks/config.yaml", "-f"]
    batch = {"config.downstream_expert.datarc.batch_size": 16}
    run(work, *module, "-m", "train", *task, "-p", "exp/ks", *steps(2, **batch))
    assert set(scores(work / "exp/ks")) == {("dev", 2), ("test", 2)}
    run(work, *module, "-m", "train", "-e", "exp/ks", *steps(4))
    trained = scores(work / "exp/ks")
    assert set(trained) == {(split, step) for split in ("dev", "test") for step in (2, 4)}
    assert sorted(path.name for path in (work / "exp/ks").glob("states-*.ckpt")) == ["states-4.ckpt"]
    printed = run(work, *module, "-m", "evaluate", "-e", "exp/ks/states-4.ckpt")
    assert f"test acc: {trained['test', 4]}" in printed


def test_script_of_a_checkout_and_a_baseline(work: Path) -> None:
    """`python run_downstream.py`, which the hook meets as `__main__`; `-u mel` as SUPERB's baseline."""
    assert SPEC is not None and SPEC.origin is not None
    script = Path(SPEC.origin).with_name("run_downstream.py")
    environment = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    try:
        sid = ["-u", "mel", "-d", "voxceleb1", "-c", "sid/config.yaml", "-p", "exp/sid"]
        run(work, str(script), "-m", "train", *sid, *steps(1))
        printed = run(work, str(script), "-m", "evaluate", "-e", "exp/sid/states-1.ckpt")
    finally:
        if environment is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = environment
    assert "Loading file paths from" in printed  # the second time, and from outside the package
    assert len(list((work / "cache" / "ajepa" / "s3prl" / "voxceleb1").rglob("*.pkl"))) == 3
    assert f"test acc: {scores(work / 'exp/sid')['test', 1]}" in printed


def test_without_the_hook_and_with_a_cache(work: Path) -> None:
    """`python -m ajepa.s3prl_upstream`: our config of the task, and our options in place of -g."""
    data = {
        "config.downstream_expert.datarc.speech_commands_root": "ks/train",
        "config.downstream_expert.datarc.speech_commands_test_root": "ks/test",
        "config.downstream_expert.datarc.batch_size": 16,
    }
    ours = ["--cache", "features", "--frequency", "average"]
    task = ["-m", "train", "-u", "ajepa_local", "-k", "tiny.yaml", "-d", "speech_commands", "-p", "exp/own"]
    run(work, "-m", "ajepa.s3prl_upstream", *ours, *task, *steps(3, **data), hook=False)
    assert ("test", 3) in scores(work / "exp/own")
    entries = list((work / "features").rglob("*.npy"))
    assert 10 < len(entries) == len({path.name for path in entries})
    arguments = yaml.safe_load(next((work / "exp/own").glob("args_*.yaml")).read_text())
    assert yaml.safe_load(arguments["upstream_model_config"]) == {"cache": "features", "frequency": "average"}


def test_wrong_use_is_one_line(work: Path) -> None:
    done = python("-m", "ajepa.s3prl_upstream", "-g", "x", "--repeat", "2", cwd=work, path=[], check=False)
    assert done.returncode == 2
    assert done.stderr == "ajepa: repeat cannot be combined with -g; put it in the file, or drop -g\n"
