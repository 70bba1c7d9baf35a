"""A task's clips as EVAR reads them: its table, and audio at one rate.

    python docs/experiments/evar_sets.py TASK DATA EVAR_TASK EVAR_CHECKOUT [OPTION=VALUE ...]

EVAR's own scripts make the tables of the whole sets; this one is for the parts that docs/results_0.3.md is
about. TASK, DATA and the options are those of `ajepa evaluate`, EVAR_TASK is a name of evar/ds_tasks.py.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import soundfile

from ajepa import audio
from ajepa.eval.tasks import open_task

RATE = 16_000


def main(name: str, data: str, evar_task: str, checkout: Path, *options: str) -> None:
    given = dict(option.split("=", 1) for option in options)
    task = open_task(name, data, **given)
    folder = checkout / "work" / "16k" / evar_task
    rows = []
    for number, clip in enumerate(task.clips):
        file = f"{number:05}_{clip.path.stem}.wav"
        wave = audio.load(clip.path, start=clip.start, seconds=clip.seconds, sample_rate=RATE)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, wave.numpy(), RATE, subtype="FLOAT")
        rows.append((file, clip.labels[0], clip.split))
    split = "fold" if task.folds else "split"
    numbers = {fold: place for place, fold in enumerate(sorted({row[2] for row in rows}), start=1)}
    with (checkout / "evar" / "metadata" / f"{evar_task}.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("file_name", "label", split))
        writer.writerows((a, b, numbers[c] if task.folds else c) for a, b, c in rows)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), *sys.argv[5:])
