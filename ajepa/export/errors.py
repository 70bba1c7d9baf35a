"""What can go wrong when a model is exported."""

from ajepa.errors import AjepaError


class ExportError(AjepaError, ValueError):
    """A model cannot be exported as asked; the message says why."""
