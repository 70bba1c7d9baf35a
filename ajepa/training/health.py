"""Gauges of a run's health: a falling loss of a joint-embedding method proves nothing by itself."""

from __future__ import annotations

import torch
from torch import Tensor


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
