"""`ajepa compare`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    compare = commands.add_parser("compare", help="score models on tasks by protocols, all from one file")
    compare.add_argument("file", type=Path, metavar="FILE.yaml", help="models, tasks and protocols")
    compare.add_argument(
        "--out", type=Path, required=True, help="folder for the cells, records.json, table.md and table.csv"
    )
    compare.add_argument(
        "--cache", type=Path, help="folder of embeddings; default: ~/.cache/ajepa/embeddings"
    )
    compare.set_defaults(run=run_compare)


def run_compare(options: argparse.Namespace) -> int:
    """`ajepa compare`; 1 where a cell failed."""
    from ajepa.eval.compare import Comparison, compare
    from ajepa.eval.embeddings import DEFAULT_CACHE
    from ajepa.eval.native import table

    records, failures = compare(Comparison.read(options.file), options.out, options.cache or DEFAULT_CACHE)
    print(table(records))
    print(f"\n{options.out / 'table.md'}: {len(records)} cells, {len(failures)} failed")
    return 1 if failures else 0
