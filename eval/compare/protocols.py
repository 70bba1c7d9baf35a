"""What a comparison may do with a model and a task: probes, fine-tuning and the stock HEAR toolkit.

A protocol says of what its score depends, so that a finished cell is known again, and how it is run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from ajepa.errors import AjepaError
from ajepa.eval.finetune.config import FinetuneConfig, config_for
from ajepa.eval.models.open import EncoderModel, Named, open_source
from ajepa.eval.probe.embeddings import DEFAULT_CACHE
from ajepa.eval.probe.run import ProbeOptions, probe_model
from ajepa.eval.results.result import Result
from ajepa.eval.tasks import MULTILABEL, Task, open_task
from ajepa.eval.toolkits.commands import versions
from ajepa.eval.toolkits.hear import Entry, evaluate
from ajepa.model.fingerprint import fingerprint
from ajepa.model.precision import Precision


class ProtocolError(AjepaError, ValueError):
    """A protocol cannot be run on a task as the comparison has them; the message says what is missing."""


@dataclass(frozen=True)
class TaskEntry:
    """A task of a comparison.

    Attributes:
        name: as the tables call it.
        task: what `open_task` calls it.
        data: the data set's folder, or a table; None where HEAR alone is asked for.
        options: those of the task.
        hear: the task's folder for the HEAR toolkit, made by `ajepa data hear-task`.
        finetune: `recipe` and `set` of fine-tuning on this task.
    """

    name: str
    task: str
    data: str | None
    options: dict[str, Any] = field(default_factory=dict)
    hear: str | None = None
    finetune: dict[str, Any] = field(default_factory=dict)

    @property
    def multilabel(self) -> bool:
        """Whether its clips have several labels, told before it is opened."""
        return self.task in MULTILABEL or bool(self.options.get("multilabel"))

    def open(self) -> Task:
        """Its clips; raises as `open_task` does."""
        return open_task(self.task, str(self.data), **self.options)


@dataclass(frozen=True)
class Conditions:
    """What all cells of a comparison share.

    Attributes:
        folder: of the results.
        cache: folder of the embeddings.
        precision: of the models.
        device: where models are put; None is the CPU.
        threads: of each process; None leaves them as they are.
    """

    folder: Path
    cache: Path
    precision: Precision = "float32"
    device: str | None = None
    threads: int | None = None


class Bench:
    """A model and the tasks that it is tried on, opened when they are first needed."""

    def __init__(self, name: str, source: str, conditions: Conditions) -> None:
        self.name, self.source, self.conditions = name, source, conditions
        self._models: dict[Precision, Named] = {}
        self._tasks: dict[str, Task] = {}

    def model(self, precision: Precision) -> Named:
        """The model, opened once; raises as `open_source` does."""
        if precision not in self._models:
            self._models[precision] = open_source(self.name, self.source, self.conditions.device, precision)
        return self._models[precision]

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the model, before it is rounded to another precision."""
        model = self.model("float32").module
        return f"{type(model).__name__} {fingerprint(model)}"

    def task(self, entry: TaskEntry) -> Task:
        """The task of an entry, opened once; raises as `open_task` does."""
        if entry.name not in self._tasks:
            self._tasks[entry.name] = entry.open()
        return self._tasks[entry.name]


@dataclass(frozen=True)
class Protocol(ABC):
    """One way of scoring.

    Attributes:
        protocol: its kind, a key of `PROTOCOLS`.
    """

    protocol: str

    @property
    def embeds(self) -> int:
        """How much of the cached embeddings it needs: 0 nothing, 1 the last layer, 2 all."""
        return 0

    def check(self, entry: TaskEntry) -> None:
        """Raises ValueError where the entry lacks what the protocol needs, or has what it does not know."""
        if entry.data is None:
            raise ProtocolError(
                f"task {entry.name} needs its data for {self.protocol}, such as {{data: FOLDER}}"
            )

    def takes(self, model: Named) -> bool:
        """Whether it can be used on a model: probes take every one."""
        return True

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """All that the score depends on beside the weights, precision and version of the package.

        Args:
            task: fingerprint of the task; empty where it has no data.
        """
        return (task, *asdict(self).values())

    @abstractmethod
    def run(self, bench: Bench, entry: TaskEntry) -> Result:
        """Score the model on the task."""


@dataclass(frozen=True)
class Probing(Protocol):
    """A linear probe or nearest neighbours on frozen features; see `ProbeOptions`."""

    layer: str = "last"
    pool: str = "concat"
    time: str = "mean"
    class_weight: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", str(self.layer))  # a number, in the file
        if self.layer == "each":
            raise ProtocolError("layer is each; a comparison takes last, best, weighted or a number")
        self._options(DEFAULT_CACHE)  # raises for what they do not know

    @property
    def embeds(self) -> int:
        """The last layer or all."""
        return 1 if self.layer == "last" else 2

    def run(self, bench: Bench, entry: TaskEntry) -> Result:
        """Embed, or take what is cached, and probe."""
        options = self._options(bench.conditions.cache)
        (result,) = probe_model(bench.model(bench.conditions.precision), bench.task(entry), options)
        return result

    def _options(self, cache: str | Path) -> ProbeOptions:
        return ProbeOptions(**asdict(self), cache=cache)


@dataclass(frozen=True)
class Finetuning(Protocol):
    """Fine-tuning.

    Attributes:
        recipe: its name; None takes the task's.
        set: settings over the recipe's and over those of the task's entry.
        seeds: whose scores are averaged.
    """

    recipe: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        seeds = tuple(self.seeds) if isinstance(self.seeds, (list, tuple)) else (self.seeds,)
        if not seeds or any(type(seed) is not int for seed in seeds):
            raise ProtocolError(f"seeds are {self.seeds}; give numbers such as [0, 1, 2]")
        object.__setattr__(self, "seeds", seeds)
        if not isinstance(self.set, dict):
            raise ProtocolError(f"set is {self.set!r}; give settings such as {{epochs: 20}}")

    def config(self, entry: TaskEntry) -> FinetuneConfig:
        """The settings for a task. Raises FinetuneConfigError for what they do not know."""
        settings = entry.finetune.get("set", {}) | self.set
        recipe = self.recipe or entry.finetune.get("recipe")
        texts = [f"{key}={value}" for key, value in settings.items()]
        return config_for(entry.task, recipe, texts, multilabel=entry.multilabel)

    def check(self, entry: TaskEntry) -> None:
        """Its data and settings."""
        super().check(entry)
        own = entry.finetune
        if not isinstance(own, dict) or not isinstance(own.get("set", {}), dict):
            raise ProtocolError(
                f"task {entry.name}: finetune is {own!r}; give settings such as {{set: {{epochs: 20}}}}"
            )
        if surplus := set(entry.finetune) - {"recipe", "set"}:
            raise ProtocolError(f"task {entry.name}: finetune has {', '.join(surplus)}; it takes recipe, set")
        self.config(entry)

    def takes(self, model: Named) -> bool:
        """Encoders of ours: a baseline has nothing to train."""
        return isinstance(model.module, EncoderModel)

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """The task, all settings, the seeds."""
        return (task, self.protocol, self.config(entry), self.seeds)

    def run(self, bench: Bench, entry: TaskEntry) -> Result:
        """Train for each seed and test split."""
        # Lightning, which comes with it, takes seconds to import: processes for probes do without.
        from ajepa.eval.finetune.records import finetune_model

        return finetune_model(
            bench.model("float32"),  # bf16 is that of training, not of the weights
            bench.task(entry),
            self.config(entry),
            seeds=self.seeds,
            bf16=bench.conditions.precision == "bf16",
        )


@dataclass(frozen=True)
class Hear(Protocol):
    """The stock HEAR toolkit in processes of its own; see `ajepa.eval.toolkits.hear.evaluate`."""

    grid: Literal["default", "fast", "faster"] = "default"
    grid_points: int = 8

    def check(self, entry: TaskEntry) -> None:
        """It needs the task's folder."""
        if entry.hear is None:
            raise ProtocolError(
                f"task {entry.name} needs its folder for hear, such as {{hear: tasks/esc10-v2.0.0-full}}; "
                "`ajepa data hear-task` makes one"
            )

    def takes(self, model: Named) -> bool:
        """Encoders of ours, and log-mel statistics, which have a module for the toolkit."""
        return model.source == "logmel" or isinstance(model.module, EncoderModel)

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """Names, sizes and dates of the files of the task's folder, the grid and the toolkit."""
        folder = Path(str(entry.hear))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        states = [path.stat() for path in files]
        listed = [
            (path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns)
            for path, state in zip(files, states, strict=True)
        ]
        return (self.protocol, self.grid, self.grid_points, listed, versions("heareval"))

    def run(self, bench: Bench, entry: TaskEntry) -> Result:
        """Run its commands. The toolkit's scores have no bootstrap draws."""
        folder = Path(str(entry.hear)).resolve()
        # A folder for each cell: two at a time share no file.
        cell = f"{bench.weights.split()[-1]}-{folder.name}-{self.grid}-{self.grid_points}"
        out = bench.conditions.folder / "hear" / cell
        (record,) = evaluate(
            [Entry.of(bench.name, bench.source)],
            folder.parent,
            out,
            task=folder.name,
            grid=self.grid,
            grid_points=self.grid_points,
        )
        record |= {"interval": None, "layer": "last", "notes": [], "probe_seconds": record["predict_seconds"]}
        return Result(record, torch.empty(0))


PROTOCOLS: dict[str, type[Protocol]] = {
    "linear": Probing,
    "knn": Probing,
    "finetune": Finetuning,
    "hear": Hear,
}
