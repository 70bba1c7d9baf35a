"""Gauges of a run's health: the falling loss of a joint-embedding method alone proves nothing."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ajepa.nn.blocks import Attention
from ajepa.nn.encoder import Encoder
from ajepa.objectives.base import ObjectiveConfig


@torch.no_grad()
def rankme(features: Tensor, sample: int = 4096) -> float:
    """RankMe: the effective rank of a set of features (Garrido et al., 2023, equation 1).

    The exponential of the entropy of the normalised singular values: D for features that fill all
    dimensions evenly, 1 for features on a line. From the eigenvalues of the Gram matrix, in float64.

    Args:
        features: [..., D]; at most `sample` rows, evenly spaced, are used.
    """
    rows = features.flatten(0, -2)
    stride = max(1, -(-rows.shape[0] // sample))
    rows = rows[::stride].cpu().double()  # some accelerators have no float64
    if not rows.isfinite().all():
        return float("nan")
    singular = torch.linalg.eigvalsh(rows.T @ rows).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-12)
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def attention_entropy(encoder: Encoder, spectrogram_BLC: Tensor, clips: int = 8) -> float:
    """Mean entropy of the attention over all blocks, heads and queries, relative to uniform attention.

    1 means that every token attends to all others equally, 0 that each attends to one. Compiled blocks run
    uncompiled here: a graph compiled without the hooks would skip them.
    """
    entropies: list[Tensor] = []

    def note(module: Attention, _: Any, qkv_BNE: Tensor) -> None:
        query, key, _ = module.split(qkv_BNE.float())
        share = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        entropies.append(torch.special.entr(share).sum(-1).mean())

    handles = []
    for block in encoder.blocks:
        attention: Any = block.attn
        handles.append(
            attention.qkv.register_forward_hook(
                lambda _, inputs, output, attention=attention: note(attention, inputs, output)
            )
        )
    try:
        patches_BNP, grid = encoder.patchify(spectrogram_BLC[:clips])
        with torch.compiler.set_stance("force_eager"):
            encoder(patches_BNP, encoder.positions(grid, patches_BNP))
    finally:
        for handle in handles:
            handle.remove()
    return float(torch.stack(entropies).mean()) / math.log(max(2, grid.tokens))


class CollapseWatch:
    """Warns that representations collapse: once for each gauge, and again after a recovery.

    `low` has the gauges that are low now, each with its warning.

    In the trials of docs/LOG.md with falling probes the rank fell from 56 to 24 or less, and in the worst the
    spread of the targets halved; in those that learnt the rank rose.
    """

    FLOORS = MappingProxyType({"rankme": 0.5, "target_std": 0.5})  # of the highest value so far

    def __init__(self, history: list[dict[str, Any]], objective: ObjectiveConfig) -> None:
        self._advice = f"Look at a probe before you go on. {objective.advice}"
        self._highest = dict.fromkeys(self.FLOORS, 0.0)
        self.low: dict[str, str] = {}
        for record in history:
            self.look(record)

    def look(self, record: dict[str, Any]) -> list[str]:
        """Warnings about a line of metrics."""
        warnings = []
        for name, floor in self.FLOORS.items():
            value = record.get(name)
            if value is None:
                continue
            highest = self._highest[name] = max(self._highest[name], value)
            if value >= floor * highest:
                self.low.pop(name, None)
                continue
            known = name in self.low
            self.low[name] = (
                f"step {record['step']}: representations are collapsing: {name} is {value:.3g}, "
                f"{highest:.3g} at its highest. {self._advice}"
            )
            if not known:
                warnings.append(self.low[name])
        return warnings
