"""`ajepa harness`: the optional bridges for stock toolkits."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ajepa harness` and its commands."""
    harness = commands.add_parser(
        "harness", help="let the stock evaluation toolkits run in this environment"
    ).add_subparsers(required=True, metavar="WHAT")
    enable = harness.add_parser("enable", help="install a toolkit and the import hook it needs")
    enable.add_argument("name", choices=["hear", "s3prl", "xares"])
    enable.add_argument("--no-install", action="store_true", help="write the hook only")
    disable = harness.add_parser("disable", help="remove the hook")
    disable.add_argument("name", nargs="?", choices=["hear", "s3prl", "xares"])
    harness.add_parser("status", help="what is enabled and installed")
    once = harness.add_parser("run", help="run one stock module with its repairs, without the hook")
    once.add_argument("module", help="such as heareval.embeddings.runner")
    once.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    for name, parser in harness.choices.items():
        parser.set_defaults(run=run_harness, action=name)


def run_harness(options: argparse.Namespace) -> None:
    """`ajepa harness`."""
    from ajepa import harness

    if options.action == "run":
        harness.run(options.module, options.arguments)
        return
    if options.action == "enable":
        lines = harness.enable(options.name, install=not options.no_install)
    elif options.action == "disable":
        lines = harness.disable(options.name)
    else:
        lines = harness.status()
    print("\n".join(lines))
