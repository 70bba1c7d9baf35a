"""Code that runs as another user, as in a container or on a shared machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = 54_321  # without an entry in passwd
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@contextmanager
def open_folder(mode: int) -> Iterator[str]:
    """A folder that other users can look into, and with 0o777 write to; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(mode)
        yield folder


def as_another_user(imports: str, code: str, folder: str) -> subprocess.CompletedProcess[str]:
    """Run `code` as USER, with `folder` for its temporary files; `imports` still run as root."""
    becomes = f"import os; os.setgroups([]); os.setgid({USER}); os.setuid({USER})\n"
    return subprocess.run(
        [sys.executable, "-c", f"{imports}\n{becomes}{code}", folder],
        env={"TMPDIR": folder, "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
