"""The options of a task, checked against the signature of its function."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from .task import TaskError

# What to write, by the type that an option has in Python.
WORDS = {
    bool: "true or false",
    str: "text (a number in quotes)",
    Path: "a path",
    int: "a whole number",
    float: "a number",
}


def check_options(name: str, opener: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check the options of the task `name`, which `opener` opens.

    Types are those of the opener's annotations; an option without one may be anything.

    Raises:
        TaskError: there is no such option, or its value has another type.
    """
    taken = list(inspect.signature(opener).parameters)[1:]
    if surplus := sorted(map(str, set(options) - set(taken))):
        raise TaskError(f"task {name} has no option {', '.join(surplus)}; it has {', '.join(taken)}")
    try:
        hints = get_type_hints(opener)
    except (NameError, TypeError):  # of another package, which imports its types for checkers alone
        return
    for option, value in options.items():
        hint = hints.get(option, Any)
        if not _fits(value, hint):
            raise TaskError(f"task {name}: {option} is {value!r}; give {_described(hint)}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_is(value, one) for one in _choices(hint))


def _is(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Sequence, list, tuple):
        items = [one for one in get_args(hint) if one is not ...]
        return isinstance(value, (list, tuple)) and all(any(_fits(v, i) for i in items) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, (str, Path))
    return (
        hint is Any or not isinstance(hint, type) or get_origin(hint) is not None or isinstance(value, hint)
    )


def _described(hint: Any) -> str:
    choices = _choices(hint)
    words = [WORDS[one] for one in choices if one in WORDS and not (one is Path and str in choices)]
    return " or ".join(words) or str(hint)
