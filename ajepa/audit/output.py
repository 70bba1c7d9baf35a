"""The findings of an audit as a table: CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ajepa.errors import AjepaError
from ajepa.files import in_place_of, write, write_json

from .clips import KINDS
from .run import Audit

ENDINGS = (".csv", ".json", ".parquet")
COLUMNS = {
    "kind": pa.string(),
    "path": pa.string(),
    "start": pa.float64(),
    "seconds": pa.float64(),
    "note": pa.string(),
    "value": pa.float64(),
    "split": pa.string(),
    "label": pa.string(),
    "suggestion": pa.string(),
    "copy_of": pa.string(),
    "copy_of_start": pa.float64(),
    "copy_of_split": pa.string(),
    "leak": pa.bool_(),
}


class AuditError(AjepaError, ValueError):
    """An audit cannot be made or written as asked; the message says what to do."""


def check_ending(out: Path) -> None:
    """Raises AuditError for a name that does not say what is written."""
    if out.suffix.lower() not in ENDINGS:
        raise AuditError(f"--out {out}: name a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")


def rows(found: Audit) -> list[dict[str, Any]]:
    """A row for each finding, with the columns of COLUMNS; what does not apply is None."""
    made = []
    for finding in found.findings:
        clip = found.clips[finding.clip]
        other = None if finding.other is None else found.clips[finding.other]
        made.append(
            {
                "kind": finding.kind,
                "path": clip.path,
                "start": clip.start,
                "seconds": clip.seconds,
                "note": finding.note,
                "value": float(finding.value),
                "split": clip.split or None,
                "label": clip.label or None,
                "suggestion": finding.suggestion or None,
                "copy_of": other and other.path,
                "copy_of_start": other and other.start,
                "copy_of_split": other and (other.split or None),
                "leak": finding.leak,
            }
        )
    return made


def write_table(found: Audit, out: Path) -> None:
    """Write the findings, whole or not at all; JSON also says what was looked at."""
    kind = out.suffix.lower()
    if kind == ".json":
        kinds = {name: explanation for name, (_, explanation) in KINDS.items()}
        about = {"clips": len(found.clips), "seconds": found.seconds, "kinds": kinds}
        write_json(out, about | {"findings": rows(found)})
    elif kind == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows(rows(found))
        write(out, text.getvalue().encode("utf-8", errors="surrogateescape"))
    else:
        with in_place_of(out) as partial:
            pq.write_table(pa.Table.from_pylist(rows(found), pa.schema(COLUMNS)), partial)
