"""Models times tasks times protocols; what is finished is not run again.

The file is described in `ajepa.eval.compare.config`. Every cell leaves its record and its bootstrap draws in
files named by a hash of the weights, the task and the options. A cell that fails, or whose process is killed,
is reported, and the others are done. The same command goes on where it was stopped; two that run at the same
time on the same folder share the work.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ajepa.eval.probe.embeddings import DEFAULT_CACHE
from ajepa.eval.results.result import Result, compare_with, interval_text
from ajepa.files import write, write_json

from .cells import KILLED, Cell, Failure, Shelf, grouped, plan
from .config import Comparison, ComparisonError
from .engines import Engine, ThisProcess
from .pretraining import joined, run_all
from .protocols import Conditions
from .table import as_csv, markdown, table_rows

__all__ = ["Comparison", "ComparisonError", "Failure", "compare"]


def compare(
    comparison: Comparison,
    out: str | Path,
    cache: str | Path = DEFAULT_CACHE,
    *,
    engine: Engine | None = None,
    device: str | None = None,
    threads: int | None = None,
    jobs: int = 1,
    runs_folder: str | Path | None = None,
) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Run what is not finished, and write `records.json`, `table.md` and `table.csv` into `out`.

    Args:
        comparison: models, tasks and protocols.
        out: folder of the results; of several machines the same, on a file system with locks.
        cache: folder of the embeddings.
        engine: where cells are run; None is this process.
        device: where models are put; None is the CPU.
        threads: of each process; None leaves them as they are.
        jobs: pre-trainings at a time, which run on this machine.
        runs_folder: of the pre-trainings, which several comparisons may share; None is `runs` in `out`.

    Returns:
        The records, task by task, and what failed.
    """
    # Absolute: other machines and processes may start elsewhere.
    out, cache = Path(out).resolve(), Path(cache).expanduser().resolve()
    conditions = Conditions(out, cache, comparison.precision, device, threads)
    runs = comparison.runs(Path(runs_folder or out / "runs").resolve())
    sources = comparison.sources() | {name: run.source for name, run in runs.items()}
    lost = run_all(list(runs.values()), jobs=jobs, threads=threads)
    cells, failures, complete = plan(comparison, sources, lost, conditions)
    _say_failed(failures)
    failures += _run(cells, conditions, engine or ThisProcess())
    shelf = Shelf(out)
    results = joined([shelf.read(cell) for cell in cells if shelf.finished(cell)], runs)
    order = {name: place for place, name in enumerate([*comparison.tasks, *comparison.protocols])}
    results.sort(key=lambda result: (order[result.record["task"]], order[result.record["protocol"]]))
    _compare_with_baseline(results, comparison)
    records = [result.record for result in results]
    with shelf.lock("tables"):
        write_json(out / "records.json", records)
        rows = table_rows(records, complete, failures)
        write(out / "table.md", markdown(rows))
        write(out / "table.csv", as_csv(rows))
    return records, failures


def _run(cells: Sequence[Cell], conditions: Conditions, engine: Engine) -> list[Failure]:
    """Run what is not finished; says each cell that ends."""
    shelf, failures = Shelf(conditions.folder), []
    open_cells = [cell for cell in cells if not shelf.finished(cell)]
    for cell in open_cells:
        shelf.forget(cell)  # why it failed the last time
    waiting = deque(grouped(open_cells, engine.split))
    try:
        while True:
            while waiting and engine.has_room():
                engine.start(waiting.popleft(), conditions)
            if not (ended := engine.ended()):
                break
            for group, ending in ended:
                found = [_failed(cell, shelf, ending) for cell in group if not shelf.finished(cell)]
                for cell in group:
                    if shelf.finished(cell):
                        _say(f"{cell}: {_score(shelf.read(cell).record)}")
                untried = [cell for cell in group if not shelf.finished(cell) and not shelf.failure(cell)]
                if len(untried) == len(group):  # it ended before its first cell: no use in going on
                    reason = ending or "it was not started"
                    found = [Failure(c.model, c.entry.name, c.protocol, reason) for c in group]
                elif untried:  # the process was killed at the cell before them
                    waiting.append(untried)
                failed = [failure for failure in found if failure]
                failures += failed
                _say_failed(failed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; what is finished is kept, and the same command goes on") from None
    finally:
        engine.stop()  # after Ctrl-C; else nothing is left
    return failures


def _failed(cell: Cell, shelf: Shelf, ending: str) -> Failure | None:
    reason = shelf.failure(cell)
    if reason == KILLED and ending:
        reason = ending
    return Failure(cell.model, cell.entry.name, cell.protocol, reason) if reason else None


def _score(record: dict[str, Any]) -> str:
    return f"{record['score']:.3f} ({interval_text(record)})"


def _say_failed(failures: Sequence[Failure]) -> None:
    """A line for each model and reason: one that cannot be opened fails in all its cells."""
    alike: dict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        alike[failure.model, failure.reason].append(failure)
    for (model, reason), (first, *more) in alike.items():
        others = f" and {len(more)} other cells" if more else ""
        _say(f"failed: {model} on {first.task}, {first.protocol}{others}: {reason}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _compare_with_baseline(results: Sequence[Result], comparison: Comparison) -> None:
    """Models with the baseline on the same task by the same protocol; or protocols, of the same model."""
    if comparison.baseline is None:
        return
    by, fixed = ("model", "protocol") if comparison.baseline in comparison.models else ("protocol", "model")
    together: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        together[result.record["task"], result.record[fixed]].append(result)
    for members in together.values():
        compare_with(members, comparison.baseline, by)
