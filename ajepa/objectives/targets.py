"""What a joint-embedding objective predicts: normalised features of the target encoder, and the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ajepa.distributed import sum_over_ranks

TargetNorm = Literal["layer", "instance", "batch"]
LossKind = Literal["l2", "smooth-l1", "cosine"]


def layer_normed(features_BND: Tensor) -> Tensor:
    """Zero mean and unit variance over each patch's features, in float32; no affine map (I-JEPA's code)."""
    return functional.layer_norm(features_BND.float(), features_BND.shape[-1:])


def instance_normed(features_BND: Tensor) -> Tensor:
    """Zero mean and unit variance of each feature over a clip's patches, in float32 (data2vec)."""
    features = features_BND.float()
    centred = features - features.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def batch_normed(features_BND: Tensor) -> Tensor:
    """Minus each place's mean over the clips of all processes, then unit variance of each feature.

    Any predictor can learn what all clips share at a place of the grid; the rest belongs to the clip.
    """
    clips = sum_over_ranks(torch.ones((), device=features_BND.device)) * len(features_BND)
    centred_BND = features_BND - sum_over_ranks(features_BND.sum(0)) / clips
    variance_D = sum_over_ranks(centred_BND.square().sum((0, 1))) / (clips * features_BND.shape[1])
    return centred_BND / (variance_D + 1e-5).sqrt()


def average_layers(layers: list[Tensor], norm: TargetNorm) -> Tensor:
    """Mean of several layers' outputs [B, N, D]; the layers are normalised, and so is the mean.

    Deeper blocks have larger outputs: without the first normalisation the last would dominate
    (data2vec, Baevski et al., 2022, section 3.3).
    """
    normed = instance_normed if norm == "instance" else layer_normed
    total = normed(layers[0])
    if len(layers) == 1:
        return total
    for layer in layers[1:]:
        total += normed(layer)
    return normed(total / len(layers))


def _l2(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(prediction, target, reduction="none").mean(-1)


def _smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.smooth_l1_loss(prediction, target, reduction="none").mean(-1)


def _cosine(prediction: Tensor, target: Tensor) -> Tensor:
    return 2.0 - 2.0 * functional.cosine_similarity(prediction, target, dim=-1)


# Each from predictions and targets [..., D] to one error a token [...].
ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": _l2,
    "smooth-l1": _smooth_l1,
    "cosine": _cosine,
}
