"""The error of an export."""

from ajepa.errors import AjepaError


class ExportError(AjepaError, ValueError):
    """A model cannot be exported as requested; the message says why."""
