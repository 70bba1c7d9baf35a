"""Terms that keep the features spread out, which prediction alone would let shrink."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ajepa.distributed import sum_over_ranks


def variance_covariance(features_RKD: Tensor, valid_RK: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's two terms (Bardes et al., 2022, equations 1 and 3; with a JEPA: C-JEPA, Mo and Tong, 2024).

    Over the tokens of all processes.

    Args:
        features_RKD: tokens in any precision; computed in float32.
        valid_RK: False for padding, which is left out.

    Returns:
        The mean over features of how far each standard deviation is below 1, and the sum of squared
        covariances between different features divided by D. Both are 0 for white features.
    """
    with torch.autocast(features_RKD.device.type, enabled=False):
        weight_N1 = valid_RK.flatten()[:, None].float()
        features_ND = features_RKD.flatten(0, 1).float() * weight_N1
        count = sum_over_ranks(weight_N1.sum())
        mean_D = sum_over_ranks(features_ND.sum(0)) / count
        centred_ND = (features_ND - mean_D) * weight_N1
        covariance_DD = sum_over_ranks(centred_ND.T @ centred_ND) / (count - 1).clamp_min(1)
        variance_D = covariance_DD.diagonal()
        shortfall = functional.relu(1.0 - (variance_D + 1e-4).sqrt()).mean()
        coupling = (covariance_DD.square().sum() - variance_D.square().sum()) / len(variance_D)
        return shortfall, coupling
