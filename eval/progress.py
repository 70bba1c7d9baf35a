"""What long evaluations report while they run."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line on standard error at once."""
    print(text, file=sys.stderr, flush=True)
