"""The command line, one module for each command; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ajepa.errors import AjepaError

from . import compare, curves, data, demo, embed, evaluate, export, harness, masks, pretrain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for wrong use and bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.takes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    # Any error that does not derive from AjepaError is a defect and keeps its traceback.
    try:
        return options.run(options) or 0
    except AjepaError as error:
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written: it names its path itself
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"ajepa: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ajepa", description="Pre-train audio encoders in latent space and evaluate them."
    )
    parser.add_argument("--version", action="version", version=version("ajepa"))
    parser.set_defaults(takes_rest=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (pretrain, curves, embed, export, data, masks, harness, evaluate, compare, demo):
        command.add(commands)
    return parser
