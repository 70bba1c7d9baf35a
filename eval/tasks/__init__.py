"""Evaluation tasks as data: labelled clips and their splits, read from the data sets' own layouts.

`open_task(name, data, ...)` opens one. Nothing is downloaded or copied; each clip names its file. Other
packages add tasks as entry points of the group `ajepa.tasks`: functions as `OpenTask` describes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ajepa.eval.plugins import Registry

from .audioset import open_audioset_2m, open_audioset_20k
from .esc50 import open_esc10, open_esc50
from .folder import open_audacity, open_folder
from .hf import open_hf
from .options import check_options
from .speech_commands import open_speech_commands_v1, open_speech_commands_v2
from .table import open_table
from .task import Clip, Round, Task, TaskError
from .voxceleb1 import open_voxceleb1

# A function `open_it(data, *, option=default, ...)` that opens the task of the data set in `data`. Its
# options are read from its signature. It raises TaskError if the data are not in the expected form.
OpenTask = Callable[..., Task]

OURS: dict[str, OpenTask] = {
    "audacity": open_audacity,
    "audioset_20k": open_audioset_20k,
    "audioset_2m": open_audioset_2m,
    "esc10": open_esc10,
    "esc50": open_esc50,
    "folder": open_folder,
    "hf": open_hf,
    "speech_commands_v1": open_speech_commands_v1,
    "speech_commands_v2": open_speech_commands_v2,
    "table": open_table,
    "voxceleb1": open_voxceleb1,
}
TASKS = Registry("ajepa.tasks", OURS)

# Clips have several labels whatever the options are; for a table, the option `multilabel` decides.
MULTILABEL = frozenset({"audioset_20k", "audioset_2m"})

__all__ = [
    "MULTILABEL",
    "TASKS",
    "Clip",
    "OpenTask",
    "Round",
    "Task",
    "TaskError",
    "check_options",
    "open_task",
]


def open_task(name: str, data: str | Path, **options: Any) -> Task:
    """Open the task `name` of the data set in `data`; `options` are the options of the task's own function.

    Raises:
        TaskError: there is no such task or option, or the data are not in the expected form.
    """
    opener = TASKS.get(name)
    if opener is None:
        raise TaskError(f"no task is called {name!r}; choose {', '.join(TASKS.names())}")
    check_options(name, opener, options)
    try:
        return opener(data, **options)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{data}: a table of {name} is not UTF-8 CSV ({error}); save it as such") from error
