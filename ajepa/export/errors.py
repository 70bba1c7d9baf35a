"""What can go wrong when a model is exported."""


class ExportError(ValueError):
    """A model cannot be exported as asked; the message says what stands in the way."""
