"""The base of every error that this package raises on purpose."""

from __future__ import annotations

from typing import ClassVar

LONGEST = 4_000  # characters of a message; what a file holds may be longer


class AjepaError(Exception):
    """An error that the user can correct; the message is one line that says what is wrong and what to do.

    Each part of the package derives its own error from this class and from ValueError or RuntimeError, so
    that `except ajepa.AjepaError` catches them all and `except ValueError` still works.

    What a message quotes of a file may be anything: line breaks become spaces, characters that are not shown,
    such as those that steer a terminal, become escapes, and the middle of a long text is left out.
    """

    one_line: ClassVar[bool] = True

    def __str__(self) -> str:
        text = super().__str__()
        return shown(text) if self.one_line else text


def shown(text: str) -> str:
    """A text of any origin as one line for a terminal; see `AjepaError`."""
    if not text.isprintable():
        text = "".join(_visible(character) for character in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() else character.encode("unicode_escape").decode()
