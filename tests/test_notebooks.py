"""The notebooks run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# A command that fails in a cell stops nothing: what it should have made is looked for.
PICTURES = {"pretrain_and_look": 4, "evaluate_your_encoder": 1}
SMALLER = {  # what is replaced, so that it takes seconds
    "pretrain_and_look": {
        "clips=60, seconds=4": "clips=16, seconds=2",
        "--draws 200": "--draws 20",
        "optim.steps=80": "optim.steps=8",
        "optim.batch_size=16": "optim.batch_size=8",
        "optim.warmup_steps=20": "optim.warmup_steps=2",
        "run.log_every=5": "run.log_every=2",
        "run.health_every=20": "run.health_every=4",
    },
    "evaluate_your_encoder": {"clips_per_class=10, classes=6": "clips_per_class=5, classes=4"},
}


def test_there_is_one_of_each_kind() -> None:
    assert {path.stem for path in NOTEBOOKS} == PICTURES.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_kept(path: Path) -> None:
    """Pictures and sounds would make every change of a notebook one of megabytes."""
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        assert not cell.get("outputs"), f"{path}: clear the outputs before you commit"
        assert cell.get("execution_count") is None and not cell["metadata"], f"{path}: clear all outputs"
    assert set(book["metadata"]) <= {"kernelspec", "language_info"} and path.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat and nbclient are not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    book = nbformat.read(path, as_version=4)
    for large, small in SMALLER[path.stem].items():
        (cell,) = (cell for cell in book.cells if large in cell.source)
        cell.source = cell.source.replace(large, small)
    client = nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client.execute(
        env=os.environ
        | {
            "PATH": programs,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "1",
            "IPYTHONDIR": str(tmp_path),
        }
    )
    shown = [
        output.get("data", {})
        for cell in book.cells
        for output in cell.get("outputs", ())
        if cell.cell_type == "code"
    ]
    assert sum("image/png" in data for data in shown) == PICTURES[path.stem]
    assert any("<audio" in data.get("text/html", "") for data in shown), "something can be heard"
    made = {"pretrain_and_look": "runs/first/encoder.safetensors", "evaluate_your_encoder": "report.html"}
    assert (tmp_path / made[path.stem]).is_file()
