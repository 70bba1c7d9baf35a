"""Write the tables of scores into their pages, from the records in docs/results.

    python benchmarks/tables.py --write     # after records were added or run again
    python benchmarks/tables.py --check     # prints the first line that differs from the records

A table is between two comments; the first one defines its content:

    <!-- table: systems.json; protocols: linear | knn; models: A-JEPA | twin=its twin; cells: interval -->
    <!-- end of the table -->

Several files of records are joined in order. `protocols` and `models`, by default all of them, select rows
and set their order; `tasks` selects columns; `name=title` renames. With `conditions` the columns are the
corruptions of the one task that it names. A row is a model, or a model with a protocol if there are several.
`cells` sets what follows the score: `seeds` (replaces it with the score of each seed, of pre-training or else
of fine-tuning), `spread` (their standard deviation), `interval`, `arrows` (whether the interval of the paired
difference from the baseline excludes zero), `difference` (that difference), `needed` (where its interval
includes zero, how many pre-training seeds would tell a difference of this size on these clips, or "more
clips" if no number would).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, variance

from pages import parsed, settle

from ajepa.eval.results.record import Record, read_records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("RESULTS.md", "results_paper.md", "results_0.3.md")),
    ROOT / "ajepa" / "weights" / "README.md",
)
TABLE = re.compile(r"(<!-- table: ([^>]+?) -->\n)(.*?)(<!-- end of the table -->)", re.DOTALL)
TASKS = {
    "esc10": "ESC-10",
    "esc50_fold4": "ESC-50 fold 4",
    "esc50_fold4_subcv": "ESC-50 fold 4",
    "veri_test": "425 trials",
    "words": "12 words",
    "speakers": "37 speakers",
    "ravdess": "24 speakers, other sentence",
    "ravdess_text": "24 speakers, other sentence",
    "sentence": "24 speakers, other sentence",
    "emotion": "7 emotions, unseen actors",
    "esc50_whole": "ESC-50",
    "urbansound8k": "UrbanSound8K, 3 folds",
    "ravdess_emotion": "8 emotions, unseen actors",
    "emodb": "EmoDB, unseen speakers",
    "digits": "digits, unseen speakers",
    "words35": "35 words, few clips",
}
OPTIONS = ("protocols", "models", "tasks", "conditions", "cells")
Z = 1.96  # half the width of a 95 % interval, in standard deviations
CONDITIONS = {
    "noise:20dB": "noise, 20 dB",
    "noise:10dB": "10 dB",
    "noise:5dB": "5 dB",
    "noise:0dB": "0 dB",
    "reverb:0.6s": "room, 0.6 s",
    "codec:8kbps": "codec, 8 kbit/s",
    "level:-20dB": "-20 dB",
    "level:+20dB": "+20 dB",
}
PROTOCOLS = {
    "linear": "mean",
    "linear, mean+std": "mean and deviation",
    "linear, all layers": "all layers, mean and deviation",
    "knn": "kNN, mean",
    "knn, mean+std": "kNN, mean and deviation",
}


def table(spec: str) -> str:
    """The Markdown table that a comment defines."""
    sources, *options = [part.strip() for part in spec.split(";")]
    asked = dict(option.split(": ", 1) for option in options)
    if unknown := asked.keys() - OPTIONS:
        raise ValueError(f"{spec}: unknown options {', '.join(sorted(unknown))}; use {', '.join(OPTIONS)}")
    records = [record for name in sources.split() for record in read_records(RESULTS / name)]
    protocols = _chosen(asked.get("protocols"), [record.protocol for record in records], PROTOCOLS)
    models = _chosen(asked.get("models"), [record.model for record in records], {})
    cells = asked.get("cells", "").split()
    found = {(record.model, record.task, record.protocol): record for record in records}
    there = {task for _, task, protocol in found if protocol in protocols}
    known = {task: title for task, title in TASKS.items() if task in there}
    columns = _chosen(asked.get("tasks"), list(known), known)
    counts = {record.task: _clips(record) for record in reversed(records)}
    heads = [f"{title} ({counts[column]})" for column, title in columns.items()]
    task = asked.get("conditions", "")
    if task:
        first = next(record for record in records if record.task == task and record.corrupted)
        names = [CONDITIONS.get(one.corruption, one.corruption) for one in first.corrupted]
        heads = ["clean", *names, "noise, area"]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for model, title in models.items():
        for protocol, reading in protocols.items():
            if task:
                cols = _conditions(found[model, task, protocol], cells)
            else:
                row = [found.get((model, column, protocol)) for column in columns]
                cols = [_cell(record, cells, found) if record else "" for record in row]
            name = f"{title}, {reading}" if len(protocols) > 1 else title
            lines.append(f"| {name} | {' | '.join(cols)} |")
    return "\n".join(lines)


def _conditions(record: Record, cells: Sequence[str]) -> list[str]:
    """The clean score, those of the corrupted clips, and the area under the curve over noise."""
    scores = [(record.score, record.interval), *((one.score, one.interval) for one in record.corrupted)]
    if record.noise_area:
        scores.append((record.noise_area.score, record.noise_area.interval))
    with_interval = "interval" in cells
    return [
        f"{score:.3f}" + (f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if with_interval and low_high else "")
        for score, low_high in scores
    ]


def _chosen(asked: str | None, there: list[str], titles: dict[str, str]) -> dict[str, str]:
    """Names and titles, in the requested order, or in the order of the records."""
    if asked is None:
        return {name: titles.get(name, name) for name in dict.fromkeys(there)}
    chosen = {}
    for part in asked.split(" | "):
        name, _, title = part.partition("=")
        if name not in there:
            raise ValueError(f"no record of {name!r}; choose {', '.join(dict.fromkeys(there))}")
        chosen[name] = title or titles.get(name, name)
    return chosen


def _clips(record: Record) -> int:
    """Number of scored clips: in the test split, or with folds all."""
    return record.clips_by_split.get("test", sum(record.clips_by_split.values()))


def _cell(record: Record, cells: Sequence[str], found: Mapping[tuple[str, str, str], Record]) -> str:
    seeds = [run.score for run in record.pretraining] or list(record.by_seed)
    text = f"{record.score:.3f}"
    if "seeds" in cells and seeds:
        text = ", ".join(f"{score:.3f}" for score in seeds)
    if "spread" in cells and len(seeds) > 1:
        text += f" ± {record.spread:.3f}"
    if "interval" in cells and record.interval:
        text += " ({:.3f} to {:.3f})".format(*record.interval)
    if record.baseline:
        low, high = record.baseline.interval
        if "arrows" in cells and not low <= 0 <= high:
            text += " ↑" if low > 0 else " ↓"
        if "difference" in cells:
            text += f"; {record.baseline.difference:+.3f} ({low:+.3f} to {high:+.3f})"
        if "needed" in cells and low <= 0 <= high:
            of_seeds = _variance_of_seeds(record, found)
            difference, now = record.baseline.difference, len(record.pretraining)
            needed = seeds_needed(difference, (high - low) / 2, now, of_seeds)
            text += ", more clips" if needed is None else f", {needed} seeds"
    return text


def seeds_needed(difference: float, half: float, now: int, of_seeds: float) -> int | None:
    """The number of seeds with which the interval of a difference this large would exclude zero.

    The variance of a difference is that of its clips and that of its seeds, which alone shrinks with their
    number.

    Args:
        half: half the width of the difference's 95 % interval.
        now: the seeds that it was measured with.
        of_seeds: the variance of the difference over seeds.

    Returns:
        None if the clips are too few for any number of seeds.
    """
    of_clips = max(0.0, (half / Z) ** 2 - of_seeds / now)
    left = (difference / Z) ** 2 - of_clips
    return max(now + 1, math.ceil(of_seeds / left)) if left > 0 else None


def _variance_of_seeds(record: Record, found: Mapping[tuple[str, str, str], Record]) -> float:
    """Of a difference from the record's baseline, pooled over all models: two seeds of one tell little."""
    assert record.baseline
    base = found[record.baseline.name, record.task, record.protocol]
    differences = [
        _by_seed(one, base)
        for (model, task, protocol), one in found.items()
        if (task, protocol) == (record.task, record.protocol) and model != base.model
    ]
    return mean([variance(of_model) for of_model in differences if len(of_model) > 1])


def _by_seed(record: Record, base: Record) -> list[float]:
    """The differences of two models' scores, for the seeds that both have."""
    scores = {run.seed: run.score for run in base.pretraining}
    return [run.score - scores[run.seed] for run in record.pretraining if run.seed in scores]


def main(arguments: list[str] | None = None) -> int:
    options = parsed(__doc__, arguments, required=True)
    status = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = TABLE.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[4]}", text)
        status |= settle(page, text, made, "records", write=options.write)
    return status


if __name__ == "__main__":
    sys.exit(main())
