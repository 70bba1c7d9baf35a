"""Masks: what the paper says, on every grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ajepa.grid import PatchGrid
from ajepa.masking import MaskingConfig, Masks, context_tokens, hard_share, sample_masks

KINDS = ["block", "time-frequency", "curriculum", "random"]
PAPER_GRID = PatchGrid(64, 8)


def draw(kind: str, grid: PatchGrid, batch: int = 64, seed: int = 0, **options: object) -> Masks:
    config = MaskingConfig(kind=kind, **options)
    return sample_masks(config, grid, batch, 50, 100, torch.Generator().manual_seed(seed))


def context_of(masks: Masks, grid: PatchGrid) -> torch.Tensor:
    """Valid context as a boolean grid [B * M, N]."""
    index, valid = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
    counts = torch.zeros(len(index), grid.tokens).scatter_add_(1, index, valid.float())
    assert counts.max() <= 1, "a token stands twice in a context"
    return counts > 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from(["per-axis", "literal"]),
    st.integers(0, 2**31),
)
def test_never_empty_never_overlapping(
    kind: str, time: int, freq: int, count: int, geometry: str, seed: int
) -> None:
    grid = PatchGrid(time, freq)
    if grid.tokens < 2:
        grid = PatchGrid(2, freq)
    masks = draw(kind, grid, 32, seed, masks_per_clip=count, geometry=geometry)
    assert masks.target_BMN.shape == (32, count, grid.tokens)
    assert masks.context_BMK.shape == (32, count, context_tokens(MaskingConfig(), grid))
    assert masks.target_BMN.any(-1).all()
    assert masks.valid_BMK.any(-1).all()
    assert not (context_of(masks, grid) & masks.target_BMN.flatten(0, 1)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [PAPER_GRID, PatchGrid(13, 8), PatchGrid(5, 3), PatchGrid(9, 1)])
def test_every_cell_can_be_context_and_target(kind: str, grid: PatchGrid) -> None:
    masks = draw(kind, grid, 6000)
    assert masks.target_BMN.flatten(0, 1).any(0).all()
    assert context_of(masks, grid).any(0).all()


@pytest.mark.parametrize("grid", [PAPER_GRID, PatchGrid(13, 8), PatchGrid(3, 3)])
def test_time_frequency_removal_is_complete(grid: PatchGrid) -> None:
    masks = draw("time-frequency", grid, 512)
    context = context_of(masks, grid).view(-1, *grid)
    target = masks.target_BMN.view(-1, *grid)
    assert not (context.any(2) & target.any(2)).any(), "context shares a time step with a target"
    assert not (context.any(1) & target.any(1)).any(), "context shares a band with a target"


def test_shares_of_the_paper_grid() -> None:
    """Per-axis extents give 47 % and 16 % visible, 48 % and 18 % targets (independent count: docs)."""
    expected = {"block": (0.466, 0.481), "time-frequency": (0.164, 0.181)}
    for kind, (visible, targets) in expected.items():
        masks = draw(kind, PAPER_GRID, 4096, context_share=1.0)
        assert masks.valid_BMK.float().mean() == pytest.approx(visible, abs=0.01)
        assert masks.target_BMN.float().mean() == pytest.approx(targets, abs=0.01)


def test_budget_is_filled_without_bias() -> None:
    """Where more is visible than the budget takes, every cell is dropped alike."""
    grid = PatchGrid(64, 8)
    full = context_of(draw("random", grid, 8000, context_share=1.0), grid).float().mean(0)
    cut = context_of(draw("random", grid, 8000), grid).float().mean(0)
    assert cut.sum() == pytest.approx(context_tokens(MaskingConfig(), grid))
    ratio = cut / full
    assert ratio.std() / ratio.mean() < 0.05


def test_the_generator_decides_everything() -> None:
    torch.manual_seed(1)
    first = draw("curriculum", PAPER_GRID, seed=7)
    torch.manual_seed(2)
    second = draw("curriculum", PAPER_GRID, seed=7)
    other = draw("curriculum", PAPER_GRID, seed=8)
    assert torch.equal(first.context_BMK, second.context_BMK)
    assert torch.equal(first.target_BMN, second.target_BMN)
    assert not torch.equal(first.target_BMN, other.target_BMN)


def test_clips_and_masks_differ() -> None:
    target = draw("block", PAPER_GRID, 8, masks_per_clip=2).target_BMN.flatten(0, 1)
    assert len(target.unique(dim=0)) == 16


def test_curriculum_goes_from_block_to_time_frequency() -> None:
    config = MaskingConfig()
    shares = [hard_share(config, step, 1000) for step in range(0, 1001, 100)]
    assert shares[0] == pytest.approx(0.01)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert hard_share(config, 250, 1000) == pytest.approx((0.25 * (1 - 1e-4) + 1e-4) ** 0.5)
    inverse = MaskingConfig(kind="inverse")
    assert [hard_share(inverse, step, 1000) for step in (0, 1000)] == pytest.approx([0.99, 0.0])


def test_curriculum_draws_its_share() -> None:
    """At a quarter of the way half of the masks are time-frequency: their targets are far smaller."""
    config = MaskingConfig()
    masks = sample_masks(config, PAPER_GRID, 4000, 250, 1000, torch.Generator().manual_seed(0))
    hard = (masks.target_BMN.float().mean(-1) < 0.3).float().mean()
    assert hard == pytest.approx(0.5, abs=0.08)


def test_a_grid_of_one_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="1 patch"):
        draw("block", PatchGrid(1, 1))
