"""Imports run one way: a room imports from the rows below its own, and from no other.

import-linter does the same for packages on one path; here four rooms stand next to the package's folder.
Every import statement counts, those within functions too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "ajepa": "ajepa",
    "ajepa.hear_module": "hear_module",
    "ajepa.s3prl_upstream": "s3prl_upstream",
    "ajepa.evar_model": "evar_model",
    "ajepa.eval": "eval",
}
# From the ground up. Rooms of one row know nothing of each other.
ROWS = (
    ("errors", "schedules", "suggest", "distributed", "named_source", "memory"),
    ("files", "contents"),
    ("caches",),
    ("audio", "harness"),
    ("features", "data"),
    ("nn", "pages"),
    ("masking",),
    ("objectives",),
    ("recipes", "checkpoints"),
    ("model",),
    ("hf",),
    ("training", "export", "embed"),
    ("predict", "pictures", "search"),
    ("audit", "visualize"),
    ("hear_module", "s3prl_upstream", "evar_model"),
    ("eval",),
    ("cli",),
)


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *parts]), path


def imported(module: str, path: Path) -> Iterator[str]:
    """Full names of what a module imports; of `from . import x` the name with x."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{item.name}" for item in node.names)


def arrows(package: str) -> dict[tuple[str, str], str]:
    """The pairs (room, room that it imports from) of a package, each with a module that does so."""
    found = {}
    depth = package.count(".") + 1
    for module, path in modules():
        room = module.split(".")[depth : depth + 1]
        for name in imported(module, path):
            if name.startswith(f"{package}.") and module.startswith(f"{package}."):
                found[room[0], name.split(".")[depth]] = f"{module} imports {name}"
    return {pair: by for pair, by in found.items() if pair[0] != pair[1]}


def test_rooms_import_from_the_rows_below() -> None:
    row = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
    found = {pair: by for pair, by in arrows("ajepa").items() if pair[0] != "__init__"}  # lazy names
    assert len(found) > 50, "most imports were missed"
    assert {room for pair in found for room in pair} <= row.keys(), "give a new room a place in ROWS"
    assert [by for (room, other), by in found.items() if row[other] >= row[room]] == []


def test_rooms_of_the_evaluation_make_no_circle() -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    found = arrows("ajepa.eval")
    assert len(found) > 10, "most imports were missed"
    for room, other in found:
        sorter.add(room, other)
    sorter.prepare()  # raises CycleError, which names the circle
