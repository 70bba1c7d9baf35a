"""Every command that writes: on a full disk, one line with the path. A limit on files stands in for it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ajepa import files
from ajepa.cli import main
from ajepa.data.synthetic import write_esc50, write_unlabelled
from ajepa.files import PlaceError
from ajepa.recipes import Recipe, dump_recipe
from ajepa.s3prl_upstream.cache import FeatureCache

FIXTURES = Path(__file__).parent / "fixtures"
COMMANDS = {
    "embed": ("embed {audio} --model {recipe} --out {out}/e.npz", (1, 400, 1_000, 4_000)),
    "manifest": ("data manifest {audio} {out}/m.csv", (1,)),
    "shard": ("data shard {audio} {out}/shards", (1, 300, 4_000)),
    "masks": ("masks {recipe} --out {out}/m.png", (1, 4_000)),
    "export": ("export {encoder} --out {out}/x", (1, 4_000)),
    "hear-task": ("data hear-task esc50 --source {sounds} --out {out}/h", (1, 300, 4_000)),
    "xares": ("data xares esc50 --source {sounds} --out {out}/x", (1, 300, 4_000)),
    "pretrain": ("pretrain {recipe} --data.source {audio} --run.out {out}/run", (1, 4_000)),
    "limit": ("cache limit 3 --folder {out}", (1,)),
}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond this size fails, as on a full disk, with another number."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_the_path(
    name: str, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny_recipe))
    line, limits = COMMANDS[name]
    for number, limit in enumerate(limits):
        out = tmp_path / f"out{number}"
        out.mkdir()
        places = {"sounds": tmp_path / "esc50", "audio": tmp_path / "esc50" / "audio", "out": out}
        given = places | {
            "recipe": tmp_path / "recipe.yaml",
            "encoder": FIXTURES / "a-jepa.encoder.safetensors",
        }
        arguments = line.format(**given).split()
        with largest_file(limit):
            status = main(arguments)
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert status == 2, (limit, said)
        assert str(out) in said and ("File too large" in said or "cannot be written" in said), (limit, said)
    assert main(arguments) == 0, "with room it goes on"


@pytest.mark.parametrize("write", [write_esc50, write_unlabelled])
def test_synthetic_sets_name_the_file(write: object, tmp_path: Path) -> None:
    assert callable(write)
    with largest_file(1_000), pytest.raises(PlaceError, match=rf"{tmp_path}.*\.wav: cannot be written"):
        write(tmp_path)


def test_writers_of_libraries_name_the_file(tmp_path: Path) -> None:
    with largest_file(1_000):
        with (
            pytest.raises(PlaceError, match=r"a\.safetensors: cannot be written"),
            files.in_place_of(tmp_path / "a.safetensors") as partial,
        ):
            save_file({"a": torch.zeros(10_000)}, partial)
        with pytest.raises(OSError, match=r"File too large.*clip\.npy"):
            FeatureCache(tmp_path, 10**9).put("model", "clip", torch.zeros(1, 1, 10_000))
    assert not list(tmp_path.glob(".a*"))
