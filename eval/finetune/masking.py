"""What regularised masking is compared with: patches that are left out, and patches without content.

Both take the draw of `RegularisedMasking`, the same share of each clip's patches, once for all blocks.

Axes: B clips, N tokens, P values of a patch, D features, K tokens that are kept.
"""

from __future__ import annotations

from torch import Tensor

from ajepa.nn.encoder import RegularisedMasking, gather_tokens


def zero_patches(patches_BNP: Tensor, own_BN: Tensor, masking: RegularisedMasking) -> Tensor:
    """Patches with the drawn ones at 0, the mean of the normalised spectrograms; all stay tokens.

    Args:
        patches_BNP: flat patches.
        own_BN: False for padding and for what a clip was filled up with, which are not drawn from.
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
    """Patches without the drawn ones: no block sees these, and they get no output.

    Args:
        positions: [N, D] or [B, N, D].
        valid_BN: False for padding, None for none.
        own_BN: False for padding and for what a clip was filled up with, which are not drawn from.

    Returns:
        The same four for the tokens that are left, K of them: [B, K, P], [B, K, D], [B, K], [B, K].
    """
    dropped_BN = own_BN & ~masking.visible(patches_BNP, own_BN, slice(0, None))
    left_BN = ~dropped_BN if valid_BN is None else valid_BN & ~dropped_BN
    most = int(left_BN.sum(1).max())
    index_BK = (~left_BN).long().argsort(dim=1, stable=True)[:, :most]  # those that are left, in their order
    left_BK = left_BN.gather(1, index_BK)
    if positions.ndim == 2:
        positions = positions.expand(len(patches_BNP), -1, -1)
    return (
        gather_tokens(patches_BNP, index_BK),
        gather_tokens(positions, index_BK),
        None if bool(left_BK.all()) else left_BK,
        own_BN.gather(1, index_BK) & left_BK,
    )
