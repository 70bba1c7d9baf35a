"""The head of a classifier: from an encoder's statistics over time to one number for each label.

Two kinds of classifiers have this form. A linear probe takes the statistics that it was fitted on,
standardised, and a linear layer. A fine-tuned network takes the mean over all patches, perhaps a LayerNorm,
and a linear layer.

Shape suffixes: B clips, L layers (the blocks' outputs, then the normed output), X statistics over time (mean,
standard deviation), F frequency patches, D features, V values that the linear layer takes, Y labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ajepa.nn.blocks import LayerNorm

from .embedding import LAST, join, parse_layers

WEIGHTED = "weighted"


@dataclass(frozen=True)
class HeadConfig:
    """What a head takes.

    Attributes:
        labels: Y.
        values: V.
        layer: "last" (the normed output), a block's number from 1, several joined such as "2+4+6", or
            "weighted", a sum of all layers.
        layers: L, of a weighted sum; else 0.
        pool: frequency patches are joined ("concat") or averaged ("mean").
        time: "mean", or "mean+std" with the standard deviation.
        norm: a LayerNorm before the linear layer.
    """

    labels: int
    values: int
    layer: str = LAST
    layers: int = 0
    pool: Literal["concat", "mean"] = "concat"
    time: Literal["mean", "mean+std"] = "mean"
    norm: bool = False

    def __post_init__(self) -> None:
        for name in ("labels", "values"):
            if not 1 <= getattr(self, name) <= 2**24:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.layer != WEIGHTED:
            parse_layers(self.layer, None, "layer")
        if (self.layer == WEIGHTED) != (self.layers > 0):
            raise ValueError(f"layers is {self.layers}, must be above 0 for a weighted sum and 0 otherwise")


class Head(nn.Module):
    """Statistics to logits; see `HeadConfig`.

    Attributes:
        mix_LV: factors of a weighted sum; None for a single layer.
        mean_V, scale_V: what is subtracted from the values, and what they are then multiplied with.
    """

    mix_LV: Tensor | None
    mean_V: Tensor
    scale_V: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        mix = torch.ones(config.layers, config.values) if config.layer == WEIGHTED else None
        self.register_buffer("mix_LV", mix)
        self.register_buffer("mean_V", torch.zeros(config.values))
        self.register_buffer("scale_V", torch.ones(config.values))
        self.norm = LayerNorm(config.values) if config.norm else None
        self.linear = nn.Linear(config.values, config.labels)

    def reset_parameters(self) -> None:
        """The weights of a new head."""
        if self.mix_LV is not None:
            nn.init.ones_(self.mix_LV)
        nn.init.zeros_(self.mean_V)
        nn.init.ones_(self.scale_V)
        if self.norm is not None:
            self.norm.reset_parameters()
        self.linear.reset_parameters()

    @property
    def every_layer(self) -> bool:
        """Whether it takes the statistics of all layers; else those of the last one suffice."""
        return self.config.layer != LAST

    def forward(self, statistics_BLXFD: Tensor) -> Tensor:
        """Logits [B, Y].

        Args:
            statistics_BLXFD: of all layers, or of the last one where `every_layer` is false; X may be 1 for a
                head that takes means alone.
        """
        if self.config.layer != WEIGHTED:
            numbers = parse_layers(self.config.layer, None)
            statistics_BLXFD = join(statistics_BLXFD.unbind(1), numbers)[:, None]
        concat = self.config.pool == "concat"
        every_BLV = statistics_BLXFD.flatten(-3) if concat else statistics_BLXFD.mean(-2).flatten(-2)
        # The deviations come after the means. (To cut them off before would be an obstacle to torch.export.)
        values_BLV = every_BLV[:, :, : self.config.values]
        values_BV = values_BLV[:, 0] if self.mix_LV is None else (values_BLV * self.mix_LV).sum(1)
        values_BV = (values_BV - self.mean_V) * self.scale_V
        return self.linear(values_BV if self.norm is None else self.norm(values_BV))
