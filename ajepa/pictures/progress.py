"""Where a run stands and what looks wrong, read from its folder while it trains or afterwards."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ajepa.checkpoints.layout import finished_encoder
from ajepa.recipes import Recipe, RecipeError, load_recipe
from ajepa.training.health import CollapseWatch

from .curves import CurvesError, read_metrics

State = Literal["starting", "running", "stopped", "finished"]

RECENT = 10  # lines of metrics behind the current rate
LATE_LINES, LATE_SECONDS = 5, 60  # no line for as long as this many lines take, and for so long: stalled
WAITING = 0.1  # share of the time that training waits for audio, from which on there is a warning
LINE = 2.0  # RankMe below it: the features lie on a line


@dataclass(frozen=True)
class Progress:
    """A run at one moment.

    Attributes:
        name: of its folder.
        recipe: what it trains.
        starts: its entries of run.json.
        rows: its lines of metrics.jsonl, in the order of steps.
        state: "starting" before the first line, "stopped" if it ended before its last step.
        silent: seconds since the last line.
    """

    name: str
    recipe: Recipe
    starts: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    state: State
    silent: float

    @property
    def step(self) -> int:
        """Steps done, as far as the log says."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def clips_per_s(self) -> float | None:
        """The rate of the last lines; None before there is one."""
        recent = _work(self.rows, self.recipe.optim.batch_size)[-RECENT:]
        seconds = sum(seconds for _, seconds in recent)
        return sum(clips for clips, _ in recent) / seconds if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """At the current rate; None before there is one."""
        rate = self.clips_per_s
        left = self.recipe.optim.steps - self.step
        return left * self.recipe.optim.batch_size / rate if rate else None

    @property
    def seconds_trained(self) -> float:
        """Over all starts, without the pauses between them."""
        return sum(seconds for _, seconds in _work(self.rows, self.recipe.optim.batch_size))


def read_progress(folder: Path) -> Progress:
    """Read a run's folder.

    Raises:
        RecipeError: it is not the folder of a run, or its recipe cannot be read.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise RecipeError(f"{folder}: no recipe.yaml in it; give the folder of a run, the recipe's run.out")
    recipe = _recipe(path, path.stat().st_mtime)
    try:
        rows = read_metrics(folder)
        silent = time.time() - (folder / "metrics.jsonl").stat().st_mtime
    except CurvesError:
        rows, silent = [], time.time() - path.stat().st_mtime
    name = folder.absolute().name
    return Progress(name, recipe, _starts(folder), rows, _state(folder, recipe, rows, silent), max(0, silent))


def warnings(progress: Progress) -> list[str]:
    """What looks wrong now, each with its remedy; the most urgent first."""
    return [*_halted(progress), *_collapsed(progress), *_slow(progress)]


def _halted(progress: Progress) -> Iterator[str]:
    last = progress.rows[-1] if progress.rows else {}
    for name, value in last.items():
        if not math.isfinite(value):
            yield (
                f"step {progress.step}: {name} is {value}. Try a lower optim.lr, a longer optim.warmup_steps "
                "or --run.precision 32-true"
            )
    if progress.state == "stopped":
        yield (
            f"the run ended at step {progress.step} of {progress.recipe.optim.steps}; the same command, "
            "`ajepa pretrain`, goes on from its last checkpoint"
        )
    elif progress.state == "running" and progress.silent > max(
        LATE_SECONDS, LATE_LINES * _line_seconds(progress)
    ):
        yield (
            f"no new line for {duration(progress.silent)}, though the process is there: it waits for "
            "audio, for another process or for the disk, or it hangs"
        )


def _collapsed(progress: Progress) -> Iterator[str]:
    latest: dict[str, float] = {}
    for row in progress.rows:
        latest |= {name: row[name] for name in ("rankme", "probe") if name in row}
    rank = latest.get("rankme", math.inf)
    if rank < LINE:
        yield (
            f"the features have collapsed: RankMe is {rank:.2f}, so they lie on a line. "
            f"{progress.recipe.objective.advice}"
        )
    else:
        yield from CollapseWatch(progress.rows, progress.recipe.objective).low.values()
    first = next((row["probe"] for row in progress.rows if "probe" in row), -math.inf)
    if latest.get("probe", first) < first:
        yield (
            f"the probe, {latest['probe']:.3f}, is below its first value, {first:.3f}, that of random "
            "weights; `ajepa curves` shows since when"
        )


def _slow(progress: Progress) -> Iterator[str]:
    recent = [row["data_wait"] for row in progress.rows[-RECENT:] if "data_wait" in row]
    if recent and (share := sum(recent) / len(recent)) > WAITING:
        yield (
            f"training waits for audio for {share:.0%} of the time; more data.workers, data.cache_megabytes "
            "or shards (ajepa data shard) help"
        )
    broken = progress.rows[-1].get("broken", 0) if progress.rows else 0
    if broken:
        files = "1 file" if broken == 1 else f"{broken:.0f} files"
        yield f"{files} could not be used; broken.txt in the run's folder says why"


def duration(seconds: float) -> str:
    """In two units at most: 48 s, 3 min 5 s, 2 h 13 min, 3 d 4 h."""
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if parts:
            return " ".join([*parts, f"{count} {unit}"] if count else parts)
        if count:
            parts = [f"{count} {unit}"]
    return parts[0] if parts else "0 s"


@lru_cache(maxsize=1)
def _recipe(path: Path, modified: float) -> Recipe:
    """Read again only if the file has changed: it takes longer than all the rest."""
    return load_recipe(str(path))


def _state(folder: Path, recipe: Recipe, rows: Sequence[dict[str, Any]], silent: float) -> State:
    if rows and rows[-1]["step"] >= recipe.optim.steps and finished_encoder(folder):
        return "finished"
    if not _held(folder, silent):
        return "stopped"
    return "running" if rows else "starting"


def _held(folder: Path, silent: float) -> bool:
    """Whether a process trains in the folder."""
    path = folder / ".lock"
    try:
        if path.is_file():
            with FileLock(path, timeout=0):
                return False
    except Timeout:
        return True
    except OSError:
        pass  # of another user, or on a disk without locks
    return silent < LATE_SECONDS


def _work(rows: Sequence[dict[str, Any]], batch: int) -> list[tuple[int, float]]:
    """Clips and seconds of each line, which has the rate since the line before it."""
    steps = [0, *(row["step"] for row in rows)]
    clips = [(step - before) * batch for before, step in pairwise(steps)]
    return [
        (count, count / row["clips_per_s"])
        for count, row in zip(clips, rows, strict=True)
        if row.get("clips_per_s")
    ]


def _line_seconds(progress: Progress) -> float:
    """How long it takes from one line to the next."""
    rate, every = progress.clips_per_s, progress.recipe.run.log_every
    return every * progress.recipe.optim.batch_size / rate if rate else 0.0


def _starts(folder: Path) -> list[dict[str, Any]]:
    try:
        starts = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return []  # its loss is no reason not to watch
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
