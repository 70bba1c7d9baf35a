"""The file of a comparison: models, tasks and protocols.

    models:                       # name: what `ajepa evaluate --model` takes
      log-mel: logmel
      twin: ajepa-small-cpu
      A-JEPA: runs/first
    tasks:                        # name: the task's data and options; `task` if the task has another name
      esc10: {data: esc50, hear: tasks/esc10-v2.0.0-full}   # its folders for the toolkits: `hear`,
      speakers: {task: voxceleb1, data: voxceleb1, s3prl: sid, xares: env/voxceleb1}   # `s3prl`, `xares`
      words: {task: speech_commands_v2, data: speech_commands_v0.02, finetune: {set: {epochs: 12}}}
    protocols: [linear, knn]      # or names with options, as below
    baseline: log-mel             # optional: a model or a protocol that the others are compared with
    layer: last                   # optional, like pool, time and precision; for frozen features

Protocols with options are a mapping like the tasks, with `protocol` if the protocol has another name:

    protocols:
      linear: {}
      layers: {protocol: linear, layer: weighted}
      finetune: {set: {epochs: 20}, seeds: [0, 1, 2]}
      no masking: {protocol: finetune, set: {epochs: 20, masked_share: 0}, seeds: [0, 1, 2]}
      hear: {grid: fast, tasks: [esc10]}
      s3prl: {steps: 20000, lr: 1.0e-3}
      xares: {seeds: [0, 1, 2]}

linear and knn take layer, pool, time, class_weight, corrupt and noise; events takes layer, pool and collar;
verify takes layer, pool, time and center; finetune takes
recipe, set and seeds; hear takes grid and grid_points; s3prl takes steps, lr, eval_every, frequency,
cache_gigabytes, workers and seeds; xares takes frequency, epochs, lr and seeds. `tasks` limits any of them to
some of the tasks. Paths start at the folder where the command runs. A task's `finetune` has recipe and set
for that task; a protocol's own settings take precedence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from ajepa.contents import ContentError, read_yaml
from ajepa.errors import AjepaError
from ajepa.eval.protocols import PROTOCOLS, Protocol, TaskEntry
from ajepa.eval.tasks import TASKS, check_options
from ajepa.model.precision import Precision

from .pretraining import Pretraining, Run


def _check_name(of: str, name: object) -> None:
    """Raises ComparisonError for a name that a table cannot show."""
    if not isinstance(name, str):
        raise ComparisonError(f"{of}: a name is text; put {name} in quotes")
    if not name.strip() or not name.isprintable() or "|" in name:
        raise ComparisonError(
            f"{of}: the name {name!r} cannot stand in a table; give one line of text without |"
        )


class ComparisonError(AjepaError, ValueError):
    """A comparison file cannot be used; the message names the file and the entry."""


@dataclass(frozen=True)
class Comparison:
    """A comparison, as read from its file; see the module docstring.

    Raises ComparisonError for an entry that is missing or has the wrong form.
    """

    models: dict[str, str | dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    protocols: list[str] | dict[str, dict[str, Any]] = field(default_factory=lambda: ["linear"])
    baseline: str | None = None
    layer: str = "last"
    pool: str = "concat"
    time: str = "mean"
    precision: Precision = "float32"
    pretrain: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Comparison:
        """Raises ComparisonError if there is no such file, or an entry is unknown, missing or malformed."""
        path = Path(path)
        if not path.is_file():
            raise ComparisonError(f"{path}: no such file; expected YAML with models, tasks and protocols")
        try:
            content = read_yaml(path)
        except ContentError as error:
            raise ComparisonError(str(error)) from error
        known = [entry.name for entry in fields(cls)]
        if not isinstance(content, dict) or (surplus := sorted(map(str, set(content) - set(known)))):
            found = ", ".join(surplus) if isinstance(content, dict) else "no entries"
            raise ComparisonError(f"{path}: {found}; a comparison has {', '.join(known)}")
        try:
            entries: dict[str, Any] = {"models": {}, "tasks": {}} | content
            return cls(**entries)
        except ComparisonError as error:
            raise ComparisonError(f"{path}: {error}") from error

    def __post_init__(self) -> None:
        for name in ("models", "tasks"):
            if not isinstance(getattr(self, name), dict) or not getattr(self, name):
                raise ComparisonError(f"{name} must be names with values, at least one")
        if not isinstance(self.protocols, (list, dict)) or not self.protocols:
            raise ComparisonError("protocols must be a list of names, or names with options")
        for name in ("models", "tasks", "protocols"):
            for one in getattr(self, name):
                _check_name(name, one)
        for name, source in self.models.items():
            if not isinstance(source, (str, dict)) or not source:
                raise ComparisonError(f"model {name} is {source!r}; give a source, or a recipe to pre-train")
        for name in ("layer", "pool", "time", "precision", "baseline"):
            if not isinstance(value := getattr(self, name), (str, int, type(None))):
                raise ComparisonError(f"{name} is {value!r}; give text")
        if not isinstance(self.pretrain, dict):
            raise ComparisonError(
                f"pretrain is {self.pretrain!r}; give settings such as {{optim.steps: 2500}}"
            )
        if self.precision not in get_args(Precision):
            known = " or ".join(get_args(Precision))
            raise ComparisonError(f"precision is {self.precision!r}, must be {known}")
        if self.baseline in self.models and self.baseline in self.protocols:
            raise ComparisonError(f"baseline {self.baseline} is both a model and a protocol; rename one")
        if self.baseline is not None and self.baseline not in {*self.models, *self.protocols}:
            raise ComparisonError(f"baseline {self.baseline} is not a model or a protocol; name one")
        try:
            self.pretrained_entries()
            for entry in self.task_entries():
                for how in self.protocols_of(entry).values():
                    how.check(entry)
        except ValueError as error:
            raise ComparisonError(str(error)) from error

    def pretrained_entries(self) -> list[Pretraining]:
        """The models to pre-train for the comparison. Raises ValueError for a malformed entry."""
        return [
            Pretraining.read(name, given, self.pretrain)
            for name, given in self.models.items()
            if isinstance(given, dict)
        ]

    def sources(self) -> dict[str, str]:
        """For each model that already exists, the source it is opened from."""
        return {name: str(given) for name, given in self.models.items() if not isinstance(given, dict)}

    def runs(self, out: Path) -> dict[str, Run]:
        """The pre-training runs, by the names of the models they produce; their folders are below `out`."""
        return {run.name: run for entry in self.pretrained_entries() for run in entry.runs(out)}

    def task_entries(self) -> list[TaskEntry]:
        """The tasks. Raises ComparisonError for a malformed entry."""
        entries = []
        kinds = {"data", *PROTOCOLS.names()} - {"finetune"}  # a folder's key is its protocol's name
        for name, given in self.tasks.items():
            if not isinstance(given, dict) or not kinds & set(given):
                raise ComparisonError(f"task {name} needs its data, such as {{data: FOLDER}}")
            task, finetune = given.get("task", name), given.get("finetune", {})
            for key in ("task", *sorted(kinds)):
                if not isinstance(value := given.get(key, name), str):
                    raise ComparisonError(f"task {name}: {key} is {value!r}; give text")
            folders = {key: value for key, value in given.items() if key in kinds}
            options = {k: v for k, v in given.items() if k not in {*kinds, "task", "finetune"}}
            if opener := TASKS.get(task):
                check_options(name, opener, options)
            entries.append(TaskEntry(name, task, folders, options, finetune))
        return entries

    def protocols_of(self, entry: TaskEntry) -> dict[str, Protocol]:
        """The protocols of a task, by name. Raises ComparisonError for a malformed entry."""
        given = self.protocols
        if isinstance(given, list):
            given = {name: {} for name in given}
        made = {name: self._protocol(name, options) for name, options in given.items()}
        return {name: how for name, (how, tasks) in made.items() if entry.name in tasks}

    def _protocol(self, name: str, options: dict[str, Any] | None) -> tuple[Protocol, list[str]]:
        """A protocol and the names of its tasks."""
        if not isinstance(options, (dict, type(None))):
            raise ComparisonError(f"protocol {name} is {options!r}; give its options, such as {{time: mean}}")
        options = dict(options or {})
        kind = options.pop("protocol", name)
        known = list(self.tasks)
        tasks = options.pop("tasks", known)
        if not isinstance(tasks, list) or not tasks or any(task not in known for task in tasks):
            raise ComparisonError(
                f"protocol {name}: tasks is {tasks!r}; give a list of names of {', '.join(known)}"
            )
        maker = PROTOCOLS.get(kind) if isinstance(kind, str) else None
        if maker is None:
            raise ComparisonError(f"protocol is {kind!r}; choose {', '.join(PROTOCOLS.names())}")
        taken = [entry.name for entry in fields(maker) if entry.name != "protocol"]
        if surplus := [str(key) for key in options if key not in taken]:
            raise ComparisonError(f"protocol {name}: {', '.join(surplus)}; {kind} takes {', '.join(taken)}")
        common = {"layer": self.layer, "pool": self.pool, "time": self.time}
        return maker(kind, **{key: value for key, value in common.items() if key in taken} | options), tasks
