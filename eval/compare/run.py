"""Models times tasks times protocols; finished cells are not run again.

The file is described in `ajepa.eval.compare.config`. Every cell stores its record and its bootstrap draws in
files named by a hash of the weights, the task and the options. A cell that fails, or whose process is killed,
is reported, and the others still run. The same command continues where it stopped; two that run at the same
time on the same folder share the work. `ajepa evaluate` is a comparison written on the command line.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from ajepa.caches import cache_folder
from ajepa.eval.classifiers.folder import is_kept
from ajepa.eval.progress import say
from ajepa.eval.protocols import Conditions
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.record import Record, write_records
from ajepa.eval.results.result import Result, compare_with
from ajepa.eval.results.table import as_csv, interval_text, markdown
from ajepa.files import expanded, write

from .cells import KILLED, Cell, Failure, Shelf, grouped, plan
from .config import Comparison, ComparisonError
from .engines import Engine, ThisProcess
from .pretraining import Run, joined, run_all
from .table import table_rows

__all__ = ["Comparison", "ComparisonError", "Failure", "compare", "evaluate"]


def compare(
    comparison: Comparison,
    out: str | Path,
    cache: str | Path | None = None,
    *,
    engine: Engine | None = None,
    device: str | None = None,
    threads: int | None = None,
    jobs: int = 1,
    runs_folder: str | Path | None = None,
) -> tuple[list[Record], list[Failure]]:
    """Run the unfinished cells, and write `records.json`, `table.md` and `table.csv` into `out`.

    Args:
        out: folder of the results; the same for several machines, on a file system with locks.
        cache: folder of the embeddings; None: that of `ajepa cache`.
        engine: where cells run; None is this process.
        device: where models run; None is the CPU.
        threads: threads of each process; None leaves the number as it is.
        jobs: number of pre-trainings at a time, which run on this machine.
        runs_folder: folder of the pre-trainings, which comparisons may share; None is `runs` in `out`.

    Returns:
        The records, task by task, and the failures.
    """
    # Absolute paths: other machines and processes may start in other folders.
    out = Path(out).resolve()
    Shelf(out).tidy()
    conditions = Conditions(out, _cache(cache), comparison.precision, device, threads)
    runs = comparison.runs(Path(runs_folder or out / "runs").resolve())
    sources = comparison.sources() | {name: run.source for name, run in runs.items()}
    lost = run_all(list(runs.values()), jobs=jobs, threads=threads)
    cells, failures, complete = plan(comparison, sources, lost, conditions)
    _say_failed(failures)
    failures += _run(cells, conditions, engine or ThisProcess())
    records = _records(cells, Shelf(out), comparison, runs)
    with Shelf(out).lock("tables"):
        write_records(out / "records.json", records)
        rows = table_rows(records, complete, failures)
        write(out / "table.md", markdown(rows))
        write(out / "table.csv", as_csv(rows))
    return records, failures


def evaluate(
    comparison: Comparison,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    *,
    device: str | None = None,
    keep: Callable[[list[Record]], None] = lambda records: None,
    save: Path | None = None,
) -> tuple[list[Record], list[Failure]]:
    """Run a comparison of existing models, in this process. Tasks keep the names that their data give.

    Args:
        out: folder of the results, from which the same call continues; None keeps nothing.
        keep: called with all records so far whenever a cell ends.
        save: folder for the classifier of the one cell; a finished cell whose classifier is not there runs
            again.

    Raises:
        EvaluationError: a model, a task or a toolkit cannot be used; nothing was run.
    """
    with nullcontext(out) if out is not None else TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder).resolve())
        shelf.tidy()
        conditions = Conditions(shelf.folder, _cache(cache), comparison.precision, device, save=save)
        cells, refused, _ = plan(comparison, comparison.sources(), {}, conditions)
        if refused:
            raise EvaluationError(refused[0].reason)
        for cell in cells if save is not None else ():
            if shelf.finished(cell) and not is_kept(conditions.save, shelf.read(cell)[0].record):
                shelf.reopen(cell)

        def records() -> list[Record]:
            return _records(cells, shelf, comparison, {}, rename_tasks=False)

        failures = _run(cells, conditions, ThisProcess(), lambda: keep(records()))
        found = records()
        keep(found)
        if out is not None:
            write_records(shelf.folder / "records.json", found)
        return found, failures


def _cache(folder: str | Path | None) -> Path:
    """The folder of the embeddings as an absolute path."""
    return expanded(folder or cache_folder("embeddings")).resolve()


def _records(
    cells: Sequence[Cell],
    shelf: Shelf,
    comparison: Comparison,
    runs: Mapping[str, Run],
    rename_tasks: bool = True,
) -> list[Record]:
    """The records of the finished cells, by task, then protocol, with differences from the baseline."""
    finished = [cell for cell in cells if shelf.finished(cell)]
    results = joined([result for cell in finished for result in shelf.read(cell, rename_tasks)], runs)
    return [result.record for result in _compared(results, comparison)]


def _run(
    cells: Sequence[Cell], conditions: Conditions, engine: Engine, ended: Callable[[], None] = lambda: None
) -> list[Failure]:
    """Run the unfinished cells; reports each cell that ends, and calls `ended` after one that is finished."""
    shelf, failures = Shelf(conditions.folder), []
    open_cells = [cell for cell in cells if not shelf.finished(cell)]
    for cell in open_cells:
        shelf.forget(cell)  # why it failed the last time
    waiting = deque(grouped(open_cells, engine.split))
    try:
        while True:
            while waiting and engine.has_room():
                engine.start(waiting.popleft(), conditions)
            if not (over := engine.ended()):
                break
            for group, ending in over:
                failed, untried = [], []
                for cell in group:
                    if shelf.finished(cell):
                        say(f"{cell}: {_scores(shelf.read(cell))}")
                        ended()
                    elif reason := shelf.failure(cell):
                        reason = ending if reason == KILLED and ending else reason
                        failed.append(Failure.of(cell, reason))
                    else:
                        untried.append(cell)
                if len(untried) == len(group):  # it ended before its first cell: trying again is of no use
                    failed = [Failure.of(cell, ending or "it was not started") for cell in group]
                elif untried:  # the process was killed at the cell before them
                    waiting.append(untried)
                failures += failed
                _say_failed(failed)
    finally:
        engine.stop()  # after Ctrl-C; otherwise nothing is left
    return failures


def _scores(results: Sequence[Result]) -> str:
    layers = [f"layer {result.record.layer}: " if len(results) > 1 else "" for result in results]
    return "; ".join(
        f"{layer}{result.record.score:.3f} ({interval_text(result.record)})"
        for layer, result in zip(layers, results, strict=True)
    )


def _say_failed(failures: Sequence[Failure]) -> None:
    """Print a line for each model and reason: a model that cannot be opened fails in all its cells."""
    alike: dict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        alike[failure.model, failure.reason].append(failure)
    for (model, reason), (first, *more) in alike.items():
        others = f" and {len(more)} other cells" if more else ""
        say(f"failed: {model} on {first.task}, {first.protocol}{others}: {reason}")


def _compared(results: Sequence[Result], comparison: Comparison) -> list[Result]:
    """Compare models with the baseline on the same task and protocol, or protocols for the same model."""
    if comparison.baseline is None:
        return list(results)
    by, fixed = ("model", "protocol") if comparison.baseline in comparison.models else ("protocol", "model")
    keys = [(result.record.task, getattr(result.record, fixed)) for result in results]
    compared = {}
    for key in set(keys):
        members = [result for result, its in zip(results, keys, strict=True) if its == key]
        compared[key] = iter(compare_with(members, comparison.baseline, by))
    return [next(compared[key]) for key in keys]
