"""The base of every error that this package raises on purpose."""


class AjepaError(Exception):
    """An error that the user can correct; the message is one line that says what is wrong and what to do.

    Each part of the package derives its own error from this class and from ValueError or RuntimeError, so
    that `except ajepa.AjepaError` catches them all and `except ValueError` still works.
    """
