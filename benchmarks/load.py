"""Memory and open files over long work: whether anything grows that should not.

    python benchmarks/load.py [clips long epochs runs] [--work FOLDER] [--json FILE]

Each load runs in a process of its own, on one thread, with a tiny encoder of random weights:

    clips    `ajepa embed` on 100,000 clips of 0.25 s (hard links to 100 files)
    long     `ajepa embed` on one file of 10 hours, which is streamed
    epochs   1,000 epochs of a pre-training of 12 clips, with two loader processes, gauges and checkpoints
    runs     200 pre-trainings of 3 steps, one after the other in one process

Four times a second the memory of the process and its children (shared pages counted once) and the number of
its open files are read from /proc. The table shows their medians over the second quarter, when caches and
pools are warm, and over the last, and the peak of memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import soundfile

POINTS = 60  # of a curve that are kept
INTERVAL_SECONDS = 0.25
CLIPS, LINKED, HOURS, EPOCHS, RUNS = 100_000, 100, 10, 1_000, 200


class Sample(NamedTuple):
    """At a time (seconds): megabytes of memory, and open files."""

    seconds: float
    megabytes: float
    files: int


# -- The loads, each in a process of its own --


def clips(work: Path) -> None:
    """Embed many short clips."""
    folder = work / "clips"
    for number in range(CLIPS):
        place = folder / f"{number // 1000:03d}"
        if number < LINKED:
            _noise(folder / f"source{number:02d}.wav", 0.25, number)
        place.mkdir(exist_ok=True)
        (place / f"{number:06d}.wav").hardlink_to(folder / f"source{number % LINKED:02d}.wav")
    _embed(work, folder, "clips.parquet")


def long(work: Path) -> None:
    """Embed one long file."""
    path, rng = work / "long.wav", np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_U8") as file:
        for _ in range(HOURS * 60):
            file.write(0.1 * rng.standard_normal(60 * 8_000))
    _embed(work, path, "long.parquet")


def epochs(work: Path) -> None:
    """Pre-train for many epochs."""
    import ajepa

    recipe = _recipe(work, "epochs")
    optim = replace(recipe.optim, steps=1, epochs=EPOCHS)
    run = replace(recipe.run, log_every=10, health_every=100, checkpoint_every=100)
    ajepa.pretrain(replace(recipe, optim=optim, run=run, data=replace(recipe.data, workers=2)))


def runs(work: Path) -> None:
    """Pre-train again and again."""
    import ajepa

    for number in range(RUNS):
        ajepa.pretrain(_recipe(work, f"run{number}"))


LOADS: dict[str, Callable[[Path], None]] = {"clips": clips, "long": long, "epochs": epochs, "runs": runs}


def _noise(path: Path, seconds: float, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * common.RATE))
    soundfile.write(path, samples, common.RATE)


def _recipe(work: Path, name: str) -> Any:
    from ajepa.recipes import load_recipe

    if not (work / "audio").is_dir():
        for number in range(12):
            _noise(work / "audio" / f"{number:02d}.wav", 1.5, number)
    return load_recipe(
        "ajepa-small-cpu",
        [
            *("encoder.width=32", "encoder.depth=2", "encoder.heads=2", "data.crop_seconds=1.28"),
            *("objective.predictor.width=32", "objective.predictor.depth=1", "objective.predictor.heads=2"),
            *("objective.target_layers=2", "optim.steps=3", "optim.batch_size=4", "optim.warmup_steps=1"),
            *("run.accelerator=cpu", f"data.source={work / 'audio'}", f"run.out={work / name}"),
        ],
    )


def _embed(work: Path, source: Path, out: str) -> None:
    from ajepa.cli import main
    from ajepa.recipes import dump_recipe

    recipe = work / "tiny.yaml"
    recipe.write_text(dump_recipe(_recipe(work, "none")))
    if status := main(["embed", str(source), "--model", str(recipe), "--out", str(work / out)]):
        sys.exit(status)


# -- The watch --


def watched(name: str, work: Path) -> list[Sample]:
    """Run a load; returns its memory and open files over time."""
    command = [sys.executable, __file__, name, "--work", str(work), "--here"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started, found = time.monotonic(), []
    log = work / "load.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            if sample := _sample(process.pid, time.monotonic() - started):
                found.append(sample)
            time.sleep(INTERVAL_SECONDS)
    if process.returncode:
        sys.exit(f"{name} failed:\n{log.read_text()[-2000:]}")
    return found


def _sample(pid: int, seconds: float) -> Sample | None:
    try:
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return Sample(seconds, sum(map(_megabytes, _family(pid))), files)
    except OSError:  # it has just ended
        return None


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def summary(samples: list[Sample]) -> dict[str, Any]:
    """The numbers of a load's row, and its curve."""
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    step = max(1, len(samples) // POINTS)
    return {
        "seconds": round(samples[-1].seconds, 1),
        "megabytes": [round(statistics.median(one.megabytes for one in part), 1) for part in (second, last)],
        "peak_megabytes": round(max(one.megabytes for one in samples), 1),
        "files": [round(statistics.median(one.files for one in part)) for part in (second, last)],
        "curve": [[round(s, 1), round(m, 1), f] for s, m, f in samples[::step]],
    }


def main() -> None:
    """Run the loads and print a row for each."""
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("loads", nargs="*", choices=[*LOADS, []], help="default: all")
    parser.add_argument("--work", type=Path, help="folder for their files, 1.5 GB; default: a temporary one")
    parser.add_argument("--here", action="store_true", help="run the load in this process, unwatched")
    options = parser.parse_args()
    if options.here:
        LOADS[options.loads[0]](options.work)
        return
    report: dict[str, Any] = {}
    print("| load | seconds | MB, second quarter | MB, last quarter | MB, peak | open files, both quarters |")
    print("|---|---|---|---|---|---|")
    for name in options.loads or LOADS:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            row = report[name] = summary(watched(name, Path(folder)))
        memory, files = row["megabytes"], row["files"]
        numbers = (row["seconds"], *memory, row["peak_megabytes"])
        cells = [name, *(f"{value:,.0f}" for value in numbers), f"{files[0]}, {files[1]}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        common.write(report, options.json)


if __name__ == "__main__":
    main()
