"""2-D maps of clip embeddings: principal components, then t-SNE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ajepa.eval.results.kept import read_table

from .answers import Spot
from .sources import Found

COLUMNS = ("split", "clip", "start", "seconds", "truth", "features")
PERPLEXITY = 30.0


def maps(found: Sequence[Found], most: int) -> Iterator[dict[str, Any]]:
    """A map for each task and model that keeps features; of a model with several runs, its first run's.

    Args:
        most: points of a map; of more clips, evenly spaced ones.

    Raises:
        KeptError: a file is missing or damaged.
    """
    seen = set()
    for one in found:
        record = one.record
        if not record.features or (record.task, record.model) in seen:
            continue
        seen.add((record.task, record.model))
        rows = read_table(one.files("features")[0], COLUMNS)
        rows = rows[:: -(-len(rows) // most)]
        place_N2 = place_points(np.array([row["features"] for row in rows], dtype=np.float32))
        yield {
            "task": record.task,
            "model": record.model,
            "layer": record.layer,
            "x": [round(float(value), 2) for value in place_N2[:, 0]],
            "y": [round(float(value), 2) for value in place_N2[:, 1]],
            "split": [row["split"] for row in rows],
            "label": [", ".join(row["truth"]) for row in rows],
            "spots": [Spot(row["clip"], row["start"], row["seconds"]) for row in rows],
        }


def place_points(features_NK: np.ndarray) -> np.ndarray:
    """Points in the plane [N, 2] by t-SNE from the first two components; by these alone for few points."""
    if len(features_NK) < 3 * PERPLEXITY:
        plane_N2 = np.zeros((len(features_NK), 2), np.float32)
        plane_N2[:, : features_NK.shape[1]] = features_NK[:, :2]
        return plane_N2
    from sklearn.manifold import TSNE

    return TSNE(perplexity=PERPLEXITY, init="pca", random_state=0).fit_transform(features_NK)
