"""The error for wrong options."""

from __future__ import annotations

import argparse

from ajepa.errors import AjepaError


class UsageError(AjepaError, ValueError):
    """Options are missing, wrong, or do not fit together; the message says which."""


def count(text: str) -> int:
    """The type of options that count something: a whole number from 1."""
    return _whole(text, 1, 2**31)


def seed(text: str) -> int:
    """The type of a seed: a whole number that torch takes."""
    return _whole(text, 0, 2**63)


def rate(text: str) -> int:
    """The type of a sample rate, in Hz."""
    return _whole(text, 1_000, 1_000_001)


def _whole(text: str, least: int, below: int) -> int:
    try:
        if least <= (value := int(text)) < below:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {below - 1}")
