"""Scores as tables: rows of text, printed as plain text, Markdown or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from .record import Record

Row = dict[str, str]


def row(record: Record, layer: bool = False) -> Row:
    """A record's row. With `layer`, the model's name includes the layer if it is not the last."""
    over = ""
    if record.baseline is not None:
        low, high = record.baseline.interval
        over = f"{record.baseline.difference:+.3f} ({low:+.3f} to {high:+.3f})"
    return {
        "task": record.task,
        "protocol": record.protocol,
        "model": record.model + (f" ({record.layer})" if layer and record.layer != "last" else ""),
        "score": f"{record.score:.3f}",
        "interval": interval_text(record),
        "over the baseline": over,
        "seconds": "" if record.seconds is None else f"{record.seconds:.1f}",
        "clips/s": "" if record.clips_per_s is None else f"{record.clips_per_s:.0f}",
        "remark": "; ".join(record.notes),
    }


def interval_text(record: Record) -> str:
    """The interval; for a score without one, its standard deviation over folds or pre-trainings."""
    if record.interval is None:
        over = "pre-trainings" if len(record.pretraining) > 1 else "folds"
        return "" if record.spread is None else f"± {record.spread:.3f} over {over}"
    low, high = record.interval
    return f"{low:.3f} to {high:.3f}"


def table(records: Sequence[Record]) -> str:
    """A text table, one line per record, without remarks."""
    rows = [row(record, layer=True) for record in records]
    for one in rows:
        del one["remark"]
    return text(rows)


def robustness_table(records: Sequence[Record]) -> str:
    """A text table: scores of corrupted clips, with their intervals, and the area under the noise curve."""
    rows = []
    for record in records:
        if record.corrupted:
            one = {"task": record.task, "protocol": record.protocol, "model": record.model}
            one["clean"] = f"{record.score:.3f}"
            for corrupted in record.corrupted:
                one[corrupted.corruption] = _scored(corrupted.score, corrupted.interval)
            if area := record.noise_area:
                one["noise area"] = _scored(area.score, area.interval)
            rows.append(one)
    return text(rows)


def _scored(score: float, interval: tuple[float, float] | None) -> str:
    return f"{score:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def by_task(records: Sequence[Record]) -> str:
    """A text table: one row per model, one column per task, score ± standard deviation."""
    rows: dict[str, Row] = {}
    for record in records:
        spread = "" if record.spread is None else f" ± {record.spread:.3f}"
        cells = rows.setdefault(record.model, {"model": record.model})
        cells[record.task] = f"{record.score:.3f}{spread}"
    return text(list(rows.values()))


def text(rows: Sequence[Row]) -> str:
    """Columns of equal width, headed by the keys of all rows."""
    names = list(dict.fromkeys(name for one in rows for name in one))
    widths = {name: max(len(name), *(len(one.get(name, "")) for one in rows)) for name in names}
    lines = [{name: name for name in names}, {name: "-" * widths[name] for name in names}, *rows]
    return "\n".join(
        "  ".join(line.get(name, "").ljust(widths[name]) for name in names).rstrip() for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in one.values()) + " |" for one in rows]
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The table as CSV."""
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()
