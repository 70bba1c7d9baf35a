"""`ajepa data get` and `ajepa data ids`: public data sets, and the clips of a copy."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `ajepa data`."""
    get = commands.add_parser(
        "get",
        help="fetch a public data set, checked and unpacked",
        description="The same command continues after an interruption and skips what is complete.",
    )
    get.add_argument("dataset", choices=["esc50", "speech_commands_v1", "speech_commands_v2"])
    get.add_argument(
        "--out", type=Path, required=True, help="the folder that the data set's folder goes into"
    )
    get.add_argument(
        "--url",
        help="a mirror: address of a folder with the archives under their official names, ending in /",
    )
    get.set_defaults(run=run_get)

    ids = commands.add_parser(
        "ids",
        help="list your clips of AudioSet, so that others can score on the same clips",
        description="--id-list of `ajepa evaluate` reads the file.",
    )
    ids.add_argument("dataset", choices=["audioset_20k", "audioset_2m"])
    ids.add_argument("--source", type=Path, required=True, help="the data set's folder")
    ids.add_argument("--out", type=Path, required=True, help="the list to write, one ID per line")
    ids.set_defaults(run=run_ids)


def run_get(options: argparse.Namespace) -> None:
    """`ajepa data get`."""
    from tqdm import tqdm

    from ajepa.eval.tasks import public

    bars: dict[str, tqdm[Any]] = {}
    with ExitStack() as stack:

        def report(what: str, unit: str, done: int, total: int | None) -> None:
            if what not in bars:
                bar = tqdm(desc=what, unit=unit, unit_scale=unit == "B", disable=None)
                bars[what] = stack.enter_context(bar)
            bars[what].total = total
            bars[what].update(done - bars[what].n)

        got = public.get(options.dataset, options.out, url=options.url, report=report)
    for folder, evidence in got:
        print(f"{folder}: {evidence}")
    print(f"use it: ajepa evaluate --task {options.dataset} --data {got[0][0]} --model MODEL")


def run_ids(options: argparse.Namespace) -> None:
    """`ajepa data ids`."""
    from ajepa.eval.tasks import open_task
    from ajepa.files import write

    task = open_task(options.dataset, options.source)
    lines = [f"# {note}" for note in task.notes] + sorted(clip.group for clip in task.clips)
    write(options.out, "".join(f"{line}\n" for line in lines))
    print(f"{options.out}: {len(task.clips):,} clips")
    for note in task.notes:
        print(f"  {note}")
