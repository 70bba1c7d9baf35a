"""A-JEPA: predict the target encoder's features at masked places from the context (arXiv 2311.15830)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ajepa.encoder import Encoder, EncoderConfig, gather_tokens
from ajepa.grid import PatchGrid
from ajepa.masking import MaskingConfig, sample_masks
from ajepa.objectives.base import Loss
from ajepa.objectives.regularisers import variance_covariance
from ajepa.predictor import Predictor, PredictorConfig
from ajepa.schedules import linear


@dataclass(frozen=True)
class AJEPAConfig:
    """A-JEPA's own choices; where the paper is silent, the defaults are I-JEPA's.

    Args:
        momentum: the target encoder's EMA coefficient at the first and the last step. The paper gives
            none; 0.996 to 1.0 are I-JEPA's. Its time constant 1 / (1 - m) must fit the number of steps.
        target_layers: targets are the mean of the outputs of the last so many blocks (data2vec); 1 is the
            paper's: the encoder's output.
        target_norm: "layer" standardises each patch over its features (the paper's "patch-normalized");
            "batch" then also takes off the mean over the clips at each place of the grid, which any
            predictor knows from the position alone, and scales each feature to unit variance.
        variance_weight, covariance_weight: of VICReg's two terms on the context encoder's output, against
            a collapse of its dimensions; 0 in the paper.
    """

    masking: MaskingConfig = field(default_factory=MaskingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    momentum: tuple[float, float] = (0.996, 1.0)
    target_layers: int = 1
    target_norm: Literal["layer", "batch"] = "layer"
    variance_weight: float = 0.0
    covariance_weight: float = 0.0


class AJEPA(nn.Module):
    """The objective: a context encoder, its moving average as target encoder, and a predictor.

    `objective(spectrogram, step, generator) -> Loss`; call `after_step(step)` once the optimiser has
    stepped. `encoder` is trained by gradient, `target_encoder` is what evaluation uses by default.
    """

    evaluated = "target_encoder"

    def __init__(self, config: AJEPAConfig, encoder: EncoderConfig, total_steps: int) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.encoder = Encoder(encoder)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.predictor = Predictor(config.predictor, self.encoder.width)

    def forward(self, spectrogram_BLM: Tensor, step: int, generator: torch.Generator) -> Loss:
        """One step's loss.

        Args:
            spectrogram_BLM: normalised log-mel [B, frames, mels], whole patches.
            step: training step, which sets the curriculum's place.
            generator: source of the masks, on the spectrogram's device.
        """
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLM)
        features_BND, output_BND = self.features(patches_BNP, grid)
        target_BND = self.normalise_targets(features_BND)
        masks = sample_masks(self.config.masking, grid, len(patches_BNP), step, self.total_steps, generator)
        count = self.config.masking.masks_per_clip
        index_RK, valid_RK = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
        context_RKD = self.encode_context(patches_BNP.repeat_interleave(count, 0), index_RK, valid_RK, grid)
        prediction_RND = self.predictor(context_RKD, index_RK, valid_RK, grid)

        error_BMN = functional.mse_loss(
            prediction_RND.unflatten(0, (-1, count)).float(),
            target_BND[:, None].expand(-1, count, -1, -1),
            reduction="none",
        ).mean(-1)
        weight_BMN = masks.target_BMN.float()
        error = (error_BMN * weight_BMN).sum() / weight_BMN.sum()
        value = error + self._regulariser(context_RKD, valid_RK)
        with torch.no_grad():
            metrics = {
                "prediction_error": error.detach(),
                "target_std": token_spread(features_BND),
                "prediction_std": token_spread(prediction_RND.float()),
                "visible": valid_RK.float().sum(1).mean() / grid.tokens,
                "targets": weight_BMN.mean(),
            }
        return Loss(value, metrics, output_BND)

    def _regulariser(self, context_RKD: Tensor, valid_RK: Tensor) -> Tensor | float:
        config = self.config
        if config.variance_weight == config.covariance_weight == 0:
            return 0.0
        shortfall, coupling = variance_covariance(_standardise(context_RKD)[valid_RK])
        return config.variance_weight * shortfall + config.covariance_weight * coupling

    @torch.no_grad()
    def features(self, patches_BNP: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
        """What the target encoder says of the whole spectrogram: targets and output, each [B, N, D] float32.

        Normalised per patch without affine, as I-JEPA's code does before it gathers the target places.
        """
        encoder = self.target_encoder
        positions = encoder.positions(grid, patches_BNP)
        last = self.config.target_layers
        output, layers = encoder(patches_BNP, positions, keep_layers=last if last > 1 else 0)
        output = _standardise(output)
        if last == 1:
            return output, output
        return _standardise(torch.stack([_standardise(layer) for layer in layers]).mean(0)), output

    def normalise_targets(self, features_BND: Tensor) -> Tensor:
        """What the predictor has to match: the features, for "batch" centred and scaled over the clips."""
        if self.config.target_norm == "layer":
            return features_BND
        centred_BND = features_BND - features_BND.mean(0)
        return centred_BND / (centred_BND.var((0, 1), correction=0) + 1e-5).sqrt()

    def encode_context(
        self, patches_RNP: Tensor, index_RK: Tensor, valid_RK: Tensor, grid: PatchGrid
    ) -> Tensor:
        """Context tokens [R, K, D]: no other patch reaches the encoder."""
        positions = self.encoder.positions(grid, patches_RNP)[index_RK]
        return self.encoder(gather_tokens(patches_RNP, index_RK), positions, valid_RK)[0]

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        """Move the target encoder: theta' <- m theta' + (1 - m) theta, parameters only."""
        momentum = linear(step, self.total_steps, *self.config.momentum)
        targets: list[Tensor] = list(self.target_encoder.parameters())
        sources: list[Tensor] = list(self.encoder.parameters())
        torch._foreach_lerp_(targets, sources, 1.0 - momentum)
        return {"momentum": momentum}


def _standardise(features: Tensor) -> Tensor:
    """Zero mean and unit variance over the feature axis, in float32."""
    return functional.layer_norm(features.float(), features.shape[-1:])


def token_spread(features_BND: Tensor) -> Tensor:
    """Standard deviation of each feature over all tokens and clips, averaged: 0 means collapse."""
    return features_BND.flatten(0, 1).std(0).mean()
