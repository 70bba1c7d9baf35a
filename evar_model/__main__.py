"""Add our representation to a checkout of EVAR: `python -m ajepa.evar_model EVAR_CHECKOUT`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path

from ajepa import files
from ajepa.errors import AjepaError

MODULE = "ar_ajepa"
LINE = (
    f"import evar.{MODULE}  # added by ajepa.evar_model: lineareval.py imports only the files that it lists\n"
)
CODE = '''"""Added by `python -m ajepa.evar_model`."""

from ajepa.evar_model.representation import AR_AJEPA

__all__ = ["AR_AJEPA"]
'''


class EvarError(AjepaError, ValueError):
    """A folder is no checkout of EVAR; the message says what is missing."""


def add_to(checkout: Path) -> list[Path]:
    """Write the representation, its configuration and the line that imports it; returns the files.

    Repeating it changes nothing; a configuration that is there stays.

    Raises:
        EvarError: the folder is no checkout.
    """
    package = checkout / "evar"
    if missing := [name for name in ("ar_base.py", "common.py") if not (package / name).is_file()]:
        raise EvarError(
            f"{checkout}: no checkout of EVAR, it has no evar/{missing[0]}; clone eval-audio-repr"
        )
    first, config = package / "__init__.py", checkout / "config" / "ajepa.yaml"
    files.write(package / f"{MODULE}.py", CODE)
    if not config.is_file():
        files.write(config, (resources("ajepa.evar_model") / "configs" / "ajepa.yaml").read_text())
    text = first.read_text() if first.is_file() else ""
    if LINE not in text:
        files.write(first, text + ("\n" if text and not text.endswith("\n") else "") + LINE)
    return [package / f"{MODULE}.py", config, first]


def main(arguments: Sequence[str] | None = None) -> int:
    """Add it; returns the exit status, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m ajepa.evar_model", description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of EVAR, github.com/nttcslab/eval-audio-repr")
    try:
        for path in add_to(parser.parse_args(arguments).checkout):
            print(path)
    except AjepaError as error:
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
