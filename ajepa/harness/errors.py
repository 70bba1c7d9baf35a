"""The error of the bridges."""

from ajepa.errors import AjepaError


class HarnessError(AjepaError, RuntimeError):
    """A bridge cannot be set up or used; the message says what to do."""
