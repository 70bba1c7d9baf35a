"""Audio-MAE: reconstruct the hidden patches of a spectrogram from the visible ones (arXiv 2207.06405)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig, Masks, context_tokens, sample_masks, target_budget
from ajepa.masking.masks import first_places
from ajepa.nn.decoder import Decoder, DecoderConfig
from ajepa.nn.encoder import Encoder, EncoderConfig, gather_tokens
from ajepa.nn.grid import PatchGrid

from .base import ClipByClip, Loss, Objective, Share
from .metrics import PREDICTION, Panels, token_spread
from .targets import layer_normed


def _masking() -> MaskingConfig:
    """80 % of single patches hidden (section 4.1)."""
    return MaskingConfig(kind="random", random_targets=(0.8, 0.8), context_share=0.2)


Levels = Literal["true", "neighbours"]


@dataclass(frozen=True)
class AudioMAEConfig(ClipByClip):
    """Audio-MAE's own choices.

    Args:
        system: the objective's name in a recipe.
        masking: "random", or "time+frequency" for whole time steps and bands (its 2-D masking).
        norm_pixels: predict each patch minus its mean, divided by its standard deviation.
    """

    title: ClassVar[str] = "Audio-MAE"
    encoders: ClassVar[Mapping[str, str]] = MappingProxyType({"encoder": "encoder"})
    metrics: ClassVar[Panels] = PREDICTION
    advice: ClassVar[str] = "Try a lower optim.lr."

    system: Literal["audio-mae"] = "audio-mae"
    masking: MaskingConfig = field(default_factory=_masking)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    norm_pixels: bool = True

    def __post_init__(self) -> None:
        masking = self.masking
        if masking.kind == "random":
            visible = 1 - masking.random_targets[0]
        elif masking.kind == "time+frequency":
            visible = (1 - masking.hidden_time) * (1 - masking.hidden_freq)
        else:
            raise ValueError(
                f"objective.masking.kind is {masking.kind!r}; Audio-MAE takes 'random' or 'time+frequency'"
            )
        if masking.context_share < visible - 1e-2:
            raise ValueError(
                f"objective.masking.context_share is {masking.context_share}, but {visible:.2f} of the "
                "patches can be visible: the rest would be neither seen nor predicted; raise it"
            )

    def build(
        self, encoder: EncoderConfig, total_steps: int, front_end: LogMelConfig | None = None
    ) -> AudioMAE:
        """The objective with new weights, drawn from torch's global generator."""
        return AudioMAE(self, encoder, total_steps)


class AudioMAE(Objective):
    """The objective: an encoder of the visible patches, and a decoder that predicts the hidden ones.

    There is no second encoder.
    """

    def __init__(self, config: AudioMAEConfig, encoder: EncoderConfig, total_steps: int) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.encoder = Encoder(encoder)
        self.decoder = Decoder(config.decoder, self.encoder.width, encoder.patch[0] * encoder.patch[1])

    def forward(
        self, spectrogram_BLC: Tensor, step: int, generator: torch.Generator, share: Share | None = None
    ) -> Loss:
        """As `Objective.forward`: the mean squared error over the hidden patches."""
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLC)
        share = share or Share(0, len(patches_BNP), len(patches_BNP))
        masks = sample_masks(self.config.masking, grid, share.total, step, self.total_steps, generator)
        targets_in_step = masks.target_BMN.sum()
        masks = masks.rows(share.first, share.clips)

        latent_RKD = self.encode_visible(patches_BNP, masks, grid, _may_pad(self.config.masking, grid))
        prediction_RNP = self.decode(latent_RKD, masks, grid)
        error_RN = self.patch_errors(prediction_RNP, patches_BNP, masks.target_BMN.shape[1])
        error_RN = error_RN * masks.target_BMN.flatten(0, 1)
        with torch.no_grad():
            metrics = {
                "prediction_error": error_RN.sum() / masks.target_BMN.sum(),
                "prediction_std": token_spread(prediction_RNP.float()),
                "visible": masks.valid_BMK.float().sum(2).mean() / grid.tokens,
                "targets": masks.target_BMN.float().mean(),
            }
            # The gauges use the encoder's output for the visible patches: no second pass for them.
            features = layer_normed(latent_RKD[:, self.class_tokens :])
        return Loss(error_RN.sum() / targets_in_step, metrics, features)

    @property
    def class_tokens(self) -> int:
        """Tokens before the patches in what `encode_visible` returns: 1 or 0."""
        return int(self.encoder.cls_token is not None)

    def encode_visible(
        self, patches_BNP: Tensor, masks: Masks, grid: PatchGrid, padded: bool = True
    ) -> Tensor:
        """Visible tokens, normed, class token first: [R, 1 + K, D], R = clips times masks.

        If no context is padded, attention without a mask (`padded=False`) is faster.
        """
        index_RK, valid_RK = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
        patches_RKP = gather_tokens(patches_BNP, masks.context_BMK.flatten(1)).view(*index_RK.shape, -1)
        positions_RKD = self.encoder.positions(grid, patches_BNP)[index_RK]
        return self.encoder(patches_RKP, positions_RKD, valid_RK if padded else None, keep_cls=True)[0]

    def decode(self, latent_RKD: Tensor, masks: Masks, grid: PatchGrid) -> Tensor:
        """Predicted patches [R, N, P] from the encoded ones, without the class token."""
        visible_RKD = latent_RKD[:, self.class_tokens :]
        return self.decoder(visible_RKD, masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1), grid)

    def patch_errors(self, prediction_RNP: Tensor, patches_BNP: Tensor, count: int = 1) -> Tensor:
        """Mean squared error of each patch [R, N], visible ones included, for `count` masks a clip."""
        target_BNP = patches_BNP.float()
        if self.config.norm_pixels:
            mean, scale = _moments(target_BNP)
            target_BNP = (target_BNP - mean) / scale
        target_RNP = target_BNP.repeat_interleave(count, 0)
        return (prediction_RNP.float() - target_RNP).square().mean(-1)

    @torch.no_grad()
    def reconstruct(self, spectrogram_BLC: Tensor, hidden_BN: Tensor, levels: Levels = "true") -> Tensor:
        """The spectrogram with its hidden patches predicted and the others as they are.

        With `norm_pixels` the network predicts a patch's shape and not its level. `levels` says where the
        level comes from.

        Args:
            spectrogram_BLC: normalised log-mel [B, L, C].
            hidden_BN: True for patches to hide, time-major, at least one visible in each clip.
            levels: "true" puts back the hidden patch's own mean and deviation, as in MAE's figures, which
                knows more than was visible; "neighbours" takes them from the visible patches alone, as
                concealing lost audio must.

        Returns:
            [B, L, C], normalised as the input.

        Raises:
            ValueError: `hidden_BN` does not fit the spectrogram's grid, or hides a whole clip.
        """
        frames = spectrogram_BLC.shape[1]
        patches_BNP, grid = self.encoder.patchify(spectrogram_BLC)
        if hidden_BN.shape != patches_BNP.shape[:2]:
            raise ValueError(
                f"the mask has shape {tuple(hidden_BN.shape)}, the spectrogram "
                f"{tuple(patches_BNP.shape[:2])} patches ({grid.time} time steps x {grid.freq})"
            )
        hidden_BN = hidden_BN.to(patches_BNP.device, torch.bool)
        visible = (~hidden_BN).sum(1)
        if int(visible.min()) < 1:
            raise ValueError("the mask hides every patch of a clip; leave at least one visible")
        index_BK, valid_BK = first_places(~hidden_BN, int(visible.max()))
        masks = Masks(index_BK[:, None], valid_BK[:, None], hidden_BN[:, None])
        latent_BKD = self.encode_visible(patches_BNP, masks, grid)
        predicted_BNP = self.decode(latent_BKD, masks, grid).float()
        if self.config.norm_pixels:
            mean, scale = _moments(patches_BNP.float())
            if levels == "neighbours":
                mean, scale = _spread(mean, hidden_BN, grid), _spread(scale.log(), hidden_BN, grid).exp()
            predicted_BNP = predicted_BNP * scale + mean
        patches_BNP = torch.where(hidden_BN[..., None], predicted_BNP, patches_BNP.float())
        return self.encoder.unpatchify(patches_BNP, grid)[:, :frames]


def _may_pad(masking: MaskingConfig, grid: PatchGrid) -> bool:
    """Whether a mask can leave fewer visible patches than the context's budget."""
    return context_tokens(masking, grid) > grid.tokens - target_budget(masking, grid)


def _moments(patches_BNP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased, as in the original) of each patch's pixels, [B, N, 1]."""
    variance = patches_BNP.var(-1, keepdim=True)
    return patches_BNP.mean(-1, keepdim=True), (variance + 1e-6).sqrt()


def _spread(value_BN1: Tensor, hidden_BN: Tensor, grid: PatchGrid) -> Tensor:
    """Values at every patch from those at the visible ones, weighted by the inverse cube of the distance.

    A band apart counts as two time steps. On 97 real clips this came nearest to the hidden patches' means and
    deviations, among 15 pairs of weights and of powers, for 80 % hidden at random and for gaps of 0.5 s.
    """
    device = value_BN1.device
    place_N2 = torch.cartesian_prod(
        torch.arange(grid.time, device=device, dtype=torch.float32),
        2.0 * torch.arange(grid.freq, device=device, dtype=torch.float32),
    )
    weight_NN = 1 / torch.cdist(place_N2, place_N2).clamp_min(1e-3).pow(3)
    weight_BNN = weight_NN * ~hidden_BN[:, None]
    return weight_BNN @ value_BN1 / weight_BNN.sum(2, keepdim=True)
