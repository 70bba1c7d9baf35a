"""Errors about a recipe's key: which one, its value, and what it takes."""

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
_VALUE = re.compile(r'Parser key "(?P<key>[\w.]+)": (?P<what>.+?)[. ]+(?:Got|Given) value: ?(?P<value>.*)')
_PART = re.compile(r'Parser key "(?P<key>[\w.]+)": Unable to load config \'(?P<value>.+?)\' - ')
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list",
    "NoneType": "null",
}


def leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a tree of dictionaries, such as `optim.steps`, with their values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def explained(message: str, known: Sequence[str], given: Sequence[str] = (), system: str = "") -> str:
    """jsonargparse's message in one line, with the key, its value and the remedy.

    Args:
        known: the keys that there are; the one nearest to an unknown key is named.
        given: the keys of the command line: of a key of these jsonargparse may name the end alone.
        system: the recipe's objective, whose keys others may not have.
    """
    line = " ".join(message.split())
    for pattern in _UNKNOWN:
        if found := pattern.search(line):
            parts = found.groupdict()
            key = ".".join(part for part in (parts.get("group"), parts["key"]) if part)
            key = next((one for one in given if one.endswith(f".{key}")), key)
            of = f"recipes of {system}" if system and key.startswith("objective.") else "recipes"
            return f"{key}: {of} have no such key{did_you_mean(key, known)}"
    if found := _PART.search(line):
        key, value = found["key"], found["value"]
        inner = [one for one in known if one.startswith(f"{key}.")]
        return f"{key} is {value}; it has keys of its own, such as {inner[0]}" if inner else line
    if (found := _VALUE.search(line)) and (remedy := _remedy(found["what"])):
        return f"{found['key']} is {found['value'] or 'empty'}; {remedy}"
    return line


def _remedy(expected: str) -> str:
    """What to write, from what jsonargparse expected; empty if that is none of the forms known here."""
    if found := re.search(r"Literal\[(.+?)\]", expected):
        *most, last = re.findall(r"'(.+?)'", found[1])
        return f"choose {', '.join(most)} or {last}" if most else f"it must be {last}"
    if found := re.search(r"tuple with (\d+) elements", expected):
        return f"give a list of {found[1]} values"
    kinds = list(dict.fromkeys(re.findall(r"Expected an? <class '(\w+)'>", expected)))
    return (
        f"give {' or '.join(_WORDS[kind] for kind in kinds)}" if kinds and set(kinds) <= set(_WORDS) else ""
    )
