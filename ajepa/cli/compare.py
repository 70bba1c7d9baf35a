"""`ajepa compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .device import check_device
from .evaluate import CONTINUES
from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.eval.compare.engines import Engine


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    compare = commands.add_parser(
        "compare",
        help="score models on tasks by protocols, all from one file",
        description="Score models on tasks by protocols, all from one file (docs/compare.md describes it). "
        "Finished parts are not run again: the same command continues a stopped comparison.",
    )
    compare.add_argument("file", type=Path, metavar="FILE.yaml", help="models, tasks and protocols")
    compare.add_argument(
        "--out", type=Path, required=True, help="folder for the cells, records.json, table.md and table.csv"
    )
    compare.add_argument("--cache", type=Path, help="folder of embeddings; default: that of `ajepa cache`")
    compare.add_argument(
        "--runs",
        type=Path,
        metavar="FOLDER",
        help="folder of the models that are pre-trained for it; comparisons with the same folder share their "
        "common runs; default: runs in --out",
    )
    compare.add_argument("--device", default=None, help="device of the models, such as cuda; default: cpu")
    compare.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes, which share the threads; with --submitit jobs at a time; default: 1, with SLURM all",
    )
    compare.add_argument(
        "--submitit",
        type=Path,
        metavar="FOLDER",
        help="run on a SLURM cluster through submitit (pip install 'ajepa[cluster]'), whose files and logs "
        "go into FOLDER; all machines must see FOLDER, --out and --cache",
    )
    compare.add_argument(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the jobs: timeout_min, cpus_per_task, gpus_per_node, mem_gb, or SLURM's own, "
        "such as partition",
    )
    compare.set_defaults(run=run_compare)


def run_compare(options: argparse.Namespace) -> int:
    """`ajepa compare`; 1 where a cell failed."""
    import torch

    from ajepa.eval.compare.run import Comparison, compare
    from ajepa.eval.results.table import robustness_table, table
    from ajepa.files import check_folder

    comparison = Comparison.read(options.file)
    for name in ("out", "runs", "cache", "submitit"):
        if (folder := getattr(options, name)) is not None:
            check_folder(folder, f"--{name}")
    if not options.submitit:  # otherwise the jobs' machines need it, not this one
        check_device(options.device)
    engine, several = _engine(options), (options.jobs or 1) > 1
    try:
        records, failures = compare(
            comparison,
            options.out,
            options.cache,
            engine=engine,
            device=options.device,
            threads=max(1, torch.get_num_threads() // options.jobs) if several else None,
            jobs=options.jobs or 1,
            runs_folder=options.runs,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(CONTINUES) from None
    print(table(records))
    if any(record.corrupted for record in records):
        print(f"\n{robustness_table(records)}")
    print(f"\n{options.out / 'table.md'}: {len(records)} cells, {len(failures)} failed")
    return 1 if failures else 0


def _engine(options: argparse.Namespace) -> Engine | None:
    from ajepa.eval.compare.engines import Processes, Submitit

    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs is {options.jobs}, must be at least 1")
    if options.submitit is None:
        if options.slurm:
            raise UsageError("--slurm needs --submitit FOLDER")
        return Processes(options.jobs) if (options.jobs or 1) > 1 else None
    parameters: dict[str, int | str] = {}
    for setting in options.slurm:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--slurm {setting}: give KEY=VALUE, such as timeout_min=240")
        parameters[key] = int(text) if text.isdigit() else text
    return Submitit(options.submitit, parameters, options.jobs)
