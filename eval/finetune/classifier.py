"""The network that is fine-tuned: front end, encoder, mean over the patches, a linear head."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from ajepa.features import LogMel, LogMelConfig, levelled
from ajepa.model import AudioEncoder
from ajepa.model.batching import cut_into_patches, prepare
from ajepa.nn.blocks import LayerNorm
from ajepa.nn.encoder import DropPath, RegularisedMasking

from .augment import add_noise, spec_augment
from .config import FinetuneConfig
from .masking import drop_patches, steps_and_bands, zero_patches


class Classifier(nn.Module):
    """A copy of an encoder with a new head: "average pool and a linear layer" (A-JEPA, section 4).

    Args:
        model: the encoder, which is copied.
        head_std: standard deviation of the head's initial weights, drawn from torch's global generator.
    """

    def __init__(self, model: AudioEncoder, classes: int, config: FinetuneConfig) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(_normalised(model.features.config, config))
        self.encoder = copy.deepcopy(model.encoder).requires_grad_(True)
        inputs = self.encoder.config.inputs
        self.fill = inputs.fill_value(self.features.config, float(self.features.silence))
        # At least those of the longest stretch: so it is the mean of an encoder with chunks of this length.
        longest = self.features.config.frames(max(1, round(config.seconds * model.sample_rate)))
        self.most_steps = max(model.chunk_patches, -(-longest // self.encoder.config.patch[0]))
        self.norm = None if config.norm == "before" else LayerNorm(self.encoder.width)
        self.head = nn.Linear(self.encoder.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=config.head_std)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, waveform_BS: Tensor, lengths_B: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits [B, C]. Takes the arguments of `pooled`."""
        pooled_BD = self.pooled(waveform_BS, lengths_B, generator)
        return self.head(pooled_BD if self.norm is None else self.norm(pooled_BD))

    def pooled(
        self, waveform_BS: Tensor, lengths_B: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean of each clip's patches [B, D].

        Without a generator and with the norm before the mean, this is the mean that an `AudioEncoder` with
        chunks of `most_steps` gives.

        Args:
            waveform_BS: clips, with zeros after their ends.
            lengths_B: samples in each clip, on the CPU.
            generator: on the CPU, for the augmentations, the masking and drop path. None for evaluation,
                which uses none of these.
        """
        encoder, config, lengths = self.encoder, self.config, lengths_B.tolist()
        lengths_B = lengths_B.to(waveform_BS.device)
        with torch.no_grad():
            waveform_BS = levelled(waveform_BS, encoder.config.inputs, lengths_B)
            spectrogram_BLM = self.features(waveform_BS, lengths_B)
            if generator is not None:
                # 0 is the mean of a normalised spectrogram.
                spectrogram_BLM = spec_augment(
                    spectrogram_BLM, config.freq_mask, config.time_mask, 0.0, generator
                )
                if config.noise:
                    spectrogram_BLM = add_noise(spectrogram_BLM, generator)
            frames = [self.features.config.frames(length) for length in lengths]
            patches_BTFP, steps = cut_into_patches(encoder, spectrogram_BLM, frames, self.fill)
            patches_BNP, positions, valid_BN, grid = prepare(
                encoder, patches_BTFP, steps, self.most_steps, self.fill
            )
        # Patches that fill a clip up to a whole grid are attended to, but left out of the average.
        own_BT = torch.arange(grid.time) < torch.tensor(steps)[:, None]
        own_BN = own_BT.repeat_interleave(grid.freq, 1).to(patches_BNP.device)
        regularised = drop_path = None
        if generator is not None:  # the steps below draw on the device
            seed = int(torch.randint(2**62, (1,), generator=generator))
            inner = torch.Generator(patches_BNP.device).manual_seed(seed)
            masking = RegularisedMasking(config.masked_share, inner)
            if config.masked_how == "regularised":
                regularised = masking
            elif config.masked_how == "structured":
                kept_BN = steps_and_bands(own_BN, grid, config.masked_share, inner)
            else:
                kept_BN = masking.visible(patches_BNP, own_BN, slice(0, None))
            if config.masked_how == "zero":
                patches_BNP = zero_patches(patches_BNP, own_BN, kept_BN)
            elif config.masked_how != "regularised":
                patches_BNP, positions, valid_BN, own_BN = drop_patches(
                    patches_BNP, positions, valid_BN, own_BN, kept_BN
                )
            drop_path = DropPath(config.drop_path, inner)
        tokens_BND, (before_BND,) = encoder(
            patches_BNP, positions, valid_BN, keep_layers=1, regularised=regularised, drop_path=drop_path
        )
        if config.norm == "after":
            tokens_BND = before_BND
        weight_BN1 = own_BN[..., None].to(tokens_BND.dtype)
        return (tokens_BND * weight_BN1).sum(1) / weight_BN1.sum(1)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Parameters with the learning-rate factor for their depth, and whether they get weight decay.

        The head and the last norms use the full rate, the last block uses `layer_decay` times that, and so on
        down to the patch embedding (ELECTRA's rule, also used by BEiT and Audio-MAE).
        """
        blocks = len(self.encoder.blocks)
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if name.startswith("encoder.blocks."):
                depth = int(name.split(".")[2]) + 1
            elif name.startswith(("encoder.norm", "norm", "head")):
                depth = blocks + 1
            else:  # patch embedding, class token, positions
                depth = 0
            scale = self.config.layer_decay ** (blocks + 1 - depth)
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
        return [
            {"params": params, "scale": scale, "weight_decay": self.config.weight_decay if decays else 0.0}
            for (scale, decays), params in groups.items()
        ]


def _normalised(features: LogMelConfig, config: FinetuneConfig) -> LogMelConfig:
    """The front end's settings with the data set's own statistics, where the recipe gives them."""
    if config.std == 0:
        return features
    return replace(features, mean=config.mean, std=config.std)
