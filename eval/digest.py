"""Hashes that name what a score depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(parts: Iterable[str | Path], digits: int = 16) -> str:
    """The first digits of the SHA-256 of texts (in UTF-8) and of files' contents, one after another."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode(errors="surrogateescape"))  # a path may be no text
            continue
        with part.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()[:digits]
