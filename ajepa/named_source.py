"""NAME=SOURCE, as options of the command line give a model or a run its row's name; names from sources."""

from __future__ import annotations

from pathlib import Path


def named_source(text: str) -> tuple[str, str]:
    """The name and the source of SOURCE or NAME=SOURCE; the name is empty where none is given.

    A path may contain "=" (`runs/lr=1e-3`): what exists as a whole is a source. Otherwise the name ends at
    the first "=".
    """
    if "=" not in text or Path(text).exists():
        return "", text
    name, _, source = text.partition("=")
    return name, source


def name_of(source: str) -> str:
    """The row's name where none is given: a file's without its suffix, a folder's or a recipe's whole."""
    path = Path(source)
    return path.stem if path.is_file() else path.name
