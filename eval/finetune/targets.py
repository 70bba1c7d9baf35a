"""A task's labels, one batch at a time: all of AudioSet's labels as one matrix would take 4 GB."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ajepa.eval.tasks import Task


class Targets:
    """The classes of each clip of a task, single-label or multilabel."""

    def __init__(self, task: Task) -> None:
        self.clips, self.classes = len(task.clips), len(task.classes)
        self._rows, self._columns = task.label_pairs()
        self._first = np.searchsorted(self._rows, np.arange(self.clips + 1))

    def dense(self, numbers: np.ndarray) -> Tensor:
        """0 or 1 for each class of these clips, [B, C] float32."""
        target_BC = torch.zeros(len(numbers), self.classes)
        for place, number in enumerate(numbers.tolist()):
            target_BC[place, self._columns[self._first[number] : self._first[number + 1]]] = 1
        return target_BC

    def weights(self, numbers: np.ndarray) -> Tensor:
        """Sampling weights of these clips that balance the classes, [B] float64.

        Audio-MAE's rule: 1000 / (n + 0.01), summed over a clip's labels, with n the number of these clips
        that have the label.
        """
        chosen = np.zeros(self.clips, dtype=bool)
        chosen[numbers] = True
        of_chosen = chosen[self._rows]
        sizes = np.bincount(self._columns[of_chosen], minlength=self.classes)
        weight = np.bincount(self._rows, 1000 / (sizes[self._columns] + 0.01), minlength=self.clips)
        return torch.from_numpy(weight[numbers])
