"""Turns the answers on corrupted clips into the entries of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ajepa.eval.results.record import Corrupted, NoiseArea
from ajepa.eval.results.scores import Scored, bootstrap, interval

from .corruptions import Corruption


def robustness(
    corruptions: Sequence[Corruption],
    splits: Mapping[str, Sequence[Scored]],
    clean: float,
    clean_S: Tensor,
) -> tuple[tuple[Corrupted, ...], NoiseArea | None]:
    """Scores of corrupted clips, and the area under the curve over noise.

    Args:
        corruptions: in the order of the report.
        splits: by the corruption's text, the test splits with the answers on corrupted clips.
        clean: score of the clean clips.
        clean_S: its bootstrap draws. Draws for corrupted clips use the same clips, so that a loss is paired.
    """
    found, noise = [], {}
    for corruption in corruptions:
        scored = splits[str(corruption)]
        drawn_S = bootstrap(scored)
        score = sum(split.score for split in scored) / len(scored)
        found.append(
            Corrupted(
                corruption=str(corruption),
                score=score,
                loss=clean - score,
                interval=interval(drawn_S),
                loss_interval=interval(clean_S - drawn_S),
            )
        )
        if corruption.kind == "noise":
            noise[corruption.value] = score, drawn_S
    return tuple(found), _area(noise) if len(noise) > 1 else None


def _area(noise: Mapping[float, tuple[float, Tensor]]) -> NoiseArea:
    ratios = sorted(noise)
    ratio_X = torch.tensor(ratios, dtype=torch.float64)
    width = ratios[-1] - ratios[0]
    score_X = torch.tensor([noise[ratio][0] for ratio in ratios], dtype=torch.float64)
    drawn_SX = torch.stack([noise[ratio][1].double() for ratio in ratios], 1)
    area = float(torch.trapezoid(score_X, ratio_X)) / width
    return NoiseArea(ratios[0], ratios[-1], area, interval(torch.trapezoid(drawn_SX, ratio_X) / width))


def joined(
    curves: Sequence[Sequence[Corrupted]], areas: Sequence[NoiseArea | None]
) -> tuple[tuple[Corrupted, ...], NoiseArea | None]:
    """The means over several pre-trainings, without intervals: no draws of corrupted clips are kept."""
    means = tuple(
        Corrupted(runs[0].corruption, _mean([one.score for one in runs]), _mean([one.loss for one in runs]))
        for runs in zip(*curves, strict=True)
    )
    known = [area for area in areas if area is not None]
    if not known:
        return means, None
    return means, NoiseArea(known[0].low_db, known[0].high_db, _mean([area.score for area in known]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
