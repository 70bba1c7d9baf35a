"""Regularised masking, as A-JEPA's section 3.3 has it: barred patches are not attended to, but attend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ajepa.nn.encoder import Encoder, EncoderConfig, RegularisedMasking

CONFIG = EncoderConfig(size="ti", width=32, depth=3, heads=2)


def encoder(**changes: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(replace(CONFIG, **changes)).eval()  # type: ignore[arg-type]


def masking(share: float, seed: int = 0) -> RegularisedMasking:
    return RegularisedMasking(share, torch.Generator().manual_seed(seed))


class Fixed(RegularisedMasking):
    """Bars the same patches in every block."""

    barred = (2, 5)

    def visible(self, tokens_BND: Tensor, valid_BN: Tensor | None, patches: slice) -> Tensor:
        visible_BN = torch.ones(tokens_BND.shape[:2], dtype=torch.bool)
        for place in self.barred:
            visible_BN[:, patches.start + place] = False
        return visible_BN


@pytest.mark.parametrize("cls_token", [False, True])
def test_a_barred_patch_influences_no_other_and_gets_an_output(cls_token: bool) -> None:
    network = encoder(cls_token=cls_token)
    patches_BNP, positions = torch.randn(2, 8, 256), torch.randn(8, 32)
    other = patches_BNP.clone()
    other[:, list(Fixed.barred)] += 1.0
    fixed = Fixed(0.25, torch.Generator())
    ours, _ = network(patches_BNP, positions, regularised=fixed)
    theirs, _ = network(other, positions, regularised=fixed)
    change_N = (ours - theirs).abs().amax(dim=(0, 2))
    others = [place for place in range(8) if place not in Fixed.barred]
    assert change_N[others].max() == 0
    assert change_N[list(Fixed.barred)].min() > 1e-3
    # The barred ones still look at the others.
    other = patches_BNP.clone()
    other[:, 0] += 1.0
    theirs, _ = network(other, positions, regularised=fixed)
    assert (ours - theirs)[:, list(Fixed.barred)].abs().amax(dim=(0, 2)).min() > 1e-4


def test_every_block_and_clip_draws_its_own_exact_share() -> None:
    draws = masking(0.25)
    tokens = torch.zeros(64, 12, 4)
    blocks = torch.stack([draws.visible(tokens, None, slice(0, None)) for _ in range(3)])
    assert (~blocks).sum(2).eq(3).all()
    assert (blocks[0] != blocks[1]).any(1).float().mean() > 0.9
    assert (blocks[0][1:] != blocks[0][:-1]).any(1).float().mean() > 0.9
    often = (
        ~torch.cat([masking(0.25, seed).visible(tokens, None, slice(0, None)) for seed in range(40)])
    ).float()
    assert (often.mean(0) - 0.25).abs().max() < 0.05, "all patches alike"


def test_padding_is_neither_barred_nor_seen_and_a_class_token_is_never_barred() -> None:
    tokens = torch.zeros(3, 11, 4)
    valid = torch.arange(11) < torch.tensor([[11], [6], [2]])
    visible = masking(0.5).visible(tokens, valid, slice(1, None))
    assert visible[:, 0].all() and not (visible & ~valid).any()
    assert (valid & ~visible).sum(1).tolist() == [5, 2, 0]  # halves of 10, 5 and 1 patches, rounded down


def test_the_generator_decides_and_none_is_plain_attention() -> None:
    network = encoder()
    patches_BNP, positions = torch.randn(2, 20, 256), torch.randn(20, 32)
    plain, _ = network(patches_BNP, positions)
    one, two, other = (
        network(patches_BNP, positions, regularised=masking(0.1, seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other) and not torch.equal(one, plain)
    nothing, _ = network(patches_BNP, positions, regularised=masking(0.0))
    assert torch.allclose(nothing, plain, atol=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_wrong_shares(share: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        masking(share)
