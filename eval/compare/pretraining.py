"""Models that are pre-trained for a comparison: a recipe with settings, once per seed.

    pretrain: {data.source: data/pretrain, optim.steps: 2500}     # settings for all models below
    models:
      block: {recipe: ajepa-small-cpu-block, seeds: [0, 1, 2]}
      small steps: {recipe: ajepa-small-cpu, set: {optim.lr: 1.0e-4}, seeds: [0, 1, 2]}
      small steps, random: {recipe: ajepa-small-cpu, weights: random}    # the same network, untrained
      small steps, context: {recipe: ajepa-small-cpu, encoder: context}  # the other encoder of the same run

A run's folder is named by a hash of its whole recipe: a finished run is never run again, and an interrupted
one continues. If only its random weights are needed, it ends before its first step. The seeds of a model
become one record.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from ajepa.checkpoints.layout import ENCODER, checkpoint_path, encoder_file
from ajepa.errors import AjepaError
from ajepa.eval.digest import digest
from ajepa.eval.progress import say
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.record import PretrainingRun
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import deviation, interval, mean
from ajepa.eval.robustness.curve import robustness
from ajepa.eval.toolkits.commands import run_module
from ajepa.pictures.curves import CurvesError, read_metrics, training_time
from ajepa.recipes import Recipe, RecipeError, load_recipe

KEYS = {"recipe", "set", "seeds", "weights", "encoder"}
# Keys of a recipe that came after the first comparisons.
ADDED = (("data", "segment_seconds"), ("objective", "stretching"))
OF_A_RUN = ("weights", "by_seed", "chosen")  # the fields of a record that differ between the runs of a model


class Run(NamedTuple):
    """One pre-training run.

    Attributes:
        model, seed: the name of its entry, and its seed.
        folder: the run's folder.
        options: options of `ajepa pretrain`.
        source: the source for `load_model` once the run is finished.
        random: only the weights before the first step are needed.
    """

    model: str
    seed: int
    folder: Path
    options: list[str]
    source: str
    random: bool = False

    @property
    def done(self) -> bool:
        """Whether its weights exist."""
        source = Path(self.source)
        return (source / ENCODER if source == self.folder else source).is_file()

    @property
    def name(self) -> str:
        """Name of the model that it produces."""
        return f"{self.model}, seed {self.seed}"


class PretrainingError(AjepaError, ValueError):
    """The entry of a model to pre-train is wrong; the message names it."""


@dataclass(frozen=True)
class Pretraining:
    """A model to pre-train.

    Attributes:
        name: the model's name.
        recipe: the name of a packaged recipe, or a YAML file.
        set: settings that override the recipe's.
        seeds: one run each.
        random: use the runs' random weights, from before the first step.
        encoder: which of the objective's encoders, by its name; empty for the one that the recipe evaluates.
    """

    name: str
    recipe: str
    set: dict[str, Any]
    seeds: tuple[int, ...]
    random: bool
    encoder: str = ""

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], common: Mapping[str, Any]) -> Pretraining:
        """Raises PretrainingError for an entry that does not define what to train."""
        if surplus := sorted(map(str, set(given) - KEYS)):
            raise PretrainingError(
                f"model {name}: {', '.join(surplus)}; it takes {', '.join(sorted(KEYS))}, or a source's name"
            )
        seeds = given.get("seeds", [0])
        seeds = seeds if isinstance(seeds, list) else [seeds]
        if not isinstance(given.get("recipe"), str):
            raise PretrainingError(
                f"model {name}: recipe is {given.get('recipe')!r}; name a recipe or its file"
            )
        if not seeds or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
            raise PretrainingError(
                f"model {name}: seeds is {given['seeds']!r}; give different whole numbers, such as [0, 1]"
            )
        if given.get("weights", "trained") not in ("trained", "random"):
            raise PretrainingError(f"model {name}: weights is {given['weights']!r}; choose trained or random")
        own = given.get("set", {})
        if not isinstance(own, dict):
            raise PretrainingError(f"model {name}: set is {own!r}; give settings such as {{optim.lr: 1e-3}}")
        random, encoder = given.get("weights") == "random", given.get("encoder", "")
        if random and encoder:
            raise PretrainingError(
                f"model {name}: random weights are those of every encoder; leave encoder out"
            )
        found = cls(name, given["recipe"], {**common, **own}, tuple(seeds), random, encoder)
        try:
            found.runs(Path())
        except RecipeError as error:
            raise PretrainingError(f"model {name}: {error}") from error
        return found

    def runs(self, out: Path) -> list[Run]:
        """One run per seed, in folders below `out`. Raises RecipeError for wrong settings."""
        found = []
        for seed in self.seeds:
            settings = [
                f"{key}={value if isinstance(value, str) else json.dumps(value)}"
                for key, value in (self.set | {"run.seed": seed}).items()
            ]
            recipe = load_recipe(self.recipe, settings)
            content = json.dumps(identity(recipe), sort_keys=True)
            slug = re.sub(r"[^A-Za-z0-9]+", "-", recipe.name).strip("-")
            folder = out / f"{slug}-seed{seed}-{digest([content], 10)}"
            source = checkpoint_path(folder, 0) if self.random else folder
            if self.encoder:
                names = list(recipe.objective.encoders)
                if self.encoder not in names:
                    raise RecipeError(f"encoder is {self.encoder!r}; choose {' or '.join(names)}")
                source = folder / (ENCODER if self.encoder == names[0] else encoder_file(self.encoder))
            options = [self.recipe, *settings, f"run.out={folder}", *["--untrained"] * self.random]
            found.append(Run(self.name, seed, folder, options, str(source), self.random))
        return found


def identity(recipe: Recipe) -> dict[str, Any]:
    """What names a run's folder: the recipe, less those keys of later versions that are not in use."""
    values, before = recipe.as_dict(), Recipe().as_dict()
    for part, key in ADDED:
        if key in values[part] and values[part][key] == before[part][key]:
            del values[part][key]
    return values


def run_all(runs: Sequence[Run], *, jobs: int = 1, threads: int | None = None) -> dict[str, str]:
    """Run the unfinished pre-trainings, `jobs` at a time; output goes to a log next to each run's folder.

    Args:
        threads: threads of each process; None leaves the number as it is.

    Returns:
        Why weights are missing, by the models' names: empty if all went well.
    """
    # Trained and random weights of one recipe come from the same run: training writes both.
    wanted: dict[Path, Run] = {}
    for run in sorted(runs, key=lambda run: run.random):
        if not run.done:
            wanted.setdefault(run.folder, run)
    failed: dict[Path, str] = {}

    def pretrain(run: Run) -> None:
        folder, log = run.folder, run.folder.with_suffix(".log")
        folder.parent.mkdir(parents=True, exist_ok=True)
        say(f"pre-training {folder.name}; its output: {log}")
        command = ["pretrain", *run.options]
        try:
            with FileLock(folder.with_suffix(".lock")):
                seconds = run_module("ajepa.cli", command, Path.cwd(), log, threads=threads, append=True)
        except EvaluationError as error:
            failed[folder] = str(error)
            say(f"{folder.name} failed: {error}")
        else:
            say(f"{folder.name}: done in {seconds:.0f} s")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(pretrain, wanted.values()))
    return {run.name: failed[run.folder] for run in runs if run.folder in failed and not run.done}


def spent(folder: Path) -> dict[str, Any]:
    """The cost of a run: steps, clips, and seconds of training alone, from its metrics."""
    clips = load_recipe(str(folder / "recipe.yaml")).optim.batch_size
    try:
        lines = read_metrics(folder)
    except CurvesError:  # a run of random weights has logged nothing
        lines = []
    steps, seconds = training_time(lines, clips)
    return {"steps": steps, "clips": steps * clips, "seconds": round(seconds, 1)}


def joined(results: Sequence[Result], runs: Mapping[str, Run]) -> list[Result]:
    """Results, with the results of one pre-trained model's seeds combined into one.

    The score is the mean over the seeds. Each draw of its interval draws seeds as well as clips, with
    replacement, so the interval covers other runs of the recipe. A draw takes one seed fewer than there are:
    its mean then varies over the draws as much as the mean of all seeds does over repetitions (Rao and Wu,
    1988). Drawing all seeds would vary too little, half as much with two. `spread` is the standard deviation
    over the seeds. Models with the same seeds draw the same ones, so that their difference is paired.

    Args:
        runs: by the name of a result's model.
    """
    groups: dict[object, list[Result]] = defaultdict(list)
    for place, result in enumerate(results):
        record, run = result.record, runs.get(result.record.model)
        key = (run.model, record.task, record.protocol, record.layer) if run else place
        groups[key].append(result)
    return [
        members[0] if isinstance(key, int) else _join(members, [runs[one.record.model] for one in members])
        for key, members in groups.items()
    ]


def _join(members: Sequence[Result], runs: Sequence[Run]) -> Result:
    seeds = [run.seed for run in runs]
    records, several = [member.record for member in members], len(members) > 1
    scores = [record.score for record in records]
    draws_XS = members[0].all_draws()  # X: the clean clips, then each corruption
    if several and all(len(member.draws_S) for member in members):
        draws_RXS = torch.stack([member.all_draws() for member in members])
        generator = torch.Generator().manual_seed(zlib.crc32(repr(seeds).encode()))
        shape = (len(draws_RXS) - 1, draws_RXS.shape[2])
        chosen_RS = torch.randint(len(draws_RXS), shape, generator=generator)
        chosen_RXS = chosen_RS[:, None].expand(-1, draws_RXS.shape[1], -1)
        draws_XS = draws_RXS.gather(0, chosen_RXS).mean(0)
    draws_S, corrupted_XS = draws_XS[0], draws_XS[1:]
    first = records[0]
    curves = zip(*(record.corrupted for record in records), strict=True)
    corrupted = [mean([one.score for one in alike]) for alike in curves]
    names = [one.corruption for one in first.corrupted]
    curve, area = robustness(names, corrupted, corrupted_XS, mean(scores), draws_S)
    record = replace(
        first,
        corrupted=curve,
        noise_area=area,
        model=runs[0].model,
        source=runs[0].options[0],  # the recipe; the runs' folders are named below
        score=mean(scores),
        interval=interval(draws_S),
        answers=tuple(file for record in records for file in record.answers),
        features=tuple(file for record in records for file in record.features),
        folds={split: mean([record.folds[split] for record in records]) for split in first.folds},
        pretraining=tuple(
            PretrainingRun(
                seed=run.seed,
                score=record.score,
                run=run.folder.name,
                **spent(run.folder),  # for random weights: the run that they started
                **{name: getattr(record, name) for name in OF_A_RUN if several},
            )
            for run, record in zip(runs, records, strict=True)
        ),
    )
    if several:
        method = first.interval_method
        record = replace(
            record,
            weights=None,
            by_seed=(),
            chosen=(),
            spread=deviation(scores),
            interval_method=f"{method}, and over {len(records)} pre-trainings" if record.interval else method,
        )
    return Result(record, draws_S, corrupted_XS)
