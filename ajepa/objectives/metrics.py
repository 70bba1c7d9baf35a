"""What objectives log, explained: the panels of `ajepa curves`, `ajepa watch` and the report."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor


class Panel(NamedTuple):
    """How a metric is shown.

    Attributes:
        title: a few words; above the curve.
        explanation: one or two sentences: what it is, and what healthy and unhealthy curves look like.
    """

    title: str
    explanation: str = ""


# Another package's objective may give a plain title.
Panels = Mapping[str, Panel | str]

# One explanation for all systems that log the metric, since a picture shows runs of several.
PREDICTION: Mapping[str, Panel] = MappingProxyType(
    {
        "prediction_error": Panel(
            "prediction error",
            "How far predictions are from targets at the hidden patches. Audio-MAE's targets are fixed, so "
            "it falls; those of a JEPA change while the encoder learns, so it may rise while features "
            "improve. A fast fall together with the spread of the targets is a collapse.",
        ),
        "prediction_std": Panel(
            "spread of the predictions",
            "Mean standard deviation of the predictions over the batch. After a dip at the start it grows "
            "towards the spread of the targets; near 0, the same is predicted everywhere.",
        ),
        "visible": Panel(
            "share of tokens in the context",
            "How much of the spectrogram the encoder sees in training. The recipe's masks decide it; it "
            "changes only with the curriculum.",
        ),
        "targets": Panel(
            "share of tokens to predict",
            "How much of the spectrogram is predicted, per mask. The recipe's masks decide it; it changes "
            "only with the curriculum.",
        ),
    }
)

TEACHER: Mapping[str, Panel] = MappingProxyType(
    {
        "reconstruction_error": Panel(
            "reconstruction error",
            "How well a linear layer reads the hidden patches of the spectrogram from the predictions. 1 is "
            "what the mean of each patch alone would give; it should fall.",
        ),
        "target_std": Panel(
            "spread of the targets (0: collapse)",
            "Mean standard deviation of the targets over the batch. Healthy: it rises or stays. Below half "
            "of its highest value the features are collapsing.",
        ),
        "ema_gap": Panel(
            "distance of encoder and target encoder",
            "Distance of the weights of the encoder and its moving average, relative to the encoder's. It is "
            "largest while the encoder changes fast, early in a run, and shrinks as the learning rate falls.",
        ),
    }
)


def token_spread(features_BND: Tensor) -> Tensor:
    """Standard deviation of each feature over all tokens and clips, averaged: 0 means collapse."""
    centred_XD = features_BND.flatten(0, 1)
    centred_XD = centred_XD - centred_XD.mean(0)  # `Tensor.std` takes 20 times as long on a CPU
    return (centred_XD.square().sum(0) / (len(centred_XD) - 1)).sqrt().mean()
