"""What the tests of the bridges share: an interpreter of its own, with the hook where it is wanted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ajepa import harness


def _needs(bridge: str, *packages: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        any(importlib.util.find_spec(package) is None for package in packages),
        reason=f"{packages[0]} is not installed; `ajepa harness enable {bridge}` installs it",
    )


needs_heareval = _needs("hear", "heareval", "hearvalidator")
needs_s3prl = _needs("s3prl", "s3prl", "omegaconf")


def python(*args: str, cwd: Path, path: list[Path], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `path` as PYTHONPATH, on one thread and without a GPU."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{args}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def enabled_site(folder: Path, bridge: str = "hear") -> Path:
    """A folder that, on PYTHONPATH, gives an interpreter the hook as site-packages would."""
    site_dir = folder / "site"
    site_dir.mkdir()
    harness.enable(bridge, install=False, site_dir=site_dir)
    (site_dir / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(site_dir)!r})\n")
    return site_dir
