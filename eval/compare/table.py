"""The rows of a comparison's table: its scores, its failures, and what others have published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ajepa.eval.results.published import published
from ajepa.eval.results.record import Record
from ajepa.eval.results.table import Row, row

from .cells import Failure


def table_rows(
    records: Sequence[Record], complete: Mapping[str, str], failures: Sequence[Failure]
) -> list[Row]:
    """The table's rows.

    Args:
        complete: for each task with complete data, the published task's name: only these are listed with
            published scores.
    """
    cells = [(record.model, record.task, record.protocol) for record in records]
    # A model's name includes the layer only if one cell has several layers.
    rows = [row(record, layer=cells.count(cell) > 1) for record, cell in zip(records, cells, strict=True)]
    for failure in failures:
        rows.append(_row(failure.model, failure.task, failure.protocol, "-", f"failed: {failure.reason}"))
    ours = ((record.task, record.protocol, record.protocol_kind) for record in records)
    for task, protocol, kind in dict.fromkeys(ours):
        for entry in published(complete.get(task, ""), kind):
            remark = f"published: {entry.source}"
            rows.append(_row(entry.model, task, protocol, f"{entry.score:.3f}", remark))
    return rows


def _row(model: str, task: str, protocol: str, score: str, remark: str) -> Row:
    empty = {"interval": "", "over the baseline": "", "seconds": "", "clips/s": ""}
    return {"task": task, "protocol": protocol, "model": model, "score": score, **empty, "remark": remark}
