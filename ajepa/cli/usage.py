"""What commands say of options that cannot be used."""

from __future__ import annotations

from ajepa.errors import AjepaError


class UsageError(AjepaError, ValueError):
    """Options that are missing, cannot be used or do not go together; the message says which."""
