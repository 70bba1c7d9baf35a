"""The encoder's inputs for a batch of clips: patches, their position codes, and which are valid.

Shape suffixes: B clips, L frames, T time patches, F frequency patches, N = T F tokens, P values of a patch,
D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ajepa.nn.encoder import Encoder
from ajepa.nn.grid import PatchGrid


class Prepared(NamedTuple):
    """The arguments of `Encoder.forward`, and the grid of its tokens.

    Attributes:
        patches_BNP: flat patches.
        positions: their codes, [N, D], or [B, N, D] if they differ between clips.
        valid_BN: False for tokens that are not attended to; None means all are valid.
        grid: of the N tokens.
    """

    patches_BNP: Tensor
    positions: Tensor
    valid_BN: Tensor | None
    grid: PatchGrid


def cut_into_patches(
    encoder: Encoder, spectrogram_BLC: Tensor, frames: Sequence[int], fill: float
) -> tuple[Tensor, list[int]]:
    """Patches [B, T, F, P] of spectrograms, and the number of time patches of each clip.

    Args:
        spectrogram_BLC: normalised; frames after a clip's end are overwritten with `fill`.
        frames: of each clip.
        fill: normalised value that pads a clip's last patch.

    Raises:
        ValueError: the encoder has another number of mel bands.
    """
    frames_B = torch.tensor(frames, device=spectrogram_BLC.device)
    ended_BL = torch.arange(spectrogram_BLC.shape[1], device=frames_B.device) >= frames_B[:, None]
    patches_BNP, grid = encoder.patchify(spectrogram_BLC.masked_fill(ended_BL[..., None], fill), fill)
    return patches_BNP.unflatten(1, tuple(grid)), [-(-own // encoder.config.patch[0]) for own in frames]


def prepare(
    encoder: Encoder, patches_BTFP: Tensor, lengths: Sequence[int], most_steps: int, fill: float
) -> Prepared:
    """Clips of several lengths as one padded batch.

    Some weights expect clips padded to whole steps (`InputConfig.steps`) and attend to that padding: here it
    is part of a clip, valid and with position codes. Further padding in a batch is not valid.

    Args:
        patches_BTFP: clips, with `fill` after their ends.
        lengths: time patches of each clip.
        most_steps: clips are padded to at most this many time patches.
    """
    freq = patches_BTFP.shape[2]
    multiple = encoder.config.inputs.steps
    seen = [max(length, min(-(-length // multiple) * multiple, most_steps)) for length in lengths]
    grid = PatchGrid(max(seen), freq)
    missing = grid.time - patches_BTFP.shape[1]  # below 0 if no clip is as long as the batch
    patches_BTFP = nn.functional.pad(patches_BTFP, (0, 0, 0, 0, 0, missing), value=fill)
    positions, valid_BN = encoder.positions(grid, patches_BTFP), None
    if min(seen) < grid.time:
        valid_BT = torch.arange(grid.time) < torch.tensor(seen)[:, None]
        valid_BN = valid_BT.repeat_interleave(freq, 1).to(patches_BTFP.device)
        if encoder.position_table is not None:  # its codes depend on a clip's length
            positions = torch.stack([_positions(encoder, steps, grid, patches_BTFP) for steps in seen])
    return Prepared(patches_BTFP.flatten(1, 2), positions, valid_BN, grid)


def _positions(encoder: Encoder, steps: int, grid: PatchGrid, like: Tensor) -> Tensor:
    """Position codes of a clip of `steps` time patches, then zeros up to the end of `grid`: [N, D]."""
    codes_ND = encoder.positions(PatchGrid(steps, grid.freq), like)
    return nn.functional.pad(codes_ND, (0, 0, 0, grid.tokens - len(codes_ND)))
