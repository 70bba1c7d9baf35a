"""The argument parser of all commands, which suggests the nearest word for a misspelt one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ajepa.suggest import did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse's parser with suggestions. In its namespace, `parser` is that of the given command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # In each command, so that it can also be appended to a line that failed.
        for flag in ("--debug", "--isolate"):
            self.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, rest = super().parse_known_args(args, namespace)
        if not hasattr(options, "parser"):  # a sub-command's parser comes first
            options.parser = self
        return options, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"{value!r} is unknown{did_you_mean(str(value), choices)}; choose {', '.join(choices)}",
            )

    def error(self, message: str) -> NoReturn:
        """One line and the exit status 2; the usage is in --help."""
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` lists the options)\n")

    def refuse(self, rest: Sequence[str]) -> NoReturn:
        """Exit with an error about the unknown options in `rest`, and the nearest known ones."""
        hints = [self.nearest(word) for word in rest if word.startswith("-")]
        self.error(f"unrecognized arguments: {' '.join(rest)}{''.join(hints)}")

    def nearest(self, flag: str) -> str:
        """` (did you mean --model?)` for a misspelt option, or nothing."""
        known = [text for text in self._option_string_actions if text.startswith("--")]
        return did_you_mean(flag.partition("=")[0], known)


class PrintCompletion(argparse.Action):
    """Print a shell's completion script and end."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        import shtab

        _complete_files(parser, shtab.FILE)
        print(shtab.complete(parser, values))
        parser.exit()


def _complete_files(parser: argparse.ArgumentParser, what: object) -> None:
    """Complete file names for each argument that is a path, also in the commands of a parser."""
    for action in parser._actions:
        if action.type is Path:
            action.complete = what  # type: ignore[attr-defined]  # what shtab looks for
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, what)
