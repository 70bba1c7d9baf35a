"""Picture files: their place is checked before the work, and they are written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ajepa.errors import AjepaError
from ajepa.files import check_place, in_place_of


class PictureError(AjepaError, ValueError):
    """A picture cannot be written as requested; the message says what to do."""


def check_picture(out: Path) -> None:
    """Check that a picture can be written to `out`, the option --out.

    Raises:
        PictureError: matplotlib has no format with this suffix.
        PlaceError: the place is not writable.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in kinds:
        raise PictureError(
            f"--out {out}: not a known picture format; end the name in .{', .'.join(sorted(kinds))}"
        )
    check_place(out, "--out")


def save(figure: Any, out: Path) -> None:
    """Write a matplotlib figure in the format of the suffix."""
    with in_place_of(out, kind=out.suffix.removeprefix(".")) as partial:
        figure.savefig(partial)
