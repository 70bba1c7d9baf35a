"""MkDocs hooks: the page of the command line is drawn from the parsers, the API's from all folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ajepa.cli import GROUPS, build_parser

MARKER = "<!-- commands -->"
ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "build" / "api"  # where mkdocs.yml lets mkdocstrings look


def on_startup(**_: Any) -> None:
    """Lay the package out as it is installed: mkdocstrings reads files, and four folders stand elsewhere."""
    package = SOURCES / "ajepa"
    package.mkdir(parents=True, exist_ok=True)
    folders = [ROOT / name for name in ("eval", "evar_model", "hear_module", "s3prl_upstream")]
    wanted = {package / path.name: path for path in [*(ROOT / "ajepa").iterdir(), *folders]}
    # Another build may be at work in this checkout: links that are right stay.
    for link in package.iterdir():
        if link.readlink() != wanted.get(link):
            link.unlink(missing_ok=True)
    for link, path in wanted.items():
        with suppress(FileExistsError):
            link.symlink_to(path)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands in the marker's place."""
    return markdown.replace(MARKER, "\n".join(lines(build_parser()))) if MARKER in markdown else markdown


def lines(parser: argparse.ArgumentParser, level: int = 1) -> Iterator[str]:
    """A heading, usage and options of a parser, and of its commands below it."""
    if level > 1:
        yield f"\n{'#' * level} `{parser.prog}`\n"
        if parser.description:
            yield f"{cell(parser.description)}\n"
    commands: list[argparse.ArgumentParser] = []
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {choice.dest: choice.help for choice in action._choices_actions}
                for name, command in action.choices.items():
                    command.description = command.description or sentence(helps.get(name))
                    commands.append(command)
            elif "--help" not in action.option_strings and action.help != argparse.SUPPRESS:
                rows.append(row(action, parser))
        if rows and level > 1:
            if group.title not in ("positional arguments", "options", "optional arguments"):
                yield f"\n*{group.title}*\n"
            yield from ("| | |", "|---|---|", *rows, "")
    if level == 1:  # in the order of `ajepa --help`
        order = [f"{parser.prog} {name}" for names in GROUPS.values() for name in names]
        commands.sort(key=lambda command: order.index(command.prog))
    for command in commands:
        yield from lines(command, level + 1)


def row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """One argument: how it is written, and what it means."""
    formatter = argparse.HelpFormatter(parser.prog)
    default = formatter._get_default_metavar_for_optional(action) if action.option_strings else action.dest
    values = formatter._format_args(action, default) if action.nargs != 0 else ""
    written = f"{', '.join(action.option_strings)} {values}".strip()
    meaning = formatter._expand_help(action) if action.help else ""
    marks = ["required"] if action.option_strings and action.required else []
    if action.choices and not values.startswith("{"):
        marks.append(f"one of {', '.join(map(str, action.choices))}")
    # In a code span a bar ends no cell, and a backslash would show.
    code = cell(written).replace(r"\|", "|")
    return f"| `{code}` | {cell('; '.join(filter(None, [meaning, *marks])))} |"


def sentence(text: str | None) -> str:
    """A command's short help as a sentence."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
