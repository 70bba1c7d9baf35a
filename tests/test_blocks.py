"""The Transformer block: timm's, computed either way."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock

from ajepa.nn.blocks import Attention, Block


def pair(fused: bool) -> tuple[Block, TimmBlock]:
    torch.manual_seed(0)
    ours, theirs = Block(32, 4, 4.0), TimmBlock(32, 4, qkv_bias=True)
    for parameter in theirs.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))  # norms and biases away from ones and zeros
    ours.load_state_dict(theirs.state_dict())
    ours.attn.fused = fused
    return ours, theirs


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("barred", ["nothing", "keys", "added"])
def test_is_timms(fused: bool, barred: str) -> None:
    ours, theirs = pair(fused)
    tokens_RND = torch.randn(3, 7, 32)
    keys = torch.tensor([1, 1, 0, 1, 1, 0, 1]).bool().expand(3, 1, 1, 7)
    mask = {"nothing": None, "keys": keys, "added": torch.randn(1, 4, 7, 7)}[barred]
    expected = theirs(tokens_RND, attn_mask=mask)
    assert (ours(tokens_RND, mask) - expected).abs().max() < 1e-5
    without = theirs(tokens_RND)
    assert mask is None or (without - expected).abs().max() > 1e-2


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_timms(fused: bool) -> None:
    ours, theirs = pair(fused)
    tokens_RND = torch.randn(2, 5, 32)
    ours(tokens_RND).square().sum().backward()
    theirs(tokens_RND).square().sum().backward()
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-4), name


def test_one_barred_key_changes_nothing_for_the_others() -> None:
    attention = Attention(16, 2)
    tokens_RND = torch.randn(1, 6, 16)
    mask = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    mask[..., 2] = False
    other = tokens_RND.clone()
    other[:, 2] += 1.0
    for attention.fused in (True, False):
        change = (attention(tokens_RND, mask) - attention(other, mask)).abs().amax(dim=(0, 2))
        assert change[2] > 1e-3 and change[[0, 1, 3, 4, 5]].max() == 0


def test_a_branch_that_is_scaled() -> None:
    block, _ = pair(True)
    tokens_RND = torch.randn(2, 5, 32)
    scale_2R = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert torch.equal(block(tokens_RND, None, scale_2R)[0], tokens_RND[0])
    assert torch.allclose(block(tokens_RND, None, scale_2R)[1], block(tokens_RND)[1])


def test_importing_a_model_imports_no_model_zoo() -> None:
    code = "import sys, ajepa.objectives.systems; print({'timm', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
