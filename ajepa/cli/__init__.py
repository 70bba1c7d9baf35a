"""The command line: a module for each command, which imports what it needs when it runs."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import (
    audit,
    cache,
    compare,
    curves,
    data,
    demo,
    embed,
    evaluate,
    export,
    harness,
    masks,
    predict,
    pretrain,
    report,
    similar,
    visualize,
    watch,
)
from .defects import reported
from .parser import Parser, PrintCompletion

# The commands as `ajepa --help` groups them.
GROUPS = {
    "train": ("pretrain", "recipes", "masks", "watch", "curves", "visualize"),
    "use": ("embed", "predict", "similar", "export"),
    "evaluate": ("evaluate", "compare", "report"),
    "data": ("data", "audit"),
    "tools": ("demo", "harness", "cache"),
}
EPILOG = """\
`ajepa COMMAND --help` describes a command. Every command takes --debug (show the traceback of an error) and
--isolate (decode audio in a separate process, for files from strangers).
To complete commands, options and files in the shell:
  ajepa --print-completion bash > ~/.local/share/bash-completion/completions/ajepa
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for wrong use and bad input, 70 for a defect of ajepa."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    let_threads_sleep()
    collect_less_often()
    _print_any_path()
    options, rest = build_parser().parse_known_args(arguments)
    if rest and not options.takes_rest:
        options.parser.refuse(rest)
    for word in rest:  # keys of recipes have a dot; a word like one of the command's options is misspelt
        if word.startswith("--") and "." not in word.partition("=")[0] and options.parser.nearest(word):
            options.parser.refuse([word])
    options.rest = rest
    if options.isolate:
        from ajepa.audio import isolate

        isolate()
    try:
        return options.run(options) or 0
    except (Exception, KeyboardInterrupt) as error:
        skips = getattr(options, "skip_broken", None) is False
        return reported(error, options.debug, options.parser.prog.split()[1], skips)


def _print_any_path() -> None:
    """Print the bytes of paths that are no text as escapes: a command must not fail once its work is done."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def let_threads_sleep() -> None:
    """Let OpenMP's threads wait for each other awake for a moment, then asleep; in child processes too.

    By default they stay awake, and where other programs need the cores that costs ten times the processor
    time; always asleep, they are a fifth slower on a quiet machine (docs/performance.md). OpenMP, GNU's or
    LLVM's, reads this when torch is imported. The user's own settings stay.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ |= {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}  # turns; milliseconds


def collect_less_often() -> None:
    """Look for garbage in reference cycles after 10,000 new objects instead of 700.

    The imports of torch and the toolkits make a million objects and no such garbage: looking for it takes a
    tenth to a sixth of a command's start.
    """
    first, *later = gc.get_threshold()
    if 0 < first < 10_000:  # 0: it is switched off
        gc.set_threshold(10_000, *later)


class _TopParser(Parser):
    """The parser of `ajepa` itself, whose help groups the commands by their purpose."""

    commands: argparse._SubParsersAction[Parser]

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [*self._option_actions(), self.commands], [])
        formatter.add_text(self.description)
        entries = {action.dest: action for action in self.commands._choices_actions}
        for group, names in GROUPS.items():
            formatter.start_section(group)
            formatter.add_arguments([entries[name] for name in names])
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments(self._option_actions())
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _option_actions(self) -> list[argparse.Action]:
        return [action for action in self._actions if action.option_strings]


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = _TopParser(
        prog="ajepa",
        description="Pre-train audio encoders in latent space, use them and evaluate them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("ajepa"))
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=["bash", "zsh", "tcsh"],
        help="print a script that completes commands in this shell",
    )
    parser.set_defaults(takes_rest=False, debug=False, isolate=False)
    parser.commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in (
        pretrain,
        curves,
        watch,
        embed,
        predict,
        similar,
        export,
        data,
        audit,
        masks,
        harness,
        evaluate,
        compare,
        report,
        visualize,
        demo,
        cache,
    ):
        command.add(parser.commands)
    return parser
