"""Pages of docs/ with generated tables: write them again, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from itertools import zip_longest
from pathlib import Path


def parsed(description: str | None, arguments: list[str] | None, *, required: bool) -> argparse.Namespace:
    """Options --write and --check; with `required`, one of them must be given."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choice = parser.add_mutually_exclusive_group(required=required)
    choice.add_argument("--write", action="store_true")
    choice.add_argument("--check", action="store_true")
    return parser.parse_args(arguments)


def settle(page: Path, text: str, made: str, source: str, *, write: bool) -> int:
    """Write `made` into a page, or print the first line where its `text` differs; returns the exit status."""
    if write:
        page.write_text(made, encoding="utf-8")
        return 0
    for theirs, ours in zip_longest(text.splitlines(), made.splitlines(), fillvalue=""):
        if theirs != ours:
            print(f"{page}: has\n  {theirs}\nbut the {source} give\n  {ours}", file=sys.stderr)
            return 1
    return 0
