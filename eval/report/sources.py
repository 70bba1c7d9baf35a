"""Sorts what a report is given into runs and records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ajepa.eval.results.record import Record, read_records
from ajepa.named_source import name_of, named_source

from .errors import ReportError

DRAWING = "visualize.json"


class Found(NamedTuple):
    """A record, and the folder that the names of its files start at."""

    record: Record
    folder: Path

    def files(self, what: str) -> list[Path]:
        """Its files of answers or features, one for each pre-training run."""
        return [self.folder / name for name in getattr(self.record, what)]


class Sources(NamedTuple):
    """What a report is about: runs by name, records, and folders that `ajepa visualize` wrote."""

    runs: dict[str, Path]
    records: list[Found]
    drawings: list[Path]


def sort_sources(sources: Sequence[str]) -> Sources:
    """Each path by what it holds.

    Args:
        sources: a run's folder, or NAME=FOLDER; a comparison's folder (the one that holds `records.json`);
            a file of records; the folder of a drawing.

    Raises:
        ReportError: a path is none of these, or two runs have one name.
        RecordError: a file of records cannot be read.
    """
    runs: dict[str, Path] = {}
    records: list[Found] = []
    drawings = []
    for text in sources:
        name, source = named_source(text)
        path = Path(source)
        if (path / "metrics.jsonl").is_file() or (path / "recipe.yaml").is_file():
            name = name or name_of(str(path.absolute()))
            if name in runs:
                raise ReportError(
                    f"{runs[name]} and {path} are both called {name}; tell them apart by NAME=FOLDER"
                )
            runs[name] = path
        elif (path / DRAWING).is_file():
            drawings.append(path)
        elif path.is_file() or (path / "records.json").is_file():
            file = path if path.is_file() else path / "records.json"
            records += [Found(record, file.parent) for record in read_records(file)]
        else:
            raise ReportError(
                f"{path}: nothing to report; give the folder of a run, the --out of `ajepa compare` or "
                "`ajepa evaluate` or `ajepa visualize`, or a file of records"
            )
    return Sources(runs, records, drawings)
