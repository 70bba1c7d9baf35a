"""Recipes and records as data: what a file stores becomes settings by its types alone.

Files may come from strangers. Nothing here parses text: a string is a string, never a path to read or a
class to import.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ajepa.errors import AjepaError
from ajepa.suggest import did_you_mean

LONGEST_TEXT = 4096


class StoredError(AjepaError, ValueError):
    """A stored value is not what its key needs; the message begins with the key."""


def from_plain(kind: Any, value: Any, key: str = "") -> Any:
    """A dataclass from nested dictionaries, or a value of another type; missing keys keep their defaults.

    Raises:
        StoredError: an unknown key, one that is missing and has no default, or a value of another type.
        ValueError: a value that the dataclass refuses.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        return _settings(kind, value, key)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(key, value, " or ".join(map(repr, arguments)))
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, key)
    if origin is tuple:
        return _sequence(arguments, value, key)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _wrong(key, value, "a mapping")
        return {name: from_plain(arguments[1], one, f"{key}.{name}") for name, one in value.items()}
    if kind is bool:
        if not isinstance(value, bool):
            raise _wrong(key, value, "true or false")
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
            raise _wrong(key, value, "a whole number")
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
            raise _wrong(key, value, "a finite number")
        return float(value)
    elif kind is str and (not isinstance(value, str) or len(value) > LONGEST_TEXT):
        raise _wrong(key, value, "a text")
    return value


def check_mappings(kind: type, values: Any, path: Path, key: str = "") -> None:
    """Check that a recipe's file has mappings where settings belong.

    The command line's parser takes a text there for the path of another file.

    Raises:
        StoredError: it has something else.
    """
    if values is None:
        return
    if not isinstance(values, dict):
        raise StoredError(f"{path}: {_wrong(key or 'it', values, 'a mapping of settings')}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        for part in (hints.get(name), *get_args(hints.get(name))):
            if is_dataclass(part) and isinstance(part, type):
                check_mappings(part, value, path, f"{key}.{name}" if key else str(name))


def _settings(kind: type, values: Any, key: str) -> Any:
    if not isinstance(values, dict):
        raise _wrong(key or "it", values, "a mapping of settings")
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.init]
    if lacking := [name for name in _needed(kind) if name not in values]:
        raise StoredError(f"{key or 'it'} lacks {', '.join(lacking)}")
    found = {}
    for name, value in values.items():
        below = f"{key}.{name}" if key else f"{name}"
        if name not in known:
            raise StoredError(f"{below[:80]}: no such key{did_you_mean(str(name)[:80], known)}")
        found[name] = from_plain(hints[name], value, below)
    return kind(**found)


def _needed(kind: Any) -> list[str]:
    """The fields of a dataclass that have no default."""
    without = [one for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    return [one.name for one in without if one.init]


def _one_of(kinds: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    failure: StoredError | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return from_plain(kind, value, key)
            except StoredError as error:
                failure = failure or error
    raise failure or _wrong(key, value, "null")


def _sequence(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(key, value, "a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise _wrong(key, value, f"a list of {len(kinds)}")
    return tuple(from_plain(kind, item, key) for kind, item in zip(kinds, value, strict=True))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _wrong(key: str, value: Any, expected: str) -> StoredError:
    shown = " ".join(repr(value).split())
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return StoredError(f"{key} is {shown}, must be {expected}")
