"""What goes wrong with a bridge."""


class HarnessError(RuntimeError):
    """A bridge cannot be set up or used; the message says what to do."""
