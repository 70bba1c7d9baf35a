"""Tables on the terminal. Names of files go through `ajepa.errors.shown` first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ANY_WIDTH = 10_000


def console() -> Console:
    """Where tables are printed. In a file or a pipe each row is one line."""
    from rich.console import Console

    # A name such as "take [bold].wav" is not to be taken for markup.
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=ANY_WIDTH)


def new_table() -> Table:
    """A table with a line below its header alone."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD)
