"""Score encoders with stock s3prl on SUPERB's keyword spotting and speaker identification.

A frozen encoder under s3prl's own head: learned weights of all layers, linear to 256, mean over time, linear
(arXiv 2105.01051, section 3). The head of the step with the best validation accuracy is evaluated on the test
set by s3prl's own command, whose answers for each clip give the interval.

Each (model, task, settings) is a cell, a folder named by a hash of the weights, the data and the settings;
what a killed run left there is gone on with, and a finished cell is read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ajepa.data.copies import speaker
from ajepa.eval.models.sources import find_encoder
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.provenance import provenance
from ajepa.eval.results.result import Result
from ajepa.files import write_json
from ajepa.named_source import named_source
from ajepa.s3prl_upstream.sets import CONFIG

from .commands import alone_in, check_names, run_stock, versions
from .stock import Answers, Checkpoint, score_cells

MODULE = "s3prl.run_downstream"
SEED = 1337  # s3prl's
OF_S3PRL = "s3prl:"
# Clips of SUPERB's validation and test sets: other numbers are another task.
CLIPS = {"speech_commands": (6_798, 3_081), "voxceleb1": (6_904, 8_251)}


@dataclass(frozen=True)
class SuperbSettings:
    """Settings of s3prl's training. The defaults are SUPERB's, which searches `lr` in powers of ten.

    Args:
        steps: of the optimiser, 32 clips each.
        lr: of Adam.
        eval_every: steps between two evaluations, among which validation chooses.
        frequency: as in `UpstreamOptions`.
        cache_gigabytes: for features of clips, see `ajepa.s3prl_upstream.cache`; 0 computes them every time.
        workers: processes that load audio.
    """

    steps: int = 200_000
    lr: float = 1.0e-4
    eval_every: int = 5_000
    frequency: str = "concatenate"
    cache_gigabytes: float = 10.0
    workers: int = 4

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.eval_every) < 1
            or self.lr <= 0
            or min(self.workers, self.cache_gigabytes) < 0
        ):
            raise EvaluationError(f"settings that cannot work: {self}")
        if self.frequency not in ("concatenate", "average"):
            raise EvaluationError(f"frequency is {self.frequency!r}; choose concatenate or average")


@dataclass(frozen=True)
class Upstream:
    """An upstream of s3prl: its name for -u, and what -k takes (empty: nothing)."""

    name: str
    upstream: str
    source: str

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """[NAME=]SOURCE of an encoder of ours, or [NAME=]s3prl:UPSTREAM[:CHECKPOINT] of s3prl's own.

        Raises:
            EvaluationError, HubError, RecipeError: as `find_encoder`.
        """
        # A checkpoint behind the second colon may have a "=" in its path.
        name, source = ("", text) if text.startswith(OF_S3PRL) else named_source(text)
        if source.startswith(OF_S3PRL):
            upstream, _, checkpoint = source.removeprefix(OF_S3PRL).partition(":")
            if checkpoint and Path(checkpoint).exists():  # s3prl runs in another folder
                checkpoint = str(Path(checkpoint).resolve())
            return cls(name or upstream, upstream, checkpoint)
        name, path = find_encoder(name, source, "s3prl")
        return cls(name, "ajepa", path)

    @property
    def ours(self) -> bool:
        return self.upstream == "ajepa"

    def weights(self) -> str | None:
        """Fingerprint of an encoder of ours; None of s3prl's own, which its version tells."""
        return Checkpoint(self.name, self.source).weights() if self.ours else None


def evaluate_superb(
    models: Sequence[Upstream],
    task: str,
    data: str | Path,
    out: str | Path,
    settings: SuperbSettings,
    *,
    seeds: Sequence[int] = (SEED,),
    baseline: str | None = None,
    device: str | None = None,
    report: Callable[[str], Any] = lambda line: None,
) -> list[dict[str, Any]]:
    """One record for each model.

    Args:
        models: upstreams, with names that differ.
        task: speech_commands or voxceleb1.
        data: the folder that `ajepa data s3prl` made for it.
        out: folder of the cells.
        seeds: each a training of its own.
        baseline: name of the model that the others are compared with, clip by clip.
        device: where s3prl computes; None takes a GPU where there is one.
        report: gets a line before each step.

    Raises:
        EvaluationError: s3prl or the data are not there, names that are alike, or s3prl failed.
    """
    if importlib.util.find_spec("s3prl") is None:
        raise EvaluationError("s3prl is not installed; `ajepa harness enable s3prl` installs it")
    if task not in CLIPS:
        raise EvaluationError(f"no task {task!r} of s3prl; there are {', '.join(CLIPS)}")
    data = Path(data).resolve()
    if not (data / CONFIG).is_file():
        raise EvaluationError(f"{data}: no {CONFIG} in it; `ajepa data s3prl {task}` makes such a folder")
    check_names([model.name for model in models], baseline)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    data_hash = _data_fingerprint(data)
    out = Path(out).resolve()
    cells = (_Cell(model, task, data, data_hash, out, settings, device) for model in models)
    return score_cells(cells, seeds, baseline, report)


@dataclass(frozen=True)
class _Cell:
    """One model on one task with one setting; a folder for each seed."""

    model: Upstream
    task: str
    data: Path
    data_hash: str
    out: Path
    settings: SuperbSettings
    device: str

    def result(self, seeds: Sequence[int], report: Callable[[str], Any]) -> Result:
        weights = self.model.weights()
        learnt = {k: v for k, v in asdict(self.settings).items() if k not in ("cache_gigabytes", "workers")}
        parts = (weights, self.model.upstream, "" if weights else self.model.source, self.data_hash, learnt)
        key = hashlib.sha256(f"{parts} {versions('s3prl')}".encode()).hexdigest()[:8]
        cell = self.out / self.task / f"{self.model.name}-{key}"
        with alone_in(cell):
            runs = [self._run(cell / f"seed-{seed}", seed, report) for seed in seeds]
        first = runs[0]
        answers = Answers(
            first["clips"],
            ["test"] * len(first["clips"]),
            [_group(self.task, clip) for clip in first["clips"]],
            first["truth"],
            [run["answers"] for run in runs],
        )
        summary, draws_S = answers.summary()
        notes = []
        counts = first["validated"], len(answers.clips)
        if counts != CLIPS[self.task]:
            notes.append(
                "{:,} clips to validate and {:,} to test".format(*counts)
                + "; SUPERB's set has {:,} and {:,}".format(*CLIPS[self.task])
            )
        if self.settings.steps != SuperbSettings.steps:
            notes.append(f"{self.settings.steps:,} steps; SUPERB trains {SuperbSettings.steps:,}")
        seconds = sum(run["seconds"] for run in runs)
        record = {
            "model": self.model.name,
            "source": self.model.source or self.model.upstream,
            "upstream": self.model.upstream,
            "task": self.task,
            "protocol": "s3prl",
            "metric": "accuracy",
            **summary,
            "seeds": list(seeds),
            "chosen": [{"seed": seed, **run["chosen"]} for seed, run in zip(seeds, runs, strict=True)],
            "layer": "learned sum",
            "pool": self.settings.frequency,
            "config": asdict(self.settings),
            "probe_seconds": seconds,
            "clips_per_s": 32 * self.settings.steps * len(runs) / seconds,
            "clips": len(answers.clips) + first["validated"],
            "clips_by_split": {"test": len(answers.clips), "valid": first["validated"]},
            "classes": len(set(answers.truth)),
            "notes": notes,
            "weights": weights,
            "task_hash": self.data_hash,
            **provenance(torch.device(self.device)),
        }
        record["versions"] |= versions("s3prl", "torchaudio")
        write_json(cell / "record.json", record)
        return Result(record, draws_S)

    def _run(self, folder: Path, seed: int, report: Callable[[str], Any]) -> dict[str, Any]:
        """What one training leaves: answers on the test set, the step that validation chose, seconds."""
        done = folder / "answers.json"
        if done.is_file():
            return json.loads(done.read_text())
        folder.mkdir(parents=True, exist_ok=True)
        report(
            f"{self.model.name}, seed {seed}: s3prl trains {self.settings.steps:,} steps; {folder}/train.log"
        )
        train = ["-m", "train", "-a", "-p", "run", "-d", self.task, "-c", str(self.data / CONFIG)]
        train += ["-u", self.model.upstream, *(["-k", self.model.source] if self.model.source else [])]
        train += ["-g", self._options()] if self.model.ours else []
        train += ["--seed", str(seed), "--device", self.device, "-o", self._overrides()]
        seconds = run_stock(MODULE, train, folder, folder / "train.log", self.device)
        step, valid = _best(folder / "run" / "log.log")
        test = ["-m", "evaluate", "-e", "run/dev-best.ckpt", "--device", self.device]
        run_stock(MODULE, test, folder, folder / "test.log", self.device)
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

    def _options(self) -> str:
        """Our upstream's options for -g."""
        given: dict[str, Any] = {"frequency": self.settings.frequency}
        if self.settings.cache_gigabytes:
            given["cache"] = str(self.out / "features")
            given["cache_gigabytes"] = self.settings.cache_gigabytes
        return yaml.safe_dump(given, default_flow_style=True, width=10_000).strip()

    def _overrides(self) -> str:
        """The settings for -o."""
        every = min(self.settings.eval_every, self.settings.steps)
        values = {
            "runner.total_steps": self.settings.steps,
            "runner.eval_step": every,
            "runner.save_step": every,
            "runner.log_step": every,
            "optimizer.lr": self.settings.lr,
            "downstream_expert.datarc.num_workers": self.settings.workers,
        }
        return ",,".join(f"config.{key}={value}" for key, value in values.items())


def _best(log: Path) -> tuple[int, float]:
    """Step and validation accuracy of `dev-best.ckpt`, from s3prl's log."""
    found = re.findall(r"^New best on dev at step (\d+): (\S+)$", log.read_text(), re.MULTILINE)
    if not found:
        raise EvaluationError(f"{log}: no evaluation was better than an accuracy of 0; train more steps")
    step, score = found[-1]
    return int(step), float(score)


def _labels(path: Path) -> tuple[list[str], list[str]]:
    """Clips and labels of s3prl's lists, by name: a clip's label is the last word of its line."""
    rows = sorted(tuple(line.rsplit(" ", 1)) for line in path.read_text().splitlines())
    return [clip for clip, _ in rows], [label for _, label in rows]


def _group(task: str, clip: str) -> str:
    """The speaker of a word, the session of an utterance; empty for a clip that stands alone."""
    if task == "speech_commands":
        return speaker(clip)
    return clip.rpartition("-")[0]  # speaker-session-utterance


def _data_fingerprint(data: Path) -> str:
    """Hash of the names and sizes of the folder's files, links followed, and of what its lists and settings
    say, wherever the folder is."""
    settings = (data / CONFIG).read_text().replace(str(data.resolve()), "DATA")
    digest = hashlib.sha256(settings.encode())
    for path in sorted(data.rglob("*")):
        if path.is_file() and path.name != CONFIG:
            digest.update(f"{path.relative_to(data).as_posix()} {path.stat().st_size}\n".encode())
            if path.suffix == ".txt":  # other splits are no other size
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
