"""What commands say of options that cannot be used."""

from __future__ import annotations


class UsageError(ValueError):
    """Options that are missing, cannot be used or do not go together; the message says which."""
