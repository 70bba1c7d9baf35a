"""s3prl's `run_downstream` with our upstreams and the cures that it needs, for one process without the hook.

    python -m ajepa.s3prl_upstream -m train -u ajepa -k CHECKPOINT -d speech_commands -c CONFIG -n NAME

Takes all options of s3prl's runner, and those below in place of `-g`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import yaml

from ajepa import harness
from ajepa.errors import AjepaError

from .options import UpstreamError

MODULE = "s3prl.run_downstream"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run s3prl; returns the exit status, 2 for wrong use and bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m ajepa.s3prl_upstream", allow_abbrev=False, add_help=False
    )
    parser.add_argument("-h", "--help", action="store_true", help="our options, then s3prl's")
    upstream = parser.add_argument_group("options of our upstreams, in place of -g")
    upstream.add_argument("--frequency", choices=["concatenate", "average"])
    upstream.add_argument("--repeat", type=int, help="frames for each time step of the encoder; default: 1")
    upstream.add_argument("--cache", metavar="FOLDER", help="keep the features of clips in this folder")
    upstream.add_argument("--cache-gigabytes", type=float, help="size limit of the cache; default: 10")
    options, rest = parser.parse_known_args(arguments)
    if options.help:
        parser.print_help()
        rest = ["--help"]
    del options.help
    try:
        harness.run(MODULE, _with_config(_with_options(rest, options)))
    except AjepaError as error:
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    return 0


def _with_options(rest: list[str], options: argparse.Namespace) -> list[str]:
    """s3prl's arguments, with our options as `-g`."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    if not given:
        return rest
    if _has(rest, "-g", "--upstream_model_config"):
        raise UpstreamError(f"{', '.join(given)} cannot be combined with -g; put it in the file, or drop -g")
    return [*rest, "-g", yaml.safe_dump(given, default_flow_style=True, width=10_000).strip()]


def _with_config(rest: list[str]) -> list[str]:
    """s3prl's arguments, with our config of the task if s3prl would find none."""
    known = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    known.add_argument("-d", "--downstream")
    task = known.parse_known_args(rest)[0].downstream
    if (
        not task
        or _has(rest, "-c", "--config", "-e", "--past_exp")
        or Path("downstream", task, "config.yaml").is_file()
    ):
        return rest
    config = files("ajepa.s3prl_upstream") / "configs" / f"{task}.yaml"
    if not config.is_file():
        return rest
    with as_file(config) as path:
        return [*rest, "-c", str(path)]


def _has(arguments: Sequence[str], *names: str) -> bool:
    return any(argument.split("=")[0] in names for argument in arguments)


if __name__ == "__main__":
    sys.exit(main())
