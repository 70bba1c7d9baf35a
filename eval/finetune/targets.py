"""A task's labels, a batch at a time: all of AudioSet's as one matrix would take 4 GB."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ajepa.eval.tasks import Task


class Targets:
    """Which clips bear which classes.

    Args:
        task: single-label or multilabel.
    """

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
        """By what these clips are drawn for classes of equal size, [B] float64.

        Audio-MAE's rule: 1000 / (n + 0.01), n the clips of a class among these, summed over a clip's labels.
        """
        chosen = np.zeros(self.clips, dtype=bool)
        chosen[numbers] = True
        of_chosen = chosen[self._rows]
        sizes = np.bincount(self._columns[of_chosen], minlength=self.classes)
        weight = np.bincount(self._rows, 1000 / (sizes[self._columns] + 0.01), minlength=self.clips)
        return torch.from_numpy(weight[numbers])
