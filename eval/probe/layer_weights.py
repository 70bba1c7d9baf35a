"""A learned weighted sum of layers, as in SUPERB (arXiv 2105.01051), fitted together with a linear head.

With z_l the features of layer l, standardised over the training clips, the minimum over a, W and b of

    c * sum_n w_n loss(x_n W + b, y_n) + |W|^2 / 2    where    x = sum_l softmax(a)_l z_l / s

is sought by L-BFGS from equal weights, in seconds where SUPERB takes 200,000 steps of Adam; w_n are weights
of the clips, 1 by default. The problem is not convex; the start makes the answer one and the same. With all
weight on one layer it is the linear probe on that layer. The root mean square s of the sum, relative to
that of a layer, keeps x at one scale: layers that differ would else be worth less together than alone, only
because their sum is smaller and needs a larger W.

To be small, the fit sees the features on the axes along which the layers together vary most over the
training clips: AXES of them, shared by all layers, as W is. Only the weights are taken from it; the head that
is scored is then fitted to all features (`ajepa.eval.probe.selection`).

Shape suffixes: N clips, L layers, D features, K axes, C classes.
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
ROWS = 4096  # clips times layers from which the axes are found
STEPS = 100
PENALTIES = (1e-3, 1e-1, 10.0)  # the weights change little with c: these serve all that a head is tried with


class LayerMix(NamedTuple):
    """What turns the features of all layers into one: a sum with weights.

    Attributes:
        weight_L: of the layers, positive; their sum is 1.
        scale_LD: what the features of each layer are divided by: their deviation in training.
    """

    weight_L: Tensor
    scale_LD: Tensor

    def __call__(self, features_NLD: Tensor) -> Tensor:
        """Features [N, D], less a constant that is the same for all clips."""
        factor_LD = self.weight_L[:, None] / self.scale_LD
        sum_ND = torch.zeros_like(features_NLD[:, 0])
        for layer, factor_D in enumerate(factor_LD):  # einsum would copy all features
            sum_ND.addcmul_(features_NLD[:, layer], factor_D)
        return sum_ND


def nearest_penalty(penalty: float) -> float:
    """The one of PENALTIES whose weights serve a head with this penalty: the nearest in ratio."""
    return min(PENALTIES, key=lambda one: max(one, penalty) / min(one, penalty))


def learn_mixes(
    features_NLD: Tensor,
    target: Tensor,
    penalties: Sequence[float],
    classes: int,
    clip_weight_N: Tensor | None = None,
) -> dict[float, LayerMix]:
    """Learn the weights of the layers on training clips, for each penalty on its own.

    Args:
        features_NLD: of the training clips.
        target: class numbers [N], or 0 and 1 [N, C] for several labels.
        penalties: values for c of the formula above.
        classes: C; a class may have no clip here.
        clip_weight_N: the w_n, of mean 1; None weighs all clips alike.
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
        truth_NC: one-hot classes, or with several labels 0 and 1.
        weight_N: of the clips.
        gram_LL: products of layers, summed over clips and axes; their squares have mean 1.
        c: the penalty's c.
        several: several labels, and so a binary loss for each class.
    """

    axes_LNK: Tensor
    truth_NC: Tensor
    weight_N: Tensor
    gram_LL: Tensor
    c: float
    several: bool

    def __call__(self, logit_L: Tensor, head_KC: Tensor, bias_C: Tensor) -> Tensor:
        """Its value for the logits a of the weights, and the head."""
        _, clips, axes = self.axes_LNK.shape
        weight_L = logit_L.softmax(0)
        # One product of a vector and a matrix: many times faster than a sum over layers.
        sum_NK = (weight_L @ self.axes_LNK.flatten(1)).view(clips, axes)
        scale = (weight_L @ self.gram_LL @ weight_L).clamp_min(LEAST_STD).rsqrt()
        logits_NC = sum_NK @ (scale * head_KC) + bias_C
        loss = mean_loss(logits_NC, self.truth_NC, self.weight_N, self.several)
        return loss + 0.5 * head_KC.square().sum() / (self.c * clips)


def _minimise(problem: Problem) -> Tensor:
    """Weights of the layers at the minimum."""
    axes_LNK, classes = problem.axes_LNK, problem.truth_NC.shape[1]
    layers, clips, axes = axes_LNK.shape
    # The head in coordinates in which its Hessian is about 1 at the start, as in `logistic`.
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
    """Standardised features on axes that are uncorrelated in the mean of the layers [L, N, K]."""
    clips, layers, width = features_NLD.shape
    generator = torch.Generator().manual_seed(0)
    basis_DK = None
    if width > AXES:
        # One step of subspace iteration from random axes (arXiv 0909.4061, section 4.5): what the layers
        # hardly vary along is suppressed by the square of its share.
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
