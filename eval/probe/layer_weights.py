"""A learned weighted sum of layers, as in SUPERB (arXiv 2105.01051), fitted together with a linear head.

With z_l the features of layer l, standardised over the training clips, we minimise over a, W and b

    c * sum_n w_n loss(x_n W + b, y_n) + |W|^2 / 2    where    x = sum_l softmax(a)_l z_l / s

by L-BFGS from equal weights. This takes seconds, where SUPERB takes 200,000 steps of Adam. The w_n are clip
weights, 1 by default. The problem is not convex; the fixed start makes the result reproducible. With all the
weight on one layer it is the linear probe on that layer. The scale s is the root mean square of the sum,
relative to the root mean square of a layer, and keeps x at one scale. Without it, layers that differ would be
worth less together than alone, only because their sum is smaller and needs a larger W.

To keep the fit small, it uses only the AXES axes along which the layers together vary most over the training
clips, shared by all layers, as W is. Only the layer weights come from this fit; the head that is scored is
then fitted to all features (`ajepa.eval.probe.selection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .logistic import mean_loss
from .probes import LEAST_STD

AXES = 256
ROWS = 4096  # clips times layers used to find the axes
STEPS = 100
PENALTIES = (1e-3, 1e-1, 10.0)  # the weights change little with c, so these cover all values tried for a head


class LayerMix(NamedTuple):
    """Turns the features of all layers into one representation: a weighted sum.

    Attributes:
        weight_L: weights of the layers, positive, with sum 1.
        scale_LD: divisors of each layer's features: their standard deviations in training.
    """

    weight_L: Tensor
    scale_LD: Tensor

    def __call__(self, features_NLD: Tensor) -> Tensor:
        """Features [N, D], up to a constant that is the same for all clips."""
        factor_LD = self.weight_L[:, None] / self.scale_LD
        sum_ND = torch.zeros_like(features_NLD[:, 0])
        for layer, factor_D in enumerate(factor_LD):  # einsum would copy all the features
            sum_ND.addcmul_(features_NLD[:, layer], factor_D)
        return sum_ND


def nearest_penalty(penalty: float) -> float:
    """The value of PENALTIES whose weights serve a head with this penalty: the nearest in ratio."""
    return min(PENALTIES, key=lambda one: max(one, penalty) / min(one, penalty))


def learn_mixes(
    features_NLD: Tensor,
    target: Tensor,
    penalties: Sequence[float],
    classes: int,
    clip_weight_N: Tensor | None = None,
) -> dict[float, LayerMix]:
    """Learn the weights of the layers on training clips, separately for each penalty.

    Args:
        target: class numbers [N], or 0 and 1 [N, C] for several labels.
        penalties: values of c in the formula above.
        classes: C; a class may have no clip here.
        clip_weight_N: the w_n, with mean 1; None weights all clips equally.
    """
    several = target.ndim == 2
    truth_NC = (target if several else functional.one_hot(target, classes)).to(features_NLD)
    mean_LD, std_LD = features_NLD.mean(0), features_NLD.std(0, correction=0)
    scale_LD = torch.where(std_LD > LEAST_STD, std_LD, torch.inf)
    axes_LNK = _on_shared_axes(features_NLD, mean_LD, scale_LD)
    gram_LL = axes_LNK.flatten(1) @ axes_LNK.flatten(1).T
    gram_LL = gram_LL / gram_LL.diagonal().mean().clamp_min(LEAST_STD)
    weight_N = truth_NC.new_ones(len(truth_NC)) if clip_weight_N is None else clip_weight_N.to(truth_NC)
    problems = [Problem(axes_LNK, truth_NC, weight_N, gram_LL, c, several) for c in penalties]
    return {one.c: LayerMix(_minimise(one), scale_LD) for one in problems}


class Problem(NamedTuple):
    """The formula above, divided by c N.

    Attributes:
        axes_LNK: standardised features of each layer, on the shared axes.
        truth_NC: one-hot classes, or 0 and 1 for several labels.
        weight_N: weights of the clips.
        gram_LL: products of layers, summed over clips and axes, with a diagonal of mean 1.
        c: the c of the formula.
        several: several labels, and so a binary loss for each class.
    """

    axes_LNK: Tensor
    truth_NC: Tensor
    weight_N: Tensor
    gram_LL: Tensor
    c: float
    several: bool

    def __call__(self, logit_L: Tensor, head_KC: Tensor, bias_C: Tensor) -> Tensor:
        """The value for the weights' logits a and the head."""
        _, clips, axes = self.axes_LNK.shape
        weight_L = logit_L.softmax(0)
        # One vector-matrix product: many times faster than a sum over layers.
        sum_NK = (weight_L @ self.axes_LNK.flatten(1)).view(clips, axes)
        scale = (weight_L @ self.gram_LL @ weight_L).clamp_min(LEAST_STD).rsqrt()
        logits_NC = sum_NK @ (scale * head_KC) + bias_C
        loss = mean_loss(logits_NC, self.truth_NC, self.weight_N, self.several)
        return loss + 0.5 * head_KC.square().sum() / (self.c * clips)


def _minimise(problem: Problem) -> Tensor:
    """Weights of the layers at the minimum."""
    axes_LNK, classes = problem.axes_LNK, problem.truth_NC.shape[1]
    layers, clips, axes = axes_LNK.shape
    # The head is in coordinates where its Hessian is about 1 at the start, as in `logistic`.
    variance_K = axes_LNK.mean(0).square().mean(0) / problem.gram_LL.mean().clamp_min(LEAST_STD)
    curvature = 0.25 if problem.several else (1 - 1 / classes) / classes
    scale_K1 = (curvature * variance_K + 1 / (problem.c * clips)).rsqrt()[:, None]
    logit_L, head_KC, bias_C = (
        axes_LNK.new_zeros(shape).requires_grad_() for shape in ((layers,), (axes, classes), (classes,))
    )
    optimiser = torch.optim.LBFGS(
        [logit_L, head_KC, bias_C],
        max_iter=STEPS,
        history_size=10,
        tolerance_grad=1e-4,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = problem(logit_L, head_KC * scale_K1, bias_C)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logit_L.detach().softmax(0)


def _on_shared_axes(features_NLD: Tensor, mean_LD: Tensor, scale_LD: Tensor) -> Tensor:
    """Standardised features on axes that are uncorrelated on average over the layers [L, N, K]."""
    clips, layers, width = features_NLD.shape
    generator = torch.Generator().manual_seed(0)
    basis_DK = None
    if width > AXES:
        # One step of subspace iteration from random axes (arXiv 0909.4061, section 4.5): directions in which
        # the layers hardly vary are suppressed by the square of their share.
        step = -(-clips * layers // ROWS)
        rows_RD = ((features_NLD[::step] - mean_LD) / scale_LD).flatten(0, 1)
        start_DK = torch.randn(width, AXES, generator=generator, dtype=rows_RD.dtype)
        basis_DK = torch.linalg.qr(rows_RD.T @ (rows_RD @ start_DK)).Q
    axes_LNK = features_NLD.new_empty(layers, clips, min(width, AXES))
    for layer in range(layers):
        z_ND = (features_NLD[:, layer] - mean_LD[layer]) / scale_LD[layer]
        axes_LNK[layer] = z_ND if basis_DK is None else z_ND @ basis_DK
    mean_NK = axes_LNK.mean(0)
    return axes_LNK @ torch.linalg.eigh(mean_NK.T @ mean_NK).eigenvectors
