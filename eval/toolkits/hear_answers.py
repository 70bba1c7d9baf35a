"""The answers of the stock HEAR toolkit's heads to single clips.

heareval keeps the targets and predictions of each test split as tensors, in an order that it shuffled. Which
clip a row belongs to is found by its embedding, which heareval stores for each clip too; clips with the same
embedding have the same prediction.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ajepa.contents import read_json
from ajepa.eval.results.answers import scored
from ajepa.eval.results.kept import MOST_LABELS
from ajepa.eval.results.scores import Scored
from ajepa.files import printable
from ajepa.harness.pickles import load_tensors


def hear_answers(task: Path, embedded: Path, rate: int, seed: int) -> list[dict[str, Any]] | None:
    """Rows for `ajepa.eval.results.kept.answers_table`; None for tasks of events, and where files are gone.

    Args:
        task: folder of a HEAR task.
        embedded: folder into which heareval wrote the task's embeddings and predictions.
        rate: of the audio that was embedded, in Hz.
        seed: of heareval.
    """
    metadata = read_json(task / "task_metadata.json", ("splits", "embedding_type"))
    predictions = sorted(embedded.glob("*.predictions.pkl"))
    if metadata["embedding_type"] != "scene" or not predictions:
        return None
    with (task / "labelvocabulary.csv").open(newline="", encoding="utf-8") as file:
        label = {int(row["idx"]): row["label"] for row in csv.DictReader(file)}
    rows = []
    for path in predictions:
        split = path.name.removesuffix(".predictions.pkl")
        with path.open("rb") as opened:
            found = load_tensors(opened)
        truth_BC, score_BC = found["target"], found["prediction"].float()
        clips = _clips(task, embedded, split, truth_BC, label)
        if clips is None:
            return None
        best_BM = score_BC.topk(min(MOST_LABELS, score_BC.shape[1]))
        for clip, truth_C, labels, scores in zip(
            clips, truth_BC, best_BM.indices.tolist(), best_BM.values.tolist(), strict=True
        ):
            rows.append(
                {
                    "layer": "last",
                    "seed": seed,
                    "split": split,
                    "clip": printable(str(task / str(rate) / split / clip)),
                    "start": 0.0,
                    "group": "",
                    "truth": [label[number] for number in truth_C.nonzero()[:, 0].tolist()],
                    "labels": [label[number] for number in labels],
                    "scores": scores,
                }
            )
    return rows


def scored_answers(rows: Sequence[Mapping[str, Any]], folds: Mapping[str, float]) -> list[Scored] | None:
    """The test splits, if the toolkit's score of each is the accuracy of these answers; else None.

    Args:
        rows: as `hear_answers` gives them.
        folds: the toolkit's score of each test split.
    """
    if any(len(row["truth"]) != 1 for row in rows):
        return None
    run = {
        "clips": [row["clip"] for row in rows],
        "splits": [row["split"] for row in rows],
        "groups": [row["group"] for row in rows],
        "truth": [row["truth"][0] for row in rows],
        "answers": [row["labels"][0] for row in rows],
    }
    splits = scored(run)
    same = {split.split for split in splits} == set(folds)
    return splits if same and all(abs(one.score - folds[one.split]) < 1e-4 for one in splits) else None


def _clips(
    task: Path, embedded: Path, split: str, truth_BC: torch.Tensor, label: dict[int, str]
) -> list[str] | None:
    """The name of each row's clip, by its embedding and labels; None if a row has none."""
    try:
        labels = read_json(task / f"{split}.json")
        rows, features = read_json(embedded / f"{split}.embedding-dimensions.json")
        stored_BD = np.fromfile(embedded / f"{split}.embeddings.npy", np.float32).reshape(rows, features)
        names: dict[tuple[bytes, frozenset[str]], list[str]] = defaultdict(list)
        for clip, its in labels.items():
            value_D = np.load(embedded / split / f"{clip}.embedding.npy").astype(np.float32)
            names[value_D.tobytes(), frozenset(map(str, its))].append(clip)
    except (OSError, ValueError):
        return None
    clips = []
    for value_D, truth_C in zip(stored_BD, truth_BC, strict=True):
        its = frozenset(label[number] for number in truth_C.nonzero()[:, 0].tolist())
        candidates = names[value_D.tobytes(), its]
        if not candidates:
            return None
        clips.append(candidates.pop())
    return clips
