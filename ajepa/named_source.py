"""NAME=SOURCE, by which command-line options name a model or a run, and names from sources."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def named_source(text: str) -> tuple[str, str]:
    """The name and the source of SOURCE or NAME=SOURCE; the name is empty where none is given.

    A path may contain "=" (`runs/lr=1e-3`): a text that exists as a path is a source. Otherwise the name ends
    at the first "=".
    """
    exists = False
    with suppress(OSError):  # longer than a path can be
        exists = Path(text).exists()
    if "=" not in text or exists:
        return "", text
    name, _, source = text.partition("=")
    return name, source


def name_of(source: str) -> str:
    """The default name: that of a file without its suffix, of a folder or recipe as it is."""
    path = Path(source)
    return path.stem if path.is_file() else path.name
