"""`ajepa cache`: what can be made again and is kept: embeddings, fetched shards, s3prl's lists."""

from __future__ import annotations

import argparse
from pathlib import Path

from .usage import UsageError

DAY = 86_400


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ajepa cache` and its commands."""
    cache = commands.add_parser(
        "cache", help="show, clear and limit what is kept and can be made again: embeddings, shards"
    ).add_subparsers(required=True, metavar="WHAT")
    show = cache.add_parser("show", help="folders, sizes and when they were last used")
    clear = cache.add_parser("clear", help="remove what is kept")
    clear.add_argument("kind", nargs="*", metavar="KIND", help="embeddings, shards or s3prl; default: all")
    clear.add_argument(
        "--older-than", type=float, default=0.0, metavar="DAYS", help="only what was not used for DAYS days"
    )
    limit = cache.add_parser(
        "limit", help="how much disk space embeddings may take; those longest unused are removed first"
    )
    limit.add_argument("gigabytes", type=float, metavar="GIGABYTES")
    for name, parser in cache.choices.items():
        parser.set_defaults(run=run_cache, action=name)
    for parser in (show, clear, limit):
        parser.add_argument("--folder", type=Path, help="a folder of embeddings that was named as --cache")


def run_cache(options: argparse.Namespace) -> None:
    """`ajepa cache`."""
    from ajepa import caches

    if options.folder is not None:
        folders = {"embeddings": options.folder}
    else:
        folders = {kind: caches.cache_folder(kind) for kind in caches.KINDS}
    if options.action == "limit":
        caches.set_limit(folders["embeddings"], options.gigabytes)
        print(f"{folders['embeddings']}: up to {options.gigabytes:g} GB")
    elif options.action == "clear":
        _clear(folders, options.kind, options.older_than)
    else:
        _show(folders)


def _show(folders: dict[str, Path]) -> None:
    import time

    from ajepa import caches

    for kind, folder in folders.items():
        found = caches.entries(folder)
        size = sum(entry.size for entry in found)
        line = f"{kind:10}  {_gigabytes(size):>9}  {len(found):>6} files  {folder}"
        if kind == "embeddings":
            line += f", up to {caches.limit_gigabytes(folder):g} GB"
        if found:
            ages = [(time.time() - entry.used) / DAY for entry in (found[-1], found[0])]
            line += f", last used {ages[0]:.0f} to {ages[1]:.0f} days ago"
        print(line)


def _clear(folders: dict[str, Path], kinds: list[str], days: float) -> None:
    from ajepa import caches

    if unknown := [kind for kind in kinds if kind not in folders]:
        raise UsageError(f"no cache is called {unknown[0]!r}; choose {', '.join(folders)}")
    if not days >= 0:
        raise UsageError(f"--older-than is {days}; give a number of days from 0")
    for kind in kinds or folders:
        sizes = [entry.size for entry in caches.clear(folders[kind], days * DAY)]
        print(f"{kind:10}  {_gigabytes(sum(sizes)):>9}  {len(sizes):>6} files removed from {folders[kind]}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
