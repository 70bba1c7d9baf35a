"""The clips of a collection that are most like a file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ajepa.audio import AudioError
from ajepa.data.clips import Clip
from ajepa.embed import Embeddings
from ajepa.embed.compute import Row, embed
from ajepa.embed.inputs import Item
from ajepa.embed.options import Wanted
from ajepa.embed.pieces import decode
from ajepa.model import AudioEncoder

from .among import vectors
from .cosine import PLAIN, Space, nearest


class Match(NamedTuple):
    """A clip of a collection, or a window of one.

    Attributes:
        score: cosine, 1 for the same embedding.
        path: its file, as `ajepa embed` was given it.
        start, end: seconds into the file.
        query_start, query_end: the part of the query that it is like.
    """

    score: float
    path: str
    start: float
    end: float
    query_start: float
    query_end: float


class Similar(NamedTuple):
    """An answer: the matches, best first, and what it took."""

    matches: list[Match]
    space: str  # whitened or plain
    seconds: float  # of the search alone


def query_rows(
    model: AudioEncoder, file: Path, wanted: Wanted, start: float = 0.0, seconds: float | None = None
) -> list[Row]:
    """Embed a file, or a part of it, as the collection was: whole or in windows.

    Raises AudioError if it cannot be read.
    """
    decoded = decode(Item(str(file), Clip(str(file), str(file), start, seconds)), wanted, model.sample_rate)
    if decoded.failure is not None:
        raise decoded.failure

    def fail(item: Item, error: AudioError) -> None:
        raise error

    return list(embed(model, decoded.pieces, wanted, batch=8, fail=fail))


def similar(rows: list[Row], collection: Embeddings, top: int, plain: bool = False) -> Similar:
    """The `top` clips or windows of a collection that are most like a query.

    A query of several windows finds what is like any of them. What is a part of the query itself is left out.

    Args:
        rows: from `query_rows`.
        plain: plain cosines of the embeddings, instead of those in the collection's whitened space.
    """
    began = time.perf_counter()
    values_ND = vectors(collection)
    space = PLAIN if plain else Space.of(values_ND)
    itself = _itself(rows, collection)
    query_QD = torch.stack([row.values for row in rows])
    scores, places = nearest(values_ND, query_QD, top + len(itself), space)
    matches: dict[int, Match] = {}
    for number, row in enumerate(rows):
        for score, place in zip(scores[number].tolist(), places[number].tolist(), strict=True):
            if place not in itself and (place not in matches or matches[place].score < score):
                matches[place] = Match(
                    score,
                    collection.paths[place],
                    float(collection.start[place]),
                    float(collection.end[place]),
                    row.piece.start,
                    row.piece.end,
                )
    best = sorted(matches.values(), key=lambda match: (-match.score, match.path, match.start))
    name = "plain" if space is PLAIN else "whitened"
    return Similar(best[:top], name, time.perf_counter() - began)


def _itself(rows: list[Row], collection: Embeddings) -> set[int]:
    """The collection's rows that overlap the query in its own file."""
    own = os.path.realpath(rows[0].piece.item.name)
    start, end = rows[0].piece.start, rows[-1].piece.end
    inside = np.flatnonzero((collection.start < end) & (collection.end > start))
    name = os.path.basename(own)  # noqa: PTH119  # a million times
    return {
        int(place)
        for place in inside
        if collection.paths[place].endswith(name) and os.path.realpath(collection.paths[place]) == own
    }


def as_json(answer: Similar, query: Path, among: str, about: dict[str, Any]) -> dict[str, Any]:
    """The answer as plain values."""
    return {
        "query": str(query),
        "among": among,
        "space": answer.space,
        "weights": about["weights"],
        "matches": [match._asdict() for match in answer.matches],
    }
