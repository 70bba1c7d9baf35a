"""The rows of a comparison as Markdown and CSV: ours, failures, and what others have published."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ajepa.eval.results.published import published
from ajepa.eval.results.result import interval_text

from .cells import Failure


def table_rows(
    records: Sequence[dict[str, Any]], complete: Mapping[str, str], failures: Sequence[Failure]
) -> list[dict[str, str]]:
    """The table's rows.

    Args:
        complete: the published task's name of each task whose data are complete: only those stand beside
            published scores.
    """
    rows = []
    for record in records:
        over = ""
        if "baseline" in record:
            compared = record["baseline"]
            below, above = compared["interval"]
            over = f"{compared['difference']:+.3f} ({below:+.3f} to {above:+.3f})"
        rows.append(
            _row(record["model"], record["task"], record["protocol"], f"{record['score']:.3f}")
            | {"interval": interval_text(record), "over the baseline": over}
            | {"clips/s": f"{record['clips_per_s']:.0f}", "remark": "; ".join(record["notes"])}
        )
    for failure in failures:
        reason = f"failed: {failure.reason}"
        rows.append(_row(failure.model, failure.task, failure.protocol, "-") | {"remark": reason})
    ours = ((record["task"], record["protocol"], record["protocol_kind"]) for record in records)
    for task, protocol, kind in dict.fromkeys(ours):
        for entry in published(complete.get(task, ""), kind):
            remark = f"published: {entry.source}"
            rows.append(_row(entry.model, task, protocol, f"{entry.score:.3f}") | {"remark": remark})
    return rows


def _row(model: str, task: str, protocol: str, score: str) -> dict[str, str]:
    empty = {"interval": "", "over the baseline": "", "clips/s": "", "remark": ""}
    return {"task": task, "protocol": protocol, "model": model, "score": score} | empty


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(text.replace("|", "/") for text in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    """The table as CSV."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
