"""The error for wrong options."""

from __future__ import annotations

from ajepa.errors import AjepaError


class UsageError(AjepaError, ValueError):
    """Options are missing, wrong, or do not fit together; the message says which."""
