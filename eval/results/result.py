"""A result: its record, and the bootstrap draws by which it is compared with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ajepa.files import write_json

from .scores import interval, two_sided


class Result(NamedTuple):
    """A record, and the bootstrap draws [S] of its score, by which it is compared with others."""

    record: dict[str, Any]
    draws_S: Tensor


def compare_with(results: Sequence[Result], baseline: str, by: str = "model") -> None:
    """Adds to the records of one task how far each is above the baseline's (of its layer, else its last).

    Args:
        results: those without draws are not compared.
        baseline: a model's name; or with `by="protocol"` a protocol's, whose results are of the same model.
    """
    drawn = [result for result in results if len(result.draws_S)]
    of_baseline = {r.record["layer"]: r for r in drawn if r.record[by] == baseline}
    for record, draws_S in drawn:
        if record[by] == baseline or not of_baseline:
            continue
        other = of_baseline.get(record["layer"]) or list(of_baseline.values())[-1]
        difference_S = draws_S - other.draws_S
        record["baseline"] = {
            by: baseline,
            "difference": record["score"] - other.record["score"],
            "interval": interval(difference_S),
            "p": two_sided(difference_S),
            "method": f"the same bootstrap draws for both {by}s",
        }


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One record as an object, several as a list; atomically."""
    write_json(path, records[0] if len(records) == 1 else list(records))


def interval_text(record: dict[str, Any]) -> str:
    """The interval; of a score without one its standard deviation over folds or pre-trainings."""
    if record["interval"] is None:
        over = "pre-trainings" if len(record.get("pretraining", {}).get("seeds", [])) > 1 else "folds"
        return "" if record["spread"] is None else f"± {record['spread']:.3f} over {over}"
    low, high = record["interval"]
    return f"{low:.3f} to {high:.3f}"


def table(records: Sequence[dict[str, Any]]) -> str:
    """A text table, one line for each record."""
    rows = [
        ["model", "task", "protocol", "score", "95 % interval", "over the baseline", "seconds", "clips/s"]
    ]
    for record in records:
        model = record["model"] + ("" if record["layer"] == "last" else f" ({record['layer']})")
        over = ""
        if "baseline" in record:
            low, high = record["baseline"]["interval"]
            over = f"{record['baseline']['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append(
            [
                model,
                record["task"],
                record["protocol"],
                f"{record['score']:.3f}",
                interval_text(record),
                over,
                f"{record['probe_seconds']:.1f}",
                f"{record['clips_per_s']:.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
