"""Errors of evaluation that several protocols share."""

from __future__ import annotations

from collections.abc import Sequence

from ajepa.errors import AjepaError


class EvaluationError(AjepaError, RuntimeError):
    """A harness command failed; the message names it and the file with its output."""


def check_distinct(
    names: Sequence[str], baseline: str | None = None, error: type[Exception] = EvaluationError
) -> None:
    """Raises `error` if two models have the same name, or if no model has the baseline's name."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise error(f"several models are called {', '.join(twice)}; give each a name with NAME=SOURCE")
    if baseline is not None and baseline not in names:
        raise error(f"no model is called {baseline!r}, the baseline; choose {', '.join(names)}")
