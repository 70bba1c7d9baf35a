"""Commands that are killed (SIGKILL) at random times, again and again, until they finish.

    python benchmarks/kill.py [pretrain embed several compare shard save predict] [--kills 30] [--json FILE]

Each command runs once undisturbed. Then the same command is started, killed after a random part of that time
and started again; once it finishes by itself, its results are compared with those of the undisturbed run, and
the folder is looked through for files that the undisturbed run did not leave. This goes on until the kills
are used up. `several` is `ajepa embed` in three processes that share the work, each killed at its own time.

    pretrain   the weights of the finished encoder and of the last checkpoint, and every number of the log
    embed      the bytes of the Parquet file
    compare    the scores of all cells
    shard      the bytes of all tars and of their index
    save       the weights, labels and scores of a classifier
    predict    the bytes of the table

The commands run in forks of one process that has imported what they need, so that kills meet their work and
not the imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import soundfile
import torch

import ajepa.training.devices  # noqa: F401  # pyarrow, which starts a thread when imported, stays out

CLIPS, SHARING = 60, 3
TINY = (
    *("encoder.width=32", "encoder.depth=2", "encoder.heads=2", "data.crop_seconds=1.28"),
    *("objective.predictor.width=32", "objective.predictor.depth=1", "objective.predictor.heads=2"),
    *("objective.target_layers=2", "optim.steps=40", "optim.batch_size=4", "optim.warmup_steps=1"),
    *("run.accelerator=cpu", "run.log_every=1", "run.checkpoint_every=4", "run.keep=2"),
)
CLOCK = ("clips_per_s", "data_wait")  # numbers of a line of the log that depend on the clock


@dataclass(frozen=True)
class Job:
    """A command, given the folders of inputs and of results; what to compare of the latter; its processes."""

    command: Callable[[Path, Path], list[str]]
    found: Callable[[Path], Any]
    processes: int = 1


def _bytes(out: Path) -> dict[str, Any]:
    """All files' contents."""
    from ajepa.contents import file_sha256

    return {
        str(path.relative_to(out)): file_sha256(path) for path in sorted(out.rglob("*")) if path.is_file()
    }


def _weights(path: Path) -> dict[str, Any]:
    from ajepa.checkpoints import native

    tensors = native.load(path).tensors
    return {name: value.numpy().tobytes().hex() for name, value in tensors.items()}


def _pretrained(out: Path) -> list[Any]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return [log, last.name, _weights(out / "encoder.safetensors"), _weights(last)]


def _scores(out: Path) -> list[Any]:
    from ajepa.eval.results.record import read_records

    records = read_records(out / "records.json")
    return sorted((r.model, r.task, r.protocol, r.score, r.interval, str(r.chosen)) for r in records)


def _classifier(out: Path) -> list[Any]:
    content = json.loads((out / "classifier.json").read_text())
    kept = [content["labels"], content["head"], content["measured"], content["record"]["score"]]
    return [_weights(out / "model.safetensors"), *kept]


def _parquet(out: Path) -> dict[str, Any]:
    return {name: digest for name, digest in _bytes(out).items() if not name.startswith(".")}


JOBS = {
    "pretrain": Job(lambda work, out: ["pretrain", str(work / "tiny.yaml"), f"run.out={out}"], _pretrained),
    "embed": Job(lambda work, out: _embed(work, out), _parquet),
    "several": Job(lambda work, out: _embed(work, out), _parquet, SHARING),
    "compare": Job(
        lambda work, out: [
            "compare",
            str(work / "compare.yaml"),
            "--out",
            str(out),
            "--cache",
            str(out / "cache"),
        ],
        _scores,
    ),
    "shard": Job(
        lambda work, out: [
            "data",
            "shard",
            str(work / "audio"),
            str(out),
            "--format",
            "flac",
            "--shard-megabytes",
            "1",
        ],
        _bytes,
    ),
    "save": Job(
        lambda work, out: [
            *(
                "evaluate",
                "linear",
                "--task",
                "esc10",
                "--data",
                str(work / "esc50"),
                "--model",
                str(work / "tiny.yaml"),
            ),
            *("--save", str(out), "--cache", str(work / "cache")),
        ],
        _classifier,
    ),
    "predict": Job(
        lambda work, out: [
            "predict",
            str(work / "audio"),
            "--model",
            str(work / "clf"),
            "--out",
            str(out / "t.csv"),
        ],
        _bytes,
    ),
}


def _embed(work: Path, out: Path) -> list[str]:
    model = str(work / "tiny.yaml")
    return ["embed", str(work / "audio"), "--model", model, "--out", str(out / "e.parquet"), "--batch", "2"]


def prepare(work: Path) -> None:
    """Sound files, a recipe, a task, a comparison and a classifier."""
    from ajepa.data.synthetic import write_esc50
    from ajepa.recipes import dump_recipe, load_recipe

    rng = np.random.default_rng(0)
    (work / "audio").mkdir()
    for number in range(CLIPS):
        samples = 0.1 * rng.standard_normal(round(rng.uniform(1, 6) * common.RATE))
        soundfile.write(work / "audio" / f"{number:02d}.wav", samples, common.RATE)
    write_esc50(work / "esc50", clips_per_class=20, classes=5, seconds=1.0)
    tiny = load_recipe("ajepa-small-cpu", [*TINY, f"data.source={work / 'audio'}"])
    (work / "tiny.yaml").write_text(dump_recipe(tiny))
    command = JOBS["save"].command(work, work / "clf")
    killed(
        [start(command, work / "log.txt")], [float("inf")]
    )  # not here: forks need a torch that has not run
    (work / "compare.yaml").write_text(
        f"models: {{mel: logmel, naive: hear-naive, tiny: {work / 'tiny.yaml'}}}\n"
        f"tasks: {{esc10: {{data: {work / 'esc50'}}}}}\nprotocols: [linear, knn]\n"
    )


def start(command: list[str], log: Path) -> int:
    """The number of a process, in a session of its own, that runs a command of `ajepa`."""
    if child := os.fork():
        return child
    os.setsid()
    status = 70
    try:
        with log.open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        from ajepa.cli import main
        from ajepa.embed import job

        job.BLOCK_CLIPS = 8  # so that there are several
        status = main(command)
        sys.stdout.flush()
    finally:
        os._exit(status)


def ended(process: int) -> int | None:
    """The status of a process that has ended, -9 for a killed one; None while it runs."""
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def killed(processes: list[int], times: list[float]) -> int:
    """Kill processes after these times, unless they have finished before; returns how many were killed.

    Raises RuntimeError if one has failed.
    """
    begun, kills = time.monotonic(), 0
    waiting = dict(zip(processes, times, strict=True))
    while waiting:
        for process, seconds in list(waiting.items()):
            status = ended(process)
            if status is None and time.monotonic() - begun > seconds:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                kills += 1
            elif status:
                raise RuntimeError(f"exit status {status}")
            elif status is None:
                continue
            del waiting[process]
        time.sleep(0.002)
    return kills


def names(out: Path) -> set[str]:
    """The files in a folder; each start of a run has one of TensorBoard's."""
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("tensorboard/")}


def trial(name: str, work: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill a job so many times; returns the numbers of its row."""
    job, log, forever = JOBS[name], work / f"{name}.log", float("inf")
    whole, out = work / f"{name}-whole", work / f"{name}-out"

    def run(seconds: list[float]) -> int:
        return killed([start(job.command(work, out), log) for _ in seconds], seconds)

    begun = time.monotonic()
    killed([start(job.command(work, whole), log)], [forever])
    took = time.monotonic() - begun
    expected, left = job.found(whole), names(whole)
    done = {"kills": 0, "finished": 0, "failed": 0, "differ": 0, "leaked": 0}
    while done["kills"] < kills or out.exists() or not done["finished"]:
        try:
            if done["kills"] < kills:
                found = run([draw.uniform(0, took) for _ in range(job.processes)])
                done["kills"] += found
                if found == job.processes:
                    continue
            if done["kills"] >= kills or job.processes > 1:
                run([forever])
        except RuntimeError as error:
            done["failed"] += 1
            print(f"{name}: {error}\n{log.read_text()[-2000:]}", file=sys.stderr)
            shutil.rmtree(out, ignore_errors=True)
            continue
        done["finished"] += 1
        done["differ"] += job.found(out) != expected
        if surplus := names(out) - left:
            done["leaked"] += len(surplus)
            print(f"{name}: leaked {sorted(surplus)[:5]}", file=sys.stderr)
        shutil.rmtree(out)
    return {"seconds": round(took, 2), **done}


def main() -> None:
    """Run the trials and print a row for each."""
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help="default: all")
    parser.add_argument("--kills", type=int, default=30, help="of each job; default: 30")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for their files; default: a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {}
    print("| job | seconds | kills | finished | failed | results differ | files leaked |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        prepare(Path(folder))
        for name in options.jobs or JOBS:
            report[name] = trial(name, Path(folder), options.kills, random.Random(f"{name} {options.seed}"))
            print(f"| {name} | {' | '.join(map(str, report[name].values()))} |", flush=True)
            common.write(report, options.json)
    sys.exit(any(row["failed"] or row["differ"] or row["leaked"] for row in report.values()))


if __name__ == "__main__":
    main()
