"""The interface of protocols, which are ways of scoring a model on a task.

A protocol is a frozen dataclass of its settings. It defines which of a task's folders it reads, which models
it takes, what its score depends on (so that finished cells are recognised), and how it runs. Another package
adds one as an entry point of the group `ajepa.protocols`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ajepa.errors import AjepaError
from ajepa.eval.models.open import ClipModel, Named, open_source
from ajepa.eval.results.answers import scored
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.results.kept import answers_of_toolkit
from ajepa.eval.results.provenance import provenance
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result
from ajepa.eval.results.scores import summary
from ajepa.eval.tasks import MULTILABEL, Task, open_task
from ajepa.eval.toolkits.commands import versions
from ajepa.model.fingerprint import fingerprint
from ajepa.model.precision import Precision


class ProtocolError(AjepaError, ValueError):
    """Settings of a protocol are wrong, or its task lacks something; the message says what to give."""


@dataclass(frozen=True)
class TaskEntry:
    """A task of a comparison.

    Attributes:
        name: its name in tables.
        task: its name for `open_task`.
        folders: where its data are. `data` is the data set's folder, or a table. `hear`, `s3prl` and `xares`
            are folders made from it by `ajepa data hear-task`, `ajepa data s3prl` and `ajepa data xares`.
        options: options of the task.
        finetune: `recipe` and `set` for fine-tuning on this task.
    """

    name: str
    task: str
    folders: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)

    @property
    def multilabel(self) -> bool:
        """Whether its clips have several labels, judged without opening it."""
        return self.task in MULTILABEL or bool(self.options.get("multilabel"))

    def folder(self, kind: str) -> Path:
        """One of its folders as an absolute path, because toolkits run in other folders."""
        return Path(self.folders[kind]).resolve()

    def open(self) -> Task:
        """The task itself; raises the errors of `open_task`."""
        return open_task(self.task, self.folders["data"], **self.options)


@dataclass(frozen=True)
class Conditions:
    """What all cells of a comparison share.

    Attributes:
        folder: folder of the results.
        cache: folder of the embeddings.
        precision: precision of the models.
        device: where models run. None is the CPU; for toolkits it is a GPU if there is one.
        threads: threads of each process; None leaves the number as it is.
        save: folder for the classifier that a linear probe or a fine-tuning leaves; None keeps none.
    """

    folder: Path
    cache: Path
    precision: Precision = "float32"
    device: str | None = None
    threads: int | None = None
    save: Path | None = None

    @property
    def toolkit_device(self) -> str:
        """Where toolkits run, in their own processes."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


class Bench:
    """A model and its tasks, each opened when it is first needed."""

    def __init__(self, name: str, source: str, conditions: Conditions) -> None:
        self.name, self.source, self.conditions = name, source, conditions
        self._models: dict[Precision, Named] = {}
        self._tasks: dict[str, Task] = {}

    def model(self, precision: Precision = "float32") -> Named:
        """The model, opened once; raises the errors of `open_source`."""
        if precision not in self._models:
            self._models[precision] = open_source(self.name, self.source, self.conditions.device, precision)
        return self._models[precision]

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the weights in full precision."""
        return fingerprint(self.model().module)

    def task(self, entry: TaskEntry) -> Task:
        """The task of an entry, opened once; raises the errors of `open_task`."""
        if entry.name not in self._tasks:
            self._tasks[entry.name] = entry.open()
        return self._tasks[entry.name]


@dataclass(frozen=True)
class Protocol(ABC):
    """One way of scoring. The fields are its settings, as in a comparison's file or after `--set`.

    Numbers given as text are converted. Raises ProtocolError for a value of the wrong type.

    Attributes:
        protocol: its kind, which is its name in the registry.
        reads: which of a task's folders it needs.
        example: such a folder, for error messages.
        takes: the kinds of models that it can score.
    """

    protocol: str

    reads: ClassVar[str] = "data"
    example: ClassVar[str] = "{data: FOLDER}"
    takes: ClassVar[tuple[type, ...]] = (ClipModel,)  # every model

    def __post_init__(self) -> None:
        for one in fields(self):
            if type(one.default) in (int, float, str):
                value = getattr(self, one.name)
                object.__setattr__(self, one.name, _converted(one.name, value, one.default))

    def one_of(self, **choices: Sequence[str]) -> None:
        """Raises ProtocolError for a setting with another value than these."""
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ProtocolError(f"{name} is {value!r}; choose {', '.join(known[:-1])} or {known[-1]}")

    @property
    def embeds(self) -> int:
        """Which cached embeddings it needs: 0 for none, 1 for the last layer, 2 for all layers."""
        return 0

    @property
    def repeats(self) -> Sequence[int]:
        """The seeds. Each is a training, which may already be finished; they are part of a cell's name."""
        return ()

    def check(self, entry: TaskEntry) -> None:
        """Raises ProtocolError if the entry lacks something that the protocol needs; opens no file."""
        if self.reads not in entry.folders:
            what = "data" if self.reads == "data" else "folder"
            raise ProtocolError(
                f"task {entry.name} needs its {what} for {self.protocol}, such as {self.example}"
            )

    def refusal(self, bench: Bench, entry: TaskEntry) -> str:
        """Why it cannot score a model on a task; empty if it can."""
        if self.can_score(bench.model().module):
            return ""
        return (
            f"the protocol {self.protocol} cannot score {bench.source}; choose a model that ajepa.load_model "
            "loads, or the protocol linear or knn"
        )

    def can_score(self, module: nn.Module) -> bool:
        """Whether a model has what the protocol needs of it."""
        return isinstance(module, self.takes)

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """What the score depends on, apart from the weights, seeds, precision and version of this package.

        Args:
            task: fingerprint of the task's clips; empty if the protocol does not read them.

        Raises:
            ProtocolError, EvaluationError: the toolkit or the data are missing.
        """
        return (task, *asdict(self).values())

    @abstractmethod
    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Score the model on the task.

        Args:
            folder: for a toolkit's files. It may not exist yet, or hold the files of an interrupted process.
                Cells that differ only in their seeds share it, one at a time.
        """


def _converted(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    try:
        made = kind(value)
        if (kind is not str and isinstance(value, bool)) or (kind is int and made != float(value)):
            raise ValueError("wrong type")
        if kind is float and not math.isfinite(made):
            raise ValueError("not finite")
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"{name} is {value!r}; expected a value such as {default}") from error
    return made


@dataclass(frozen=True)
class Seeded(Protocol):
    """A protocol that trains once for each seed.

    Attributes:
        seeds: one number or several; the score is the mean over them.
    """

    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        seeds = tuple(self.seeds) if isinstance(self.seeds, (list, tuple)) else (self.seeds,)
        if (
            not seeds
            or any(type(seed) is not int or not 0 <= seed < 2**32 for seed in seeds)  # numpy's range
            or len(set(seeds)) < len(seeds)
        ):
            raise ProtocolError(
                f"seeds are {self.seeds}; give different numbers from 0 to {2**32 - 1}, such as [0, 1, 2]"
            )
        object.__setattr__(self, "seeds", seeds)

    @property
    def repeats(self) -> Sequence[int]:
        """The seeds."""
        return self.seeds

    def settings(self) -> dict[str, Any]:
        """The settings that all seeds share."""
        given = asdict(self)
        del given["protocol"], given["seeds"]
        return given

    def result(
        self, bench: Bench, runs: Sequence[Mapping[str, Any]], packages: Sequence[str], work: int, **own: Any
    ) -> Result:
        """The result of a toolkit's heads.

        Args:
            runs: for each seed, the columns of `answers.scored` and the `seconds` that it took.
            packages: those of the toolkit, whose versions are recorded.
            work: number of clips that a seed processes, for the rate.
            own: the other fields of the record.

        Raises:
            EvaluationError: the seeds were tested on different clips.
        """
        first = runs[0]
        if any(run["clips"] != first["clips"] for run in runs):
            raise EvaluationError(
                f"{bench.name}, {self.protocol}: seeds were tested on different clips; remove the folder of "
                "the toolkit's files and run again"
            )
        fields, draws_S = summary([scored(run) for run in runs], ", of the toolkit's answers")
        seconds = sum(run["seconds"] for run in runs)
        about = provenance(torch.device(bench.conditions.toolkit_device))
        about["versions"] |= versions(*packages)
        record = Record(
            model=bench.name,
            protocol=self.protocol,
            protocol_kind=self.protocol,
            metric="accuracy",
            seeds=self.seeds,
            classes=len(set(first["truth"])),
            seconds=seconds,
            clips_per_s=work * len(runs) / seconds,
            **fields,
            **about,
            **own,
        )
        return Result(record, draws_S, answers=answers_of_toolkit(runs, self.seeds, record.layer))
