"""The wheel as users install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder: Path, **environment: str) -> Path:
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
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
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
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"ajepa"}
    assert "ajepa/recipes/ajepa-demo.yaml" in names
    # -I keeps the checkout and the environment's own paths out: what imports comes from the wheel.
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import ajepa.hear_module, ajepa.s3prl_upstream, ajepa.eval\n"
        "for part in (ajepa, ajepa.hear_module, ajepa.s3prl_upstream, ajepa.eval): print(part.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())


# Prints whether the kernel is there, then a sum of features. The wheel's folder comes first on the path.
FEATURES = """
import sys; sys.path.insert(0, sys.argv[1])
import torch, ajepa
from ajepa import fbank_kernel
from ajepa.features import LogMel
assert ajepa.__file__.startswith(sys.argv[1])
noise_BS = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
print(fbank_kernel.available(), LogMel()(noise_BS).sum().item())
"""


def features_of(wheel: Path, folder: Path) -> tuple[list[str], bool, float]:
    """The files of a wheel, whether it has the compiled kernel, and what its LogMel gives."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        names = archive.namelist()
    command = [sys.executable, "-I", "-c", FEATURES, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    compiled, total = done.stdout.split()
    return names, compiled == "True", float(total)


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("cc"), reason="no C compiler to build ajepa._fbank with"
)
def test_the_compiled_kernel_is_in_the_wheel_but_not_needed(wheel: Path, tmp_path: Path) -> None:
    names, compiled, total = features_of(wheel, tmp_path / "compiled")
    assert compiled and not [name for name in names if name.endswith(".c")]
    (tmp_path / "bare").mkdir()
    bare = build(tmp_path / "bare", CC="false")  # a compiler that always fails
    names, compiled, total_of_torch = features_of(bare, tmp_path / "unpacked")
    assert not compiled and not [name for name in names if name.endswith(".so")]
    assert total_of_torch == pytest.approx(total, rel=1e-5)


def test_import_is_light() -> None:
    code = "import sys, ajepa, ajepa.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_core_knows_no_benchmark() -> None:
    """Arrows run one way: only the command line reaches into the plug-ins."""
    forbidden = ("ajepa.hear_module", "ajepa.s3prl_upstream", "ajepa.eval")
    for path in (ROOT / "ajepa").rglob("*.py"):
        if "cli" not in path.parts:
            imports = [
                line for line in path.read_text().splitlines() if line.lstrip().startswith(("import", "from"))
            ]
            assert not [line for line in imports if any(name in line for name in forbidden)], path
