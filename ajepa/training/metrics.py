"""The logs of a run: metrics.jsonl, TensorBoard, Weights & Biases, broken.txt."""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from ajepa import files
from ajepa.distributed import gathered
from ajepa.recipes import RecipeError
from ajepa.recipes.parts import RunConfig


class MetricsLog:
    """The logs of a run, cut back to the step from which it resumes, and the list of broken files.

    Rates are over the time since the last line; the first line includes the time of the start.

    Args:
        run: what to log, and where.
        start: step from which the run continues.
        enabled: True in the first process only.
        recipe: plain dictionaries, for Weights & Biases.

    Raises:
        RecipeError: run.wandb is given, but wandb is not installed.
    """

    def __init__(self, run: RunConfig, start: int, enabled: bool, recipe: dict[str, Any]) -> None:
        out = Path(run.out)
        self.path, self.listing, self.enabled = out / "metrics.jsonl", out / "broken.txt", enabled
        self.clips, self.waited, self.since = 0, 0.0, time.perf_counter()
        self.broken: set[str] = set()
        self._found: list[str] = []  # by this process, since the last line
        self.history: list[dict[str, Any]] = []
        self._writers: list[Any] = []
        if not enabled:
            return
        if self.listing.exists():
            self.broken = set(self.listing.read_text(encoding="utf-8", errors="replace").splitlines())
        self.history = [record for record in _records(self.path) if record["step"] <= start]
        files.write(self.path, "".join(json.dumps(record) + "\n" for record in self.history))
        self._writers = [_TensorBoard(out, start + 1 if self.history else 0)]
        if run.wandb:
            self._writers.append(_WandB(run.wandb, out, recipe))

    def count(self, clips: int, waited: float, broken: list[tuple[str, str]]) -> None:
        """Note a step's clips, the seconds it waited for them, and its broken files.

        The first process lists its own at once, so that an interrupted run has them, and those of the other
        processes with the next line.
        """
        self.clips += clips
        self.waited += waited
        lines = [" ".join(reason.split()) for _, reason in broken]
        self._found += lines
        self._list(lines)

    def _list(self, lines: list[str]) -> None:
        for line in lines:
            if line not in self.broken:
                self.broken.add(line)
                if self.enabled:
                    with files.naming(self.listing), self.listing.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")

    def write(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """Append one line; tensors become numbers. All processes must call it."""
        self._list(gathered(self._found))
        self._found = []
        now = time.perf_counter()
        elapsed = now - self.since
        record = {"step": step} | {name: float(value) for name, value in metrics.items()}
        if self.clips:  # before the first step there is no rate
            record |= {"clips_per_s": self.clips / elapsed, "data_wait": self.waited / elapsed}
        record["broken"] = len(self.broken)
        self.clips, self.waited, self.since = 0, 0.0, now
        if self.enabled:
            with files.naming(self.path), self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            for writer in self._writers:
                writer.write(step, record)
        return record

    def close(self) -> None:
        """Print how many files could not be used, and close the logs."""
        if self.enabled and self.broken:
            print(f"{len(self.broken)} files could not be used; {self.listing} lists them", file=sys.stderr)
        for writer in self._writers:
            writer.close()


class _TensorBoard:
    def __init__(self, out: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Removes entries that an interrupted run logged after its last checkpoint.
        self._folder = out / "tensorboard"
        with files.naming(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=first)

    def write(self, step: int, record: dict[str, Any]) -> None:
        with files.naming(self._folder):
            for name, value in record.items():
                if name != "step":
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        with files.naming(self._folder):
            self._writer.close()


class _WandB:
    def __init__(self, project: str, out: Path, recipe: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise RecipeError(
                f"run.wandb is {project!r}, but wandb is not installed: pip install wandb, or leave it empty"
            ) from error
        # The run's folder keeps the id, so that a resumed run stays one run there too.
        kept = out / "wandb.id"
        if not kept.exists():
            files.write(kept, secrets.token_hex(8))
        try:
            self._run = wandb.init(
                project=project, id=kept.read_text().strip(), resume="allow", dir=str(out), config=recipe
            )
        except wandb.errors.Error as error:
            raise RecipeError(
                f"run.wandb is {project!r}: {' '.join(str(error).split())}; `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error

    def write(self, step: int, record: dict[str, Any]) -> None:
        self._run.log(record, step=step)

    def close(self) -> None:
        self._run.finish()


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines that hold records. The last one may be cut if the process was killed; others that are damaged
    are counted and left out, since the checkpoint does not need them."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records, damaged = [], 0
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
        elif line.endswith(b"\n") and line.strip():
            damaged += 1
    if damaged:
        print(f"{path}: {damaged} damaged lines are left out", file=sys.stderr)
    return records
