"""`ajepa evaluate PROTOCOL`: a sub-command for each protocol, with the options that this protocol reads."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajepa.files import check_place

from . import device, tasks
from .evaluate_options import OF_OTHERS, OPTIONS
from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.eval.protocols import Protocol
    from ajepa.eval.results.record import Record

# Options of tasks that events need: recordings may have none, and rows are parts of them.
EVENT_OPTIONS = {
    "audacity": ("multilabel",),
    "table": ("multilabel", "segments"),
    "hf": ("multilabel", "segments"),
}
CONTINUES = "stopped; finished results are kept, and the same command continues"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its protocols to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score models on labelled audio: a linear probe, nearest neighbours, fine-tuning, or the stock "
        "toolkits HEAR, s3prl (SUPERB) and X-ARES",
        description="Score models on labelled audio by one protocol. `ajepa compare` runs several protocols "
        "and tasks from one file. The exit status is 1 if a model failed.",
    )
    protocols = evaluate.add_subparsers(required=True, metavar="PROTOCOL", dest="kind")
    of_others = {
        one.name: (f"a protocol of {one.value.partition(':')[0]}", OF_OTHERS)
        for one in entry_points(group="ajepa.protocols")
    }
    for name, (text, groups) in (OPTIONS | of_others | OPTIONS).items():  # ours come first and stay
        parser = protocols.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for add_options in groups:
            add_options(parser)
        parser.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """`ajepa evaluate`; 1 where a model failed."""
    if options.json:
        check_place(options.json, "--json")
    device.check_device(options.device)

    save = getattr(options, "save", None)
    if save:
        _check_save(options, save)

    from ajepa.eval.compare.run import Comparison, evaluate
    from ajepa.eval.models.open import named_model
    from ajepa.eval.protocols import PROTOCOLS
    from ajepa.eval.results.errors import check_distinct
    from ajepa.eval.results.record import write_records
    from ajepa.eval.results.table import robustness_table, table
    from ajepa.model.loading import encoder_file

    given = {name: value for name, value in vars(options).items() if value is not None}
    how = PROTOCOLS.get(options.kind)
    assert how is not None, "a sub-command is made for each protocol"
    models = [named_model(text) for text in options.model]
    if options.encoder:
        models = [(name, encoder_file(source, options.encoder)) for name, source in models]
    check_distinct([name for name, _ in models], given.get("baseline"), UsageError)
    comparison = Comparison(
        models=dict(models),
        tasks=_tasks(options, how),
        protocols={options.kind: _settings(given, how)},
        baseline=given.get("baseline"),
        precision=given.get("precision", "float32"),
    )
    shown: list[Record] = []

    def keep(records: list[Record]) -> None:
        shown[:] = records
        if options.json:
            write_records(options.json, _beside(options.json, options.out, records), single=True)

    # The table comes last, even if a later model fails or the disk is full.
    try:
        _, failures = evaluate(
            comparison,
            options.out,
            given.get("cache"),
            device=options.device,
            keep=keep,
            save=save,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(CONTINUES if options.out else "") from None
    finally:
        for note in dict.fromkeys(f"note: {one.task}: {text}" for one in shown for text in one.notes):
            print(note, file=sys.stderr)
        if shown:
            print(table(shown))
            if any(record.corrupted for record in shown):
                print(f"\n{robustness_table(shown)}")
    if save and not failures:
        print(f"{save}: the classifier; `ajepa predict FILES --model {save}` applies it")
    return 1 if failures else 0


def _beside(path: Path, out: Path | None, records: list[Record]) -> list[Record]:
    """The records with the names of their files as seen from the folder of `path`, or without them."""

    def seen(files: tuple[str, ...]) -> tuple[str, ...]:
        if out is None:
            return ()
        return tuple(os.path.relpath(out.absolute() / file, path.absolute().parent) for file in files)

    return [
        replace(record, answers=seen(record.answers), features=seen(record.features)) for record in records
    ]


def _check_save(options: argparse.Namespace, folder: Path) -> None:
    if len(options.model) > 1:
        raise UsageError(f"--save {folder} keeps the classifier of one model; give --model once")
    if getattr(options, "layer", None) == "each":
        raise UsageError("--save keeps one classifier; give --layer another value than each")

    from ajepa.eval.classifiers.folder import check_save

    check_save(folder)


def _tasks(options: argparse.Namespace, how: type[Protocol]) -> dict[str, dict[str, Any]]:
    """The tasks as a comparison's file has them."""
    if how.reads == "data":
        entry = {"data": str(options.data), **tasks.given(options)}
        if options.kind == "events":
            entry |= dict.fromkeys(EVENT_OPTIONS.get(options.task, ()), True)
        return {options.task: entry}
    if how.reads == "hear":
        folders = sorted(path.parent for path in options.tasks_dir.glob("*/task_metadata.json"))
        found = {path.name: {"hear": str(path)} for path in folders if options.task in (None, path.name)}
        if not found:
            wanted = f" {options.task}" if options.task else ""
            raise UsageError(f"{options.tasks_dir}: no HEAR task{wanted}; `ajepa data hear-task` makes one")
        return found
    if how.reads == "verify":
        return {options.trials.stem: {"verify": str(options.trials)}}
    folder = options.data / options.task if how.reads == "xares" else options.data
    return {options.task: {how.reads: str(folder)}}


def _settings(given: dict[str, Any], how: type[Protocol]) -> dict[str, Any]:
    """The protocol's settings as a comparison's file has them: options that are its fields, and --set."""
    taken = {one.name for one in fields(how)}
    pairs: Iterable[tuple[str, str]] = given.pop("set", ())
    settings = {"set": dict(pairs)} if "set" in taken else dict(pairs)
    return settings | {name: given[name] for name in taken & given.keys() - {"set"}}
