"""Tasks from data sets of Hugging Face: saved on disk by the package `datasets`, or by name from the Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ajepa.audio.source import AudioBytes
from ajepa.data.cells import CellsError, as_text
from ajepa.data.labelled import LABEL_COLUMNS, SPLIT_NAMES, Assigned, find_assigned, labelled_rows
from ajepa.data.tables import LABEL_SEPARATOR, Table, check_separator, listed

from .labelled import make_task
from .task import Task, TaskError

SCHEME = "hf://datasets/"
ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w.-]+))?")
SAVED = ("dataset_dict.json", "state.json")  # by `save_to_disk`, of several splits and of one
ROW, SPLIT = "row in the data set", "split of the data set"  # columns that are added
BLOCK = 256  # rows


def open_hf(
    data: str | Path,
    *,
    label: str | None = None,
    fold: str | None = None,
    split: str | None = None,
    group: str | None = None,
    multilabel: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    segments: bool = False,
) -> Task:
    """A task from a data set of the package `datasets`.

    The audio is the column of the type Audio, and is decoded by this package. The splits are the data set's
    own, under their usual names; a data set of one split is split by its column `fold` or `split`, or anew.

    Args:
        data: a folder that `save_to_disk` wrote or `load_dataset` reads, a .parquet file, or
            hf://datasets/owner/name[@revision][/configuration].
        label: column of the labels; None is `label`, `labels`, or the only column of the type ClassLabel.
        fold, split: columns, or "auto", instead of the data set's splits; as in `open_table`.
        group, multilabel, label_separator, segments: as in `open_table`.

    Raises:
        TaskError: the package or the data set is missing, it lacks a column, or a cell cannot be used.
    """
    text = str(data)
    check_separator(Path(text), label_separator, multilabel)
    address = Address.of(text)
    parts = _loaded(text, address)
    notes = [f"the data set {address.repository} of the Hub" if address else "the user's own data set"]
    own_splits = len(parts) > 1 and fold is None and split is None
    if own_splits:
        parts = _known_splits(text, parts, notes)
    first = next(iter(parts.values()))
    audio = _audio_column(text, first)
    # A split that is made is written next to the data set, or for one of the Hub into the current folder.
    source = Path(address.name) if address else Path(text).absolute()
    name = address.name if address else source.stem if source.is_file() else source.name
    rows: list[dict[str, str]] = []
    located: dict[str, tuple[Path, AudioBytes | None]] = {}
    for part, dataset in parts.items():
        cells, places = _cells(dataset, audio, label_separator), _audio(dataset, audio, f"{name}/{part}")
        try:
            for number, (row, place) in enumerate(zip(cells, places, strict=True)):
                rows.append({**row, ROW: f"{part}/{number}", SPLIT: part})
                located[f"{part}/{number}"] = place
        except CellsError as error:
            raise TaskError(f"{data}: {error}") from error
    if not rows:
        raise TaskError(f"{data}: the data set has no rows")
    table = Table(source, [column for column in rows[0] if column not in (ROW, SPLIT)], rows)
    assigned = Assigned(SPLIT) if own_splits else find_assigned(table, fold, split)
    found = labelled_rows(
        table,
        ROW,
        located,
        label=label or _label_column(first),
        assigned=assigned or Assigned(None),
        group=group,
        label_separator=label_separator if multilabel else None,
        segments=segments,
    )
    return make_task(
        source,
        found.clips,
        name=name,
        folds=found.folds,
        split=split,
        multilabel=multilabel,
        segments=found.segments,
        path_column="row",
        notes=[*notes, *found.notes],
    )


class Address(NamedTuple):
    """A data set on the Hub."""

    repository: str
    revision: str | None
    configuration: str | None

    @classmethod
    def of(cls, text: str) -> Address | None:
        """None for a path. Raises TaskError for an address of another form."""
        if not text.startswith("hf:"):
            return None
        if found := ADDRESS.fullmatch(text):
            return cls(*found.groups())
        raise TaskError(
            f"{text}: is no data set of the Hub; give {SCHEME}owner/name[@revision][/configuration]"
        )

    @property
    def name(self) -> str:
        """Without the owner."""
        return "-".join(
            [self.repository.split("/")[1], *([self.configuration] if self.configuration else [])]
        )


def _loaded(data: str, address: Address | None) -> dict[str, Any]:
    """The splits of a data set by name, each a `datasets.Dataset`."""
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"{data}: needs the package datasets: pip install 'ajepa[datasets]' ({error})"
        ) from error
    path = Path(data)
    if address is None and not path.exists():
        raise TaskError(f"{data}: does not exist; give what save_to_disk wrote, or {SCHEME}owner/name")
    # Its client reports each retry; the error that follows is enough.
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)
    try:
        if address:
            found = datasets.load_dataset(
                address.repository, address.configuration, revision=address.revision
            )
        elif any((path / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(data)
        elif path.suffix == ".parquet":
            found = datasets.Dataset.from_parquet(data)
        else:
            found = datasets.load_dataset(data)
    except Exception as error:  # many kinds, those of its HTTP clients included
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "; check its name and the network" if address else ""
        raise TaskError(f"{data}: datasets cannot load it ({reason[:300]}){hint}") from error
    finally:
        client.setLevel(level)
    return dict(found) if isinstance(found, Mapping) else {str(found.split or "all"): found}


def _known_splits(data: str, parts: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The splits for training, validation and testing; the others are noted."""
    known = {name: part for name, part in parts.items() if name.lower() in SPLIT_NAMES}
    others = [name for name in parts if name not in known]
    if not known:
        raise TaskError(f"{data}: its splits are {listed(others)}; name a column with --split, or pass auto")
    if others:
        notes.append(f"the splits {listed(others)} are left out")
    return known


def _audio_column(data: str, dataset: Any) -> str:
    """The column of the type Audio, or of what it is stored as."""
    from datasets import Audio

    typed = [name for name, kind in dataset.features.items() if isinstance(kind, Audio)]
    stored = [
        name
        for name, kind in dataset.features.items()
        if isinstance(kind, dict) and {"bytes", "path"} <= set(kind)
    ]
    found = typed or stored
    if len(found) > 1 and "audio" in found:
        return "audio"
    if len(found) != 1:
        problem = f"columns {listed(found)} hold audio" if found else "no column holds audio"
        raise TaskError(f"{data}: {problem}; its columns are {listed(list(dataset.features))}")
    return str(found[0])


def _label_column(dataset: Any) -> str | None:
    """The only column of the type ClassLabel, if none is called as usual."""
    from datasets import ClassLabel

    typed = [name for name, kind in dataset.features.items() if isinstance(kind, ClassLabel)]
    usual = [name for name in dataset.features if name.lower() in LABEL_COLUMNS]
    return str(typed[0]) if len(typed) == 1 and not usual else None


def _cells(dataset: Any, audio: str, joint: str) -> Iterator[dict[str, str]]:
    """The other columns of each row as text, classes by their names."""
    names = [name for name in dataset.features if name != audio]
    kinds = {name: _classes(dataset.features[name]) for name in names}
    if not names:
        yield from ({} for _ in range(len(dataset)))
        return
    rows = dataset.select_columns(names).with_format(None)
    for first in range(0, len(rows), BLOCK):
        columns = rows[first : first + BLOCK]
        for values in zip(*(columns[name] for name in names), strict=True):
            yield {
                name: as_text(_named(value, kinds[name]), joint)
                for name, value in zip(names, values, strict=True)
            }


def _classes(kind: Any) -> list[str] | None:
    """Names of a column's classes, also of lists of them."""
    inner = getattr(kind, "feature", kind[0] if isinstance(kind, list) and kind else kind)
    return getattr(inner, "names", None)


def _named(value: Any, classes: list[str] | None) -> Any:
    if classes is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(one, classes) for one in value]
    return classes[value] if 0 <= value < len(classes) else ""  # -1: the Hub's answers are secret


def _audio(dataset: Any, column: str, name: str) -> Iterator[tuple[Path, AudioBytes | None]]:
    """Each row's file, and its audio within it; of audio in files of its own the path alone."""
    rows = dataset.select_columns([column]).with_format("arrow")
    stored = [Path(file["filename"]) for file in dataset.cache_files]
    row = 0
    for first in range(0, len(rows), BLOCK):
        for cells in rows[first : first + BLOCK][column].chunks:  # joined, they would be copied
            contents = cells.field("bytes")
            for place, path in enumerate(cells.field("path").to_pylist()):
                if contents[place].is_valid:
                    size = contents[place].as_buffer().size
                    inside = AudioBytes(f"{name}/{row}", size, partial(_read, rows, column, row))
                    yield (stored or [Path()])[0], inside
                elif path:
                    yield Path(path), None
                else:
                    raise TaskError(f"{name}/{row}: the row has no audio; remove it")
                row += 1


def _read(rows: Any, column: str, row: int, offset: int, count: int) -> bytes:
    """Bytes of a row's audio; Arrow reads them from the data set's file."""
    stored = rows[row][column].chunk(0).field("bytes")[0].as_buffer()
    return bytes(stored[offset : offset + count])
