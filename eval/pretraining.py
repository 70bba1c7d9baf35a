"""Models of a comparison that are pre-trained for it: a recipe with settings, once for each seed.

    pretrain: {data.source: data/pretrain, optim.steps: 2500}     # settings of all that follow
    models:
      block: {recipe: ajepa-small-cpu-block, seeds: [0, 1, 2]}
      small steps: {recipe: ajepa-small-cpu, set: {optim.lr: 1.0e-4}, seeds: [0, 1, 2]}
      small steps, random: {recipe: ajepa-small-cpu, weights: random}    # the twin: no step taken

A run's folder is named by a hash of its whole recipe: a finished run is never run again, one that was stopped
goes on. The seeds of a model become one record.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ajepa.recipe import Recipe, RecipeError, load_recipe
from ajepa.training.state import checkpoint_path

from .commands import EvaluationError, run_module
from .native import Result
from .scores import interval

KEYS = {"recipe", "set", "seeds", "weights"}


class PretrainingError(ValueError):
    """An entry of a model that is to be pre-trained is wrong; the message names it."""


@dataclass(frozen=True)
class Pretraining:
    """A model to pre-train.

    Attributes:
        name: the model's.
        recipe: a packaged one's name, or a YAML file.
        set: settings over the recipe's.
        seeds: one run each.
        random: the runs' own random weights, before the first step.
    """

    name: str
    recipe: str
    set: dict[str, Any]
    seeds: tuple[int, ...]
    random: bool

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], common: Mapping[str, Any]) -> Pretraining:
        """Raises PretrainingError for an entry that does not say what to train."""
        if surplus := sorted(map(str, set(given) - KEYS)):
            raise PretrainingError(
                f"model {name}: {', '.join(surplus)}; it takes {', '.join(sorted(KEYS))}, or a source's name"
            )
        seeds = given.get("seeds", [0])
        seeds = seeds if isinstance(seeds, list) else [seeds]
        if "recipe" not in given or not seeds or any(type(seed) is not int for seed in seeds):
            raise PretrainingError(f"model {name} needs a recipe, and seeds that are numbers, such as [0, 1]")
        if given.get("weights", "trained") not in {"trained", "random"}:
            raise PretrainingError(f"model {name}: weights is {given['weights']!r}; choose trained or random")
        own = given.get("set", {})
        if not isinstance(own, dict):
            raise PretrainingError(f"model {name}: set is {own!r}; give settings such as {{optim.lr: 1e-3}}")
        found = cls(name, given["recipe"], {**common, **own}, tuple(seeds), given.get("weights") == "random")
        try:
            found.loaded(seeds[0], Path())
        except RecipeError as error:
            raise PretrainingError(f"model {name}: {error}") from error
        return found

    def loaded(self, seed: int, out: Path) -> Recipe:
        """A seed's whole recipe, its run's folder below `out`."""
        settings = [f"{key}={_as_option(value)}" for key, value in self.set.items()]
        recipe = load_recipe(self.recipe, [*settings, f"run.seed={seed}"])
        content = json.dumps(recipe.as_dict(), sort_keys=True)
        slug = re.sub(r"[^A-Za-z0-9]+", "-", recipe.name).strip("-")
        folder = f"{slug}-seed{seed}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"
        return replace(recipe, run=replace(recipe.run, out=str(out / folder)))

    def options(self, seed: int, out: Path) -> list[str]:
        """Of `ajepa pretrain`."""
        settings = [f"{key}={_as_option(value)}" for key, value in self.set.items()]
        return [self.recipe, *settings, f"run.seed={seed}", f"run.out={self.loaded(seed, out).run.out}"]

    def source(self, seed: int, out: Path) -> str:
        """What `load_model` takes once the run is done."""
        folder = Path(self.loaded(seed, out).run.out)
        return str(checkpoint_path(folder, 0) if self.random else folder)


def _as_option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def run_all(
    entries: Iterable[Pretraining], out: Path, *, jobs: int = 1, threads: int | None = None
) -> dict[Path, str]:
    """Pre-train what is not finished, `jobs` runs at a time; output goes to a log beside each run's folder.

    Args:
        out: folder of the runs' folders.
        threads: of each process; None leaves them as they are.

    Returns:
        Why runs failed, by their folder: empty where all went well.
    """
    wanted = {}
    for entry in entries:
        for seed in entry.seeds:
            folder = Path(entry.loaded(seed, out).run.out)
            if not (folder / "encoder.safetensors").is_file():
                wanted[folder] = entry.options(seed, out)
    failed: dict[Path, str] = {}

    def run(item: tuple[Path, list[str]]) -> None:
        folder, options = item
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        print(f"pre-training {folder.name}; its output: {log}", file=sys.stderr, flush=True)
        with FileLock(folder.with_suffix(".lock")):
            try:
                seconds = run_module("ajepa.cli", ["pretrain", *options], Path.cwd(), log, threads=threads)
            except EvaluationError as error:
                failed[folder] = str(error)
            else:
                print(f"{folder.name}: done in {seconds:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, wanted.items()))
    return failed


def spent(folder: Path) -> dict[str, float]:
    """What a run took: steps, clips, and seconds of training alone, from its metrics."""
    clips = load_recipe(str(folder / "recipe.yaml")).optim.batch_size
    seconds, before = 0.0, 0
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if "clips_per_s" in line:
            seconds += (line["step"] - before) * clips / line["clips_per_s"]
            before = line["step"]
    return {"steps": before, "clips": before * clips, "seconds": round(seconds, 1)}


def joined(results: Sequence[Result], seed_of: Mapping[str, tuple[str, int]]) -> list[Result]:
    """Results with those of one pre-trained model's seeds made one.

    The score is the mean over the seeds. A draw of its interval draws seeds as well as clips, each with
    replacement, so that it says how another run of the recipe might do; `spread` is the standard deviation
    over the seeds. Models with the same seeds draw the same ones, so that their difference is paired.

    Args:
        seed_of: by the name of a result's model, the model's own name and the seed.
    """
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        record = result.record
        model = seed_of.get(record["model"], (record["model"], 0))[0]
        groups[model, record["task"], record["protocol"]].append(result)
    return [
        _join(model, members, [seed_of[m.record["model"]][1] for m in members])
        if members[0].record["model"] in seed_of
        else members[0]
        for (model, _, _), members in groups.items()
    ]


def _join(model: str, members: Sequence[Result], seeds: list[int]) -> Result:
    scores = [member.record["score"] for member in members]
    folds = [member.record["folds"] for member in members]
    draws_S = members[0].draws_S
    if len(members) > 1 and all(len(member.draws_S) for member in members):
        draws_RS = torch.stack([member.draws_S for member in members])
        generator = torch.Generator().manual_seed(zlib.crc32(repr(seeds).encode()))
        runs, draws = draws_RS.shape
        chosen_RS = torch.randint(runs, (runs, draws), generator=generator)
        draws_S = draws_RS.gather(0, chosen_RS).mean(0)
    folders = [run_folder(member.record["source"]) for member in members]
    record = members[0].record | {
        "model": model,
        "score": sum(scores) / len(scores),
        "interval": interval(draws_S) if len(draws_S) else None,
        "folds": {split: sum(one[split] for one in folds) / len(folds) for split in folds[0]},
        "pretraining": {
            "seeds": seeds,
            "scores": scores,
            "runs": [folder.name for folder in folders],
            "spent": [spent(folder) for folder in folders],  # of random weights: by the run they began
        },
    }
    if len(members) > 1:
        record["spread"] = float(torch.tensor(scores).std())
        for key in {"weights", "chosen"} & set(record):
            record[key] = [member.record[key] for member in members]
        if record["interval"] is not None:
            record["interval_method"] += f", and over {len(members)} pre-trainings"
    return Result(record, draws_S)


def run_folder(source: str) -> Path:
    """The folder of the run that a model's source belongs to."""
    path = Path(source)
    return path.parent.parent if path.suffix else path  # a checkpoint lies two folders down
