"""Turns the answers on corrupted clips into the entries of a record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ajepa.eval.results.record import Corrupted, NoiseArea
from ajepa.eval.results.scores import interval

from .corruptions import parse


def robustness(
    corruptions: Sequence[str], scores: Sequence[float], drawn_XS: Tensor, clean: float, clean_S: Tensor
) -> tuple[tuple[Corrupted, ...], NoiseArea | None]:
    """Scores of corrupted clips, and the area under the curve over noise if it has two or more points.

    Args:
        corruptions: as `corruptions.parse` reads them, in the order of the report.
        scores: of the corrupted clips.
        drawn_XS: bootstrap draws of `scores`, from the same clips as those of `clean`: a loss is paired.
        clean: score of the clean clips.
        clean_S: its bootstrap draws.
    """
    found, noise = [], {}
    for text, score, drawn_S in zip(corruptions, scores, drawn_XS, strict=True):
        loss = clean - score
        found.append(Corrupted(text, score, loss, interval(drawn_S), interval(clean_S - drawn_S)))
        (corruption,) = parse(text)
        if corruption.kind == "noise":
            noise[corruption.value] = score, drawn_S
    if len(noise) < 2:
        return tuple(found), None
    ratios = sorted(noise)
    ratio_X = torch.tensor(ratios, dtype=torch.float64)
    width = ratios[-1] - ratios[0]
    score_X = torch.tensor([noise[ratio][0] for ratio in ratios], dtype=torch.float64)
    noise_SX = torch.stack([noise[ratio][1].double() for ratio in ratios], 1)
    area = float(torch.trapezoid(score_X, ratio_X)) / width
    drawn_S = torch.trapezoid(noise_SX, ratio_X) / width
    return tuple(found), NoiseArea(ratios[0], ratios[-1], area, interval(drawn_S))
