"""The wheel as users install it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> Path:
    """A wheel, built from the checkout without what earlier builds left in it."""
    source = folder / "source"
    left = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_only_ajepa_lands_at_the_top_level(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        names = archive.namelist()
    assert wheel.name.endswith("-py3-none-any.whl")  # nothing is compiled
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"ajepa"}
    assert "ajepa/recipes/ajepa-demo.yaml" in names
    # -I keeps the checkout and the environment's own paths out: what imports comes from the wheel.
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import ajepa.hear_module, ajepa.s3prl_upstream, ajepa.evar_model, ajepa.eval\n"
        "parts = ajepa, ajepa.hear_module, ajepa.s3prl_upstream, ajepa.evar_model, ajepa.eval\n"
        "for part in parts: print(part.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())


def test_every_folder_with_code_is_packaged() -> None:
    """An editable installation finds a folder that pyproject.toml does not list; a wheel lacks it."""
    listed = set(re.findall(r'^    "(ajepa[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), re.M))
    places = {"ajepa": "ajepa", "eval": "ajepa.eval"} | {
        name: f"ajepa.{name}" for name in ("hear_module", "s3prl_upstream", "evar_model")
    }
    found = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for folder, package in places.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert found <= listed, found - listed


def test_import_is_light() -> None:
    code = "import sys, ajepa, ajepa.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is None, reason="torchmetrics is not installed")
def test_training_starts_without_torchmetrics() -> None:
    """Fabric would load it, which takes longer than torch; who needs it can import it afterwards."""
    code = "import sys, ajepa.training.loop; print('torchmetrics' in sys.modules); import torchmetrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
