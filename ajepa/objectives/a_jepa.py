"""A-JEPA: predict the target encoder's features at masked places from the context (arXiv 2311.15830)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig, Masks, sample_masks, target_budget
from ajepa.nn.encoder import Encoder, EncoderConfig, gather_tokens
from ajepa.nn.grid import PatchGrid
from ajepa.nn.predictor import Predictor, PredictorConfig
from ajepa.schedules import linear

from .base import Loss, Objective, Share
from .corruption import Corruption, CorruptionConfig
from .metrics import PREDICTION, TEACHER, Panels, token_spread
from .moving_average import follow, parameter_gap
from .regularisers import variance_covariance
from .stretching import StretchingConfig, stretched
from .targets import ERRORS, LossKind, TargetNorm, average_layers, batch_normed, layer_normed

# Logged by A-JEPA and Audio-JEPA; `momentum` needs no curve, since the recipe fixes it.
METRICS: Panels = MappingProxyType({**PREDICTION, **TEACHER})

ENCODERS: Mapping[str, str] = MappingProxyType({"target": "target_encoder", "context": "encoder"})


@dataclass(frozen=True)
class AJEPAConfig:
    """A-JEPA's own choices; where the paper is silent, the defaults are I-JEPA's.

    Args:
        system: the objective's name in a recipe.
        momentum: the target encoder's EMA coefficient at the first and the last step. The paper states none;
            0.996 to 1.0 are I-JEPA's. The time constant 1 / (1 - m) must fit the number of steps.
        target_layers: targets are the mean of the outputs of this many last blocks (data2vec); 1, the
            encoder's output, in the paper.
        target_norm: "layer" standardises each patch over its features (the paper's "patch-normalized");
            "instance" each feature over the clip's patches (data2vec); "batch" is "layer", then subtracts the
            mean over the clips at each place of the grid and scales each feature to unit variance.
        loss: "l2" (the paper's mean squared error), "smooth-l1" (I-JEPA's code), or "cosine",
            2 - 2 cos (Audio-JEPA).
        mean: the loss is the mean over all target "tokens" of a step, or the mean over "masks" of the mean
            over each mask's tokens. A time-frequency mask has fewer targets than a block mask: over tokens it
            weighs less than its share of the masks. The paper averages "the L2 distance between the output
            features" (section 3.2) without saying how; I-JEPA's code pools masks of one size.
        variance_weight, covariance_weight: of VICReg's two terms on the context encoder's output, against a
            collapse of its dimensions; 0 in the paper. Each micro-batch computes its own terms.
        reconstruction_weight: of a second error: a linear layer on the predictor's output predicts the
            normalised patch of the spectrogram, as in Audio-MAE, at the same places. It keeps features that
            are hard to predict, which a short run would lose (docs/LOG.md); 0 in the paper.
        evaluated: the encoder that is probed and exported first: the "target" encoder, as in Audio-JEPA and
            I-JEPA, or the "context" encoder, which the paper fine-tunes (sections 1 and 3.2).
        corruption: of the clips for the context encoder; the target encoder and the reconstruction get clean
            clips. None in the paper.
        stretching: of the clips in time and over the mel scale, before anything else. None in the paper.
    """

    title: ClassVar[str] = "A-JEPA"
    metrics: ClassVar[Panels] = METRICS
    advice: ClassVar[str] = (
        "What has helped A-JEPA (docs/LOG.md): objective.variance_weight=1 with "
        "objective.covariance_weight=0.04, a slower moving average (objective.momentum), a lower optim.lr."
    )

    system: Literal["a-jepa"] = "a-jepa"
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    momentum: tuple[float, float] = (0.996, 1.0)
    target_layers: int = 1
    target_norm: TargetNorm = "layer"
    loss: LossKind = "l2"
    mean: Literal["tokens", "masks"] = "tokens"
    variance_weight: float = 0.0
    covariance_weight: float = 0.0
    reconstruction_weight: float = 0.0
    evaluated: Literal["target", "context"] = "target"
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    stretching: StretchingConfig = field(default_factory=StretchingConfig)

    def __post_init__(self) -> None:
        if self.target_layers < 1:
            raise ValueError(f"objective.target_layers is {self.target_layers}, must be at least 1")
        if not all(0 <= momentum <= 1 for momentum in self.momentum):
            raise ValueError(f"objective.momentum is {self.momentum}, both must be in 0..1")
        for name in ("variance_weight", "covariance_weight", "reconstruction_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name} is {getattr(self, name)}, must be at least 0")

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raises ValueError if the encoder has fewer blocks than `target_layers`."""
        depth = encoder.dimensions[1]
        if self.target_layers > depth:
            raise ValueError(
                f"objective.target_layers is {self.target_layers}, encoder.depth {depth}: it must be at most "
                f"the depth; add objective.target_layers={depth}, or take a deeper encoder"
            )

    @property
    def encoders(self) -> Mapping[str, str]:
        """The target and the context encoder, the evaluated one first."""
        names = sorted(ENCODERS, key=lambda name: name != self.evaluated)
        return {name: ENCODERS[name] for name in names}

    @property
    def couples_clips(self) -> bool:
        """Whether the loss has statistics over a micro-batch, or clips are each other's noise."""
        statistics = self.target_norm == "batch" or self.variance_weight > 0 or self.covariance_weight > 0
        return statistics or self.corruption.mixes_clips

    def build(self, encoder: EncoderConfig, total_steps: int, front_end: LogMelConfig | None = None) -> AJEPA:
        """The objective with new weights, drawn from torch's global generator."""
        return AJEPA(self, encoder, total_steps, front_end)


class AJEPA(Objective):
    """The objective: a context encoder, its moving average as target encoder, and a predictor.

    Call `after_step(step)` after the optimiser's step. `encoder` is trained by gradient; evaluation uses
    `target_encoder` by default.

    Attributes:
        to_patch: from the predictor's output to a patch; None without `reconstruction_weight`.
    """

    to_patch: nn.Linear | None

    def __init__(
        self,
        config: AJEPAConfig,
        encoder: EncoderConfig,
        total_steps: int,
        front_end: LogMelConfig | None = None,
    ) -> None:
        super().__init__()
        config.check_encoder(encoder)
        self.config = config
        self.total_steps = total_steps
        self.encoder = Encoder(encoder)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.predictor = Predictor(config.predictor, self.encoder.width)
        values = encoder.patch[0] * encoder.patch[1]
        self.to_patch = nn.Linear(self.encoder.width, values) if config.reconstruction_weight else None
        self.corruption = Corruption(config.corruption, front_end or LogMelConfig())

    def forward(
        self, spectrogram_BLC: Tensor, step: int, generator: torch.Generator, share: Share | None = None
    ) -> Loss:
        """As `Objective.forward`; the step determines the state of the curriculum."""
        clips = len(spectrogram_BLC)
        share = share or Share(0, clips, clips)
        spectrogram_BLC = stretched(self.config.stretching, spectrogram_BLC, generator, share)
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLC)
        masks = sample_masks(self.config.masking, grid, share.total, step, self.total_steps, generator)
        in_step = masks.target_BMN.sum(), share.total * masks.target_BMN.shape[1]
        masks = masks.rows(share.first, share.clips)

        features_BND, output_BND = self.features(patches_BNP, grid)
        target_BND = batch_normed(features_BND) if self.config.target_norm == "batch" else features_BND
        if self.to_patch is not None:  # after the features, so that both are taken at the same places
            target_BND = torch.cat([target_BND, layer_normed(patches_BNP)], -1)
        corrupted_BLC = self.corruption(spectrogram_BLC, generator, share)
        context_RKD = self.encode_context(self.encoder.patchify(corrupted_BLC)[0], masks, grid)
        prediction_RXD, target_RXE, weight_RX = self._predict(context_RKD, masks, target_BND, grid)
        target_RXD = target_RXE[..., : self.encoder.width]
        error_RX = ERRORS[self.config.loss](prediction_RXD.float(), target_RXD) * weight_RX
        value = self._mean(error_RX, weight_RX, *in_step)
        value = value + self._regulariser(context_RKD, masks) * (share.clips / share.total)
        metrics = {}
        if self.to_patch is not None:
            patch_RXP = self.to_patch(prediction_RXD).float()
            missed_RX = (patch_RXP - target_RXE[..., self.encoder.width :]).square().mean(-1) * weight_RX
            value = value + self.config.reconstruction_weight * self._mean(missed_RX, weight_RX, *in_step)
            metrics["reconstruction_error"] = missed_RX.detach().sum() / weight_RX.sum()
        with torch.no_grad():
            metrics |= {
                "prediction_error": error_RX.sum() / weight_RX.sum(),
                "target_std": token_spread(features_BND),
                "prediction_std": token_spread(prediction_RXD.float()),
                "visible": masks.valid_BMK.float().sum(2).mean() / grid.tokens,
                "targets": masks.target_BMN.float().mean(),
            }
        return Loss(value, metrics, output_BND)

    @torch.no_grad()
    def pooled_prediction(self, spectrogram_BLC: Tensor, masks: Masks) -> Tensor:
        """The mean of the predictor's outputs over each mask's targets, [B * M, D] (section 4.4)."""
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLC)
        context_RKD = self.encode_context(patches_BNP, masks, grid)
        index_RK, valid_RK = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
        if self.config.predictor.kind != "targets":
            prediction_RXD = self.predictor(context_RKD, index_RK, valid_RK, grid)
            weight_RX = _flat(masks.target_BMN)
        else:
            most = int(masks.target_BMN.sum(2).max())
            target_RX, real_RX = (part.flatten(0, 1) for part in masks.target_indices(most))
            prediction_RXD = self.predictor(context_RKD, index_RK, valid_RK, grid, (target_RX, real_RX))
            weight_RX = real_RX.float()
        total_RD = (prediction_RXD.float() * weight_RX[..., None]).sum(1)
        return total_RD / weight_RX.sum(1, keepdim=True)

    def _mean(self, error_RX: Tensor, weight_RX: Tensor, targets: Tensor, masks: int) -> Tensor:
        """This share's part of a mean over the step's `targets`, or over its `masks`."""
        if self.config.mean == "tokens":
            return error_RX.sum() / targets
        return (error_RX.sum(1) / weight_RX.sum(1)).sum() / masks

    def _predict(
        self, context_RKD: Tensor, masks: Masks, target_BND: Tensor, grid: PatchGrid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions [R, X, D], targets [R, X, D + P] and their weights [R, X], at X places of the grid.

        The targets' P values of a patch are there only with `reconstruction_weight`.
        """
        rows, count = len(context_RKD), masks.target_BMN.shape[1]
        index_RK, valid_RK = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
        every_BMND = target_BND[:, None].expand(-1, count, -1, -1)
        if self.config.predictor.kind != "targets":
            prediction_RND = self.predictor(context_RKD, index_RK, valid_RK, grid)
            return prediction_RND, every_BMND.reshape(rows, *target_BND.shape[1:]), _flat(masks.target_BMN)
        index_BMQ, real_BMQ = masks.target_indices(target_budget(self.config.masking, grid))
        places = (index_BMQ.flatten(0, 1), real_BMQ.flatten(0, 1))
        prediction_RQD = self.predictor(context_RKD, index_RK, valid_RK, grid, places)
        target_BMQD = every_BMND.gather(2, index_BMQ[..., None].expand(-1, -1, -1, target_BND.shape[-1]))
        return prediction_RQD, target_BMQD.flatten(0, 1), _flat(real_BMQ)

    def _regulariser(self, context_RKD: Tensor, masks: Masks) -> Tensor | float:
        config = self.config
        if config.variance_weight == config.covariance_weight == 0:
            return 0.0
        valid_RK = masks.valid_BMK.flatten(0, 1)
        shortfall, coupling = variance_covariance(layer_normed(context_RKD), valid_RK)
        return config.variance_weight * shortfall + config.covariance_weight * coupling

    @torch.no_grad()
    def features(self, patches_BNP: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
        """The target encoder on the whole spectrogram: targets and output, each [B, N, D] float32.

        Targets are normalised before their places are gathered, as in I-JEPA's code. All masks of a clip
        share this pass.
        """
        encoder = self.target_encoder
        last = self.config.target_layers
        output, layers = encoder(
            patches_BNP, encoder.positions(grid, patches_BNP), keep_layers=last if last > 1 else 0
        )
        return average_layers(layers or [output], self.config.target_norm), layer_normed(output)

    def encode_context(self, patches_BNP: Tensor, masks: Masks, grid: PatchGrid) -> Tensor:
        """Context tokens [R, K, D], R = clips times masks; the encoder sees no other patch."""
        index_RK, valid_RK = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
        patches_RKP = gather_tokens(patches_BNP, masks.context_BMK.flatten(1)).view(*index_RK.shape, -1)
        positions_RKD = self.encoder.positions(grid, patches_BNP)[index_RK]
        return self.encoder(patches_RKP, positions_RKD, valid_RK)[0]

    def momentum(self, step: int) -> float:
        """The moving average's coefficient at a step: linear, as in I-JEPA's code."""
        return linear(step, self.total_steps, *self.config.momentum)

    def after_step(self, step: int) -> dict[str, float]:
        """Move the target encoder towards the encoder; returns the coefficient."""
        momentum = self.momentum(step)
        follow(self.target_encoder, self.encoder, momentum)
        return {"momentum": momentum}

    def gauges(self) -> dict[str, float]:
        """The distance of the two encoders."""
        return {"ema_gap": parameter_gap(self.encoder, self.target_encoder)}


def _flat(chosen_BMX: Tensor) -> Tensor:
    return chosen_BMX.flatten(0, 1).float()
