"""What holds the spread of features where predicting alone would let it shrink."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def variance_covariance(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's two terms (Bardes et al., 2022, equations 1 and 3; beside a JEPA: C-JEPA, Mo and Tong, 2024).

    Args:
        features_ND: N features, in any precision; computed in float32.

    Returns:
        The mean over features of how far each standard deviation falls short of 1, and the sum of squared
        covariances between different features over D. Both are 0 for white features.
    """
    with torch.autocast(features_ND.device.type, enabled=False):
        features_ND = features_ND.float()
        centred_ND = features_ND - features_ND.mean(0)
        covariance_DD = centred_ND.T @ centred_ND / max(1, len(centred_ND) - 1)
        variance_D = covariance_DD.diagonal()
        shortfall = functional.relu(1.0 - (variance_D + 1e-4).sqrt()).mean()
        coupling = (covariance_DD.square().sum() - variance_D.square().sum()) / len(variance_D)
        return shortfall, coupling
