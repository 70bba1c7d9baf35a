"""What regularised masking is compared with: patches that are left out or set to zero.

Axes: B clips, N tokens, T time patches, F frequency patches, P values of a patch, D features, K tokens that
are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ajepa.nn.encoder import gather_tokens
from ajepa.nn.grid import PatchGrid


def steps_and_bands(own_BN: Tensor, grid: PatchGrid, share: float, generator: torch.Generator) -> Tensor:
    """Hide whole time steps and bands, as Audio-MAE does in fine-tuning (arXiv 2207.06405, section 4.3).

    Args:
        own_BN: False for padding and for patches that fill up the end of a clip; these are never drawn.
        share: of a clip's time steps that are hidden, and of the bands. What stays is rounded down.
        generator: on the device of the tokens.

    Returns:
        True for the patches that stay, [B, N].
    """
    own_BT = own_BN.view(-1, grid.time, grid.freq)[..., 0]
    kept_BT = _kept(own_BT, share, generator)
    kept_BF = _kept(torch.ones_like(own_BT[:, :1]).expand(-1, grid.freq), share, generator)
    return own_BN & (kept_BT[:, :, None] & kept_BF[:, None]).flatten(1)


def _kept(own_BX: Tensor, share: float, generator: torch.Generator) -> Tensor:
    score_BX = torch.rand(own_BX.shape, generator=generator, device=own_BX.device).masked_fill(~own_BX, 2.0)
    count_B1 = ((1 - share) * own_BX.sum(1, keepdim=True)).long().clamp_min(1)
    return score_BX.argsort(1).argsort(1) < count_B1


def zero_patches(patches_BNP: Tensor, own_BN: Tensor, kept_BN: Tensor) -> Tensor:
    """Patches with those that are not kept set to 0, the mean of a normalised spectrogram: all stay."""
    return patches_BNP.masked_fill((own_BN & ~kept_BN)[..., None], 0.0)


def drop_patches(
    patches_BNP: Tensor, positions: Tensor, valid_BN: Tensor | None, own_BN: Tensor, kept_BN: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Patches without those that are not kept: no block sees them, and they have no output.

    Args:
        positions: [N, D] or [B, N, D].
        valid_BN: False for padding; None if there is no padding.
        own_BN: False for padding and for patches that fill up the end of a clip.

    Returns:
        The same four for the K tokens that are left: [B, K, P], [B, K, D], [B, K], [B, K].
    """
    dropped_BN = own_BN & ~kept_BN
    left_BN = ~dropped_BN if valid_BN is None else valid_BN & ~dropped_BN
    most = int(left_BN.sum(1).max())
    index_BK = (~left_BN).long().argsort(dim=1, stable=True)[:, :most]  # the tokens left, in order
    left_BK = left_BN.gather(1, index_BK)
    if positions.ndim == 2:
        positions = positions.expand(len(patches_BNP), -1, -1)
    return (
        gather_tokens(patches_BNP, index_BK),
        gather_tokens(positions, index_BK),
        None if bool(left_BK.all()) else left_BK,
        own_BN.gather(1, index_BK) & left_BK,
    )
