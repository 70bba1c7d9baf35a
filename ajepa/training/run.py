"""A run in one process: its networks, optimiser and probe, laid out on the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ajepa.features import LogMel
from ajepa.nn.encoder import Encoder
from ajepa.objectives.base import Objective
from ajepa.recipes import Recipe, RecipeError

from .devices import lay_out
from .fabric import Fabric
from .initial import initialise
from .optimiser import make_optimizer
from .probe import Probe
from .restore import restore_optimizer, restore_weights


@dataclass
class Run:
    """The state of a run that its steps and checkpoints share.

    Attributes:
        recipe: its `epochs` turned into steps.
        model: the objective as Fabric wraps it, which is what steps call.
        optimizer: torch's own, whose state checkpoints hold.
        stepper: the optimizer as Fabric wraps it, which is what steps call.
        start: the step from which it continues.
        compiled: whether the networks' blocks are.
        probe: None where the recipe asks for none.
        info: stored in checkpoints: the data's fingerprint, and once the start is recorded software and
            hardware.
        first_score: the probe's score of random weights; None without a probe or for a resumed run.
    """

    fabric: Fabric
    recipe: Recipe
    front_end: LogMel
    objective: Objective
    model: Any
    optimizer: torch.optim.Optimizer
    stepper: Any
    start: int
    compiled: bool
    probe: Probe | None
    info: dict[str, Any]
    first_score: float | None = None

    @classmethod
    def set_up(
        cls, fabric: Fabric, recipe: Recipe, info: dict[str, Any] | None = None, last: Path | None = None
    ) -> Run:
        """Build what the recipe says, with the weights of the checkpoint `last` or else new ones.

        Raises:
            RecipeError: the processes cannot share a batch evenly, or `encoder.init` does not fit.
        """
        optim = recipe.optim
        if optim.batch_size % (fabric.world_size * optim.accumulate):
            raise RecipeError(
                f"optim.batch_size {optim.batch_size} cannot be shared by {fabric.world_size} processes in "
                f"{optim.accumulate} micro-batches each (optim.accumulate)"
            )
        torch.manual_seed(recipe.run.seed)  # the initial weights; every later draw has its own generator
        front_end = LogMel(recipe.front_end).to(fabric.device)
        objective = recipe.objective.build(recipe.encoder, optim.scheduled, recipe.front_end)
        if recipe.encoder.init and not last:
            initialise(objective, recipe)
        objective = objective.to(fabric.device)
        start = restore_weights(last, objective) if last else 0
        compiled = lay_out(objective, recipe.run, fabric.device)
        evaluated = getattr(objective, next(iter(recipe.objective.encoders.values())))
        probe = Probe(recipe, front_end, evaluated) if recipe.run.probe.table else None
        # Before FSDP shares the weights out: the first pass after that has to be the whole objective's.
        first_score = fabric.broadcast(probe.score()) if probe and not last else None
        model = fabric.setup_module(objective)
        optimizer = make_optimizer(objective, optim)
        if last:
            restore_optimizer(last, objective, optimizer)
        return cls(
            fabric=fabric,
            recipe=recipe,
            front_end=front_end,
            objective=objective,
            model=model,
            optimizer=optimizer,
            stepper=fabric.setup_optimizers(optimizer),
            start=start,
            compiled=compiled,
            probe=probe,
            info={} if info is None else info,
            first_score=first_score,
        )

    @property
    def out(self) -> Path:
        """Its folder."""
        return Path(self.recipe.run.out)

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self.fabric.device

    @property
    def first_process(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.fabric.is_global_zero

    @property
    def evaluated(self) -> Encoder:
        """The encoder that evaluation uses."""
        return getattr(self.objective, next(iter(self.recipe.objective.encoders.values())))

    def score(self) -> float:
        """The probe's score of the weights as they are now, as the first process has it."""
        assert self.probe is not None, "the recipe asks for no probe"
        return self.fabric.broadcast(self.probe.score())
