"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path


def own_partial(path: Path, kind: str = "partial") -> Path:
    """A hidden name beside `path`, this process's own: another machine may write the same shared folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def write(path: Path, content: str | bytes) -> None:
    """Write under another name, then rename: whoever looks sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = own_partial(path)
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # gone already if all went well


def write_json(path: Path, content: object) -> None:
    """`content` as JSON."""
    write(path, json.dumps(content, indent=1) + "\n")
