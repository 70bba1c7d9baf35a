"""Stock s3prl on SUPERB's keyword spotting and speaker identification, as a protocol.

A frozen encoder under s3prl's own head: learned weights of all layers, linear to 256, mean over time, linear
(arXiv 2105.01051, section 3). s3prl's own command evaluates the head of the step with the best validation
accuracy on the test set; its answers for each clip give the interval.

A finished seed leaves its answers in the cell's folder, so an interrupted process continues with the others.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ajepa.contents import read_yaml
from ajepa.data.copies import speaker
from ajepa.eval.digest import digest
from ajepa.eval.models.open import EncoderModel, S3prlUpstream
from ajepa.eval.models.text import absolute
from ajepa.eval.progress import say
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.result import Result
from ajepa.eval.toolkits.commands import kept, run_stock, timed, versions
from ajepa.eval.toolkits.xares.encoder import FREQUENCIES
from ajepa.files import write_json
from ajepa.s3prl_upstream.sets import CONFIG

from .base import Bench, ProtocolError, Seeded, TaskEntry

MODULE = "s3prl.run_downstream"
ANSWERS = ("clips", "truth", "answers", "validated", "chosen", "seconds")  # of a finished seed
SEED = 1337  # s3prl's
UPSTREAMS = ("ajepa", "ajepa_any")  # that take our options
# Clips of SUPERB's validation and test sets: other numbers are another task.
CLIPS = {"speech_commands": (6_798, 3_081), "voxceleb1": (6_904, 8_251)}
# A key that only this task's settings have.
KEYS = {"speech_commands": "speech_commands_root", "voxceleb1": "meta_data"}


@dataclass(frozen=True)
class S3prl(Seeded):
    """Settings of s3prl's training. The defaults are SUPERB's, which searches `lr` in powers of ten.

    Attributes:
        steps: steps of the optimiser, with 32 clips each.
        lr: learning rate of Adam.
        eval_every: steps between two evaluations; validation chooses among these.
        frequency: as in `UpstreamOptions`.
        cache_gigabytes: size of the feature cache, see `ajepa.s3prl_upstream.cache`; 0 for no cache.
        workers: processes that load audio.
        seeds: each trains a head.
    """

    seeds: tuple[int, ...] = (SEED,)
    steps: int = 200_000
    lr: float = 1.0e-4
    eval_every: int = 5_000
    frequency: str = "concatenate"
    cache_gigabytes: float = 10.0
    workers: int = 4

    reads: ClassVar[str] = "s3prl"
    example: ClassVar[str] = "{s3prl: FOLDER}; `ajepa data s3prl` makes one"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("steps", 1), ("eval_every", 1), ("workers", 0), ("cache_gigabytes", 0)):
            if (value := getattr(self, name)) < least:
                raise ProtocolError(f"{name} is {value}, must be at least {least}")
        if self.lr <= 0:
            raise ProtocolError(f"lr is {self.lr}, must be above 0")
        self.one_of(frequency=FREQUENCIES)

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """The folder's files and lists, the settings that s3prl learns with, and its version."""
        if importlib.util.find_spec("s3prl") is None:
            raise EvaluationError("s3prl is not installed; `ajepa harness enable s3prl` installs it")
        data = entry.folder("s3prl")
        downstream = _task_of(data)
        if entry.task in CLIPS and entry.task != downstream:
            raise ProtocolError(f"{data}: made for {downstream}, not for {entry.task}")
        settings = {k: v for k, v in self.settings().items() if k not in ("cache_gigabytes", "workers")}
        return (self.protocol, _data_fingerprint(data), settings, versions("s3prl"))

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Train and test a head for each seed."""
        data = entry.folder("s3prl")
        task = _task_of(data)
        runs = [self._run(bench, task, data, folder / f"seed-{seed}", seed) for seed in self.seeds]
        for run in runs:
            run["splits"] = ["test"] * len(run["clips"])
            run["groups"] = [_group(task, clip) for clip in run["clips"]]
        notes = []
        counts = runs[0]["validated"], len(runs[0]["clips"])
        if counts != CLIPS[task]:
            notes.append(
                "{:,} clips to validate and {:,} to test".format(*counts)
                + "; SUPERB's set has {:,} and {:,}".format(*CLIPS[task])
            )
        if self.steps != S3prl.steps:
            notes.append(f"{self.steps:,} steps; SUPERB trains {S3prl.steps:,}")
        upstream, source = _upstream(bench)
        found = self.result(
            bench,
            runs,
            ("s3prl", "torchaudio"),
            32 * self.steps,
            source=bench.source if upstream == "ajepa_any" else source or upstream,
            task=task,
            chosen=tuple({"seed": seed, **run["chosen"]} for seed, run in zip(self.seeds, runs, strict=True)),
            layer="learned sum",
            clips=sum(counts),
            clips_by_split={"test": counts[1], "valid": counts[0]},
            weights=bench.fingerprint if upstream in UPSTREAMS else None,  # s3prl's own: its version says
            task_hash=_data_fingerprint(data),
            notes=tuple(notes),
            details={"upstream": upstream, "pool": self.frequency, "config": self.settings()},
        )
        return [found]

    def _run(self, bench: Bench, task: str, data: Path, folder: Path, seed: int) -> dict[str, Any]:
        """One training: its answers on the test set, the step that validation chose, and its seconds."""
        done = folder / "answers.json"
        if found := kept(done, ANSWERS):
            return found
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{bench.name}, seed {seed}: s3prl trains {self.steps:,} steps; {folder}/train.log")
        upstream, source = _upstream(bench)
        device = bench.conditions.toolkit_device
        train = ["-m", "train", "-a", "-p", "run", "-d", task, "-c", str(data / CONFIG)]
        train += ["-u", upstream, *(["-k", source] if source else [])]
        train += ["-g", self._options(bench.conditions.folder)] if upstream in UPSTREAMS else []
        train += ["--seed", str(seed), "--device", device, "-o", self._overrides()]
        with timed(folder / "spent.json", folder / "train.log") as before:
            seconds = before + run_stock(MODULE, train, folder, folder / "train.log", device)
        step, valid = _best(folder / "run" / "log.log")
        test = ["-m", "evaluate", "-e", "run/dev-best.ckpt", "--device", device]
        run_stock(MODULE, test, folder, folder / "test.log", device)
        clips, answers = _labels(folder / "run" / "test_predict.txt")
        same_clips, truth = _labels(folder / "run" / "test_truth.txt")
        if clips != same_clips:
            raise EvaluationError(f"{folder}/run: test_predict.txt and test_truth.txt name other clips")
        run = {
            "clips": clips,
            "truth": truth,
            "answers": answers,
            "validated": len(_labels(folder / "run" / "dev_predict.txt")[0]),
            "chosen": {"step": step, "validation": valid},
            "seconds": seconds,
        }
        write_json(done, run)
        for checkpoint in (folder / "run").glob("states-*.ckpt"):  # the best one stays
            checkpoint.unlink()
        return run

    def _options(self, out: Path) -> str:
        """Options of our upstream, for -g."""
        given: dict[str, Any] = {"frequency": self.frequency}
        if self.cache_gigabytes:
            given["cache"] = str(out / "features")
            given["cache_gigabytes"] = self.cache_gigabytes
        return yaml.safe_dump(given, default_flow_style=True, width=10_000).strip()

    def _overrides(self) -> str:
        """Settings of s3prl, for -o."""
        every = min(self.eval_every, self.steps)
        values = {
            "runner.total_steps": self.steps,
            "runner.eval_step": every,
            "runner.save_step": every,
            "runner.log_step": every,
            "optimizer.lr": self.lr,
            "downstream_expert.datarc.num_workers": self.workers,
        }
        return ",,".join(f"config.{key}={value}" for key, value in values.items())


def _upstream(bench: Bench) -> tuple[str, str]:
    """Values for s3prl's -u and -k."""
    module = bench.model().module
    if isinstance(module, S3prlUpstream):
        return module.upstream, module.checkpoint
    return "ajepa" if isinstance(module, EncoderModel) else "ajepa_any", absolute(bench.source)


def _task_of(data: Path) -> str:
    """The s3prl task that a folder was made for, from its settings. Raises EvaluationError."""
    if not (data / CONFIG).is_file():
        raise EvaluationError(f"{data}: no {CONFIG} in it; `ajepa data s3prl` makes such a folder")
    try:
        found = dict(read_yaml(data / CONFIG)["downstream_expert"]["datarc"])
    except (ValueError, KeyError, TypeError):
        found = {}
    for task, key in KEYS.items():
        if key in found:
            return task
    raise EvaluationError(
        f"{data / CONFIG}: not the settings of {' or '.join(KEYS)}; `ajepa data s3prl` writes them"
    )


def _best(log: Path) -> tuple[int, float]:
    """Step and validation accuracy of `dev-best.ckpt`, from s3prl's log."""
    found = re.findall(r"^New best on dev at step (\d+): (\S+)$", _text(log), re.MULTILINE)
    if not found:
        raise EvaluationError(f"{log}: no evaluation was better than an accuracy of 0; train more steps")
    step, score = found[-1]
    return int(step), float(score)


def _labels(path: Path) -> tuple[list[str], list[str]]:
    """Clips and labels of s3prl's lists, by name: a clip's label is the last word of its line."""
    rows = sorted(tuple(line.rsplit(" ", 1)) for line in _text(path).splitlines())
    return [clip for clip, _ in rows], [label for _, label in rows]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _group(task: str, clip: str) -> str:
    """The speaker of a word, or the session of an utterance; empty for an independent clip."""
    if task == "speech_commands":
        return speaker(clip)
    return clip.rpartition("-")[0]  # speaker-session-utterance


def _data_fingerprint(data: Path) -> str:
    """Hash of the names and sizes of the folder's files, links followed, and of what its lists and settings
    say, wherever the folder is."""
    parts: list[str | Path] = [_text(data / CONFIG).replace(str(data.resolve()), "DATA")]
    for path in sorted(data.rglob("*")):
        if path.is_file() and path.name != CONFIG:
            parts.append(f"{path.relative_to(data).as_posix()} {path.stat().st_size}\n")
            if path.suffix == ".txt":  # lists of other splits may have the same size
                parts.append(path)
    return digest(parts)
