"""Alternatives that regularised masking is compared with: dropped patches, and patches set to zero.

Both mask the patches drawn by `RegularisedMasking`: the same share of each clip, one draw for all blocks.

Axes: B clips, N tokens, P values of a patch, D features, K tokens that are kept.
"""

from __future__ import annotations

from torch import Tensor

from ajepa.nn.encoder import RegularisedMasking, gather_tokens


def zero_patches(patches_BNP: Tensor, own_BN: Tensor, masking: RegularisedMasking) -> Tensor:
    """Patches with the drawn ones set to 0, the mean of a normalised spectrogram. All remain tokens.

    Args:
        patches_BNP: flat patches.
        own_BN: False for padding and for fill patches at the end of a clip; these are never drawn.
        masking: the share and the generator.
    """
    kept_BN = masking.visible(patches_BNP, own_BN, slice(0, None))
    return patches_BNP.masked_fill((own_BN & ~kept_BN)[..., None], 0.0)


def drop_patches(
    patches_BNP: Tensor,
    positions: Tensor,
    valid_BN: Tensor | None,
    own_BN: Tensor,
    masking: RegularisedMasking,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Patches without the drawn ones: no block sees them, and they have no output.

    Args:
        positions: [N, D] or [B, N, D].
        valid_BN: False for padding; None if there is no padding.
        own_BN: False for padding and for fill patches at the end of a clip; these are never drawn.

    Returns:
        The same four for the K tokens that are left: [B, K, P], [B, K, D], [B, K], [B, K].
    """
    dropped_BN = own_BN & ~masking.visible(patches_BNP, own_BN, slice(0, None))
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
