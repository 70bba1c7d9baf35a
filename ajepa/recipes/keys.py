"""Errors about a recipe's key, with the nearest existing one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ajepa.suggest import did_you_mean

# jsonargparse reports an unknown key in one of these ways; for a file it splits the key in two.
_UNKNOWN = (
    re.compile(r"unrecognized arguments: (?:--)?(?P<key>[^\s=]+)"),
    re.compile(r"Group '(?P<group>.+)' does not accept option '(?P<key>.+)'"),
    re.compile(r"Option '(?P<key>.+)' is not accepted"),
)


def leaves(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys of a tree of dictionaries, such as `optim.steps`."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key


def explained(message: str, known: Sequence[str]) -> str:
    """jsonargparse's message in one line; for an unknown key with the nearest known one."""
    for pattern in _UNKNOWN:
        if found := pattern.search(message):
            parts = found.groupdict()
            key = ".".join(part for part in (parts.get("group"), parts["key"]) if part)
            return f"{key}: recipes have no such key{did_you_mean(key, known)}"
    return " ".join(message.split())
