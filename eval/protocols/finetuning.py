"""Fine-tuning as a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ajepa.eval.finetune.config import FinetuneConfig, config_for, recipe_name
from ajepa.eval.models.open import FrameModel
from ajepa.eval.progress import say
from ajepa.eval.results.result import Result

from .base import Bench, ProtocolError, Seeded, TaskEntry


@dataclass(frozen=True)
class Finetuning(Seeded):
    """Fine-tuning of all weights.

    Attributes:
        recipe: name of the recipe; None is the task's own.
        set: settings that override the recipe's and those of the task's entry.
    """

    recipe: str | None = None
    set: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.set, dict):
            raise ProtocolError(f"set is {self.set!r}; give settings such as {{epochs: 20}}")

    def config(self, entry: TaskEntry, multilabel: bool) -> FinetuneConfig:
        """The settings for a task. Raises FinetuneConfigError for unknown ones."""
        settings = {**entry.finetune.get("set", {}), **self.set}
        texts = [f"{key}={value}" for key, value in settings.items()]
        return config_for(entry.task, self._recipe(entry), texts, multilabel=multilabel)

    def _recipe(self, entry: TaskEntry) -> str:
        return recipe_name(entry.task, self.recipe or entry.finetune.get("recipe"))

    def check(self, entry: TaskEntry) -> None:
        """Checks the data and the settings."""
        super().check(entry)
        own = entry.finetune
        if not isinstance(own, dict) or not isinstance(own.get("set", {}), dict):
            raise ProtocolError(
                f"task {entry.name}: finetune is {own!r}; give settings such as {{set: {{epochs: 20}}}}"
            )
        if surplus := set(own) - {"recipe", "set"}:
            raise ProtocolError(f"task {entry.name}: finetune has {', '.join(surplus)}; it takes recipe, set")
        self.config(entry, entry.multilabel)

    def can_score(self, module: nn.Module) -> bool:
        """Whether its weights can be trained: those of baselines and of some encoders cannot."""
        return isinstance(module, FrameModel) and module.trainable

    def depends_on(self, entry: TaskEntry, task: str) -> Sequence[object]:
        """The task and all settings."""
        return (task, self.protocol, self.config(entry, entry.multilabel))

    def run(self, bench: Bench, entry: TaskEntry, folder: Path) -> list[Result]:
        """Train for each seed and test split."""
        # Imports Lightning, which takes seconds; processes that only probe do not need it.
        from ajepa.eval.classifiers.folder import save_classifier
        from ajepa.eval.classifiers.made import of_network
        from ajepa.eval.finetune.run import Kept, finetune_model

        task = bench.task(entry)

        def report(split: str, seed: int, line: dict[str, float]) -> None:
            values = ", ".join(f"{name} {value:.4g}" for name, value in line.items())
            say(f"{bench.name}, seed {seed}, {split}: {values}")

        def complete(result: Result) -> Result:
            details = {**result.record.details, "recipe": self._recipe(entry)}
            return result._replace(record=replace(result.record, details=details))

        def save(result: Result, kept: Kept) -> None:
            made = of_network(*kept, model=bench.model(), task=task, record=complete(result).record)
            assert folder_to_save is not None
            save_classifier(made, folder_to_save)

        folder_to_save = bench.conditions.save
        result = finetune_model(
            bench.model(),  # bf16 applies to training, not to the stored weights
            task,
            self.config(entry, task.multilabel),
            seeds=self.seeds,
            bf16=bench.conditions.precision == "bf16",
            report=report,
            keep=save if folder_to_save else None,
        )
        return [complete(result)]
