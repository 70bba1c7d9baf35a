"""Files that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Write under another name, then rename: whoever looks sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def write_json(path: Path, content: object) -> None:
    """`content` as JSON."""
    write(path, json.dumps(content, indent=1) + "\n")
