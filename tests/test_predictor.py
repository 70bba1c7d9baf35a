"""Predictors and the local windows they attend in."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ajepa.nn.encoder import transformer_blocks
from ajepa.nn.grid import PatchGrid
from ajepa.nn.predictor import Predictor, PredictorConfig
from ajepa.nn.windows import Windows, regroup

GRIDS = [PatchGrid(64, 8), PatchGrid(13, 8), PatchGrid(3, 2), PatchGrid(9, 1)]
SHIFTS = [(0, 0), (2, 2), (2, 0), (1, 3)]
CPU = torch.device("cpu")


def neighbours(grid: PatchGrid, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """[N, N]: who shares a window with whom, from the definition: cuts at shift, shift + window, ..."""

    def axis(size: int, extent: int, offset: int) -> Tensor:
        if extent >= size:
            return torch.zeros(size, dtype=torch.long)
        return torch.div(torch.arange(size) - offset, extent, rounding_mode="floor")

    time, freq = axis(grid.time, window[0], shift[0]), axis(grid.freq, window[1], shift[1])
    label = (time[:, None] * 1000 + freq[None, :]).flatten()
    return label[:, None] == label[None, :]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_windows_partition_the_grid(grid: PatchGrid, shift: tuple[int, int]) -> None:
    windows = Windows(grid, (4, 4), shift, CPU)
    assert torch.equal(windows.index_WA.flatten()[windows.slot_N], torch.arange(grid.tokens))
    count, cells = windows.index_WA.shape
    mask_WAA = torch.ones(count, cells, cells, dtype=torch.bool)
    if windows.mask_WAA is not None:
        mask_WAA = windows.mask_WAA
    inside = torch.zeros(count * cells, dtype=torch.bool)
    inside[windows.slot_N] = True
    inside_WA = inside.view(count, cells)
    seen = torch.zeros(grid.tokens, grid.tokens, dtype=torch.bool)
    for number in range(count):
        pairs = mask_WAA[number] & inside_WA[number][:, None]
        assert not (pairs & ~inside_WA[number][None, :]).any(), "a token sees a cell outside the grid"
        query, key = pairs.nonzero().T
        seen[windows.index_WA[number][query], windows.index_WA[number][key]] = True
    assert torch.equal(seen, neighbours(grid, (4, 4), shift))
    assert mask_WAA.any(-1).all(), "a query without any key becomes NaN"


@pytest.mark.parametrize("grid", GRIDS)
def test_regroup_is_a_gather_with_its_gradient(grid: PatchGrid) -> None:
    tokens = torch.randn(2, grid.tokens, 3, dtype=torch.float64, requires_grad=True)
    layouts = [None, (0, 0), (2, 2), (0, 0), None]
    weight = torch.randn(2, grid.tokens, 3, dtype=torch.float64)
    moved = tokens
    for old, new in pairwise(layouts):
        moved = regroup(moved, grid, (4, 4), old, new)
        if new is not None:
            moved = moved * 1.5
    torch.testing.assert_close(moved, tokens * 1.5**3)
    (moved * weight).sum().backward()
    torch.testing.assert_close(tokens.grad, weight * 1.5**3)


@pytest.mark.parametrize("grid", [PatchGrid(64, 8), PatchGrid(13, 8), PatchGrid(3, 2)])
def test_local_predictor_is_masked_attention_over_the_grid(grid: PatchGrid) -> None:
    """The same blocks, with a mask over the whole grid in place of windows."""
    torch.manual_seed(0)
    config = PredictorConfig(depth=4, width=32, heads=2)
    predictor = Predictor(config, 16).eval()
    context, index = torch.randn(2, 3, 16), torch.tensor([[0, 3, 5], [1, 2, 4]])
    valid = torch.ones(2, 3, dtype=torch.bool)
    local = predictor(context, index, valid, grid)
    reference = Predictor(PredictorConfig(kind="global", depth=4, width=32, heads=2), 16).eval()
    reference.load_state_dict(predictor.state_dict())
    for depth, block in enumerate(reference.blocks):
        mask = neighbours(grid, config.window, config.shift if depth % 2 else (0, 0))
        block.register_forward_pre_hook(
            lambda _, args, kwargs, mask=mask: (args[:1], {"mask": mask[None, None]}), with_kwargs=True
        )
    torch.testing.assert_close(local, reference(context, index, valid, grid), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["local", "global"])
def test_predictor_ignores_padding_and_keeps_order(kind: str) -> None:
    torch.manual_seed(0)
    grid = PatchGrid(13, 8)
    predictor = Predictor(PredictorConfig(kind=kind, depth=4, width=32, heads=2), 16).eval()
    context = torch.randn(2, 5, 16)
    index = torch.tensor([[3, 40, 77, 0, 0], [8, 9, 10, 11, 12]])
    valid = torch.tensor([[True, True, True, False, False], [True] * 5])
    prediction = predictor(context, index, valid, grid)
    assert prediction.shape == (2, grid.tokens, 16)
    changed = context.clone()
    changed[0, 3:] = 99.0
    torch.testing.assert_close(predictor(changed, index, valid, grid), prediction)
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled = predictor(context[:, order], index[:, order], valid[:, order], grid)
    torch.testing.assert_close(shuffled, prediction, atol=1e-5, rtol=1e-5)


def test_predictor_at_targets_equals_global_without_the_rest() -> None:
    """Kind "targets" is global attention from which all tokens but context and targets are taken away."""
    torch.manual_seed(0)
    grid = PatchGrid(5, 4)
    predictor = Predictor(PredictorConfig(kind="targets", depth=2, width=32, heads=2), 16).eval()
    context, index = torch.randn(1, 3, 16), torch.tensor([[0, 3, 5]])
    valid = torch.tensor([[True, True, False]])
    target, real = torch.tensor([[6, 9, 19, 0]]), torch.tensor([[True, True, True, False]])
    prediction = predictor(context, index, valid, grid, (target, real))
    assert prediction.shape == (1, 4, 16)

    reference = Predictor(PredictorConfig(kind="global", depth=2, width=32, heads=2), 16).eval()
    reference.load_state_dict(predictor.state_dict())
    kept = torch.zeros(grid.tokens, dtype=torch.bool)
    kept[[0, 3, 6, 9, 19]] = True
    for block in reference.blocks:
        block.register_forward_pre_hook(
            lambda _, args, kwargs: (args[:1], {"mask": kept[None, None, None]}), with_kwargs=True
        )
    everywhere = reference(context, index, valid, grid)
    torch.testing.assert_close(prediction[:, :3], everywhere[:, [6, 9, 19]], atol=1e-5, rtol=1e-5)
    other_padding = predictor(context, index, valid, grid, (torch.tensor([[6, 9, 19, 7]]), real))
    torch.testing.assert_close(other_padding[:, :3], prediction[:, :3])


def test_predictor_kinds_want_their_own_arguments() -> None:
    grid, context = PatchGrid(4, 4), torch.zeros(1, 1, 16)
    index, valid = torch.tensor([[0]]), torch.tensor([[True]])
    for kind, targets in (("targets", None), ("local", (index, valid))):
        predictor = Predictor(PredictorConfig(kind=kind, depth=1, width=32, heads=2), 16)
        with pytest.raises(ValueError, match=kind):
            predictor(context, index, valid, grid, targets)


def test_deeper_blocks_of_the_local_predictor_cross_windows() -> None:
    torch.manual_seed(0)
    grid = PatchGrid(8, 8)
    index, valid = torch.tensor([[0]]), torch.tensor([[True]])
    for depth, side in ((1, 4), (2, 6)):
        predictor = Predictor(PredictorConfig(depth=depth, width=32, heads=2), 16).eval()
        change = predictor(torch.randn(1, 1, 16), index, valid, grid) - predictor(
            torch.randn(1, 1, 16), index, valid, grid
        )
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[:side, :side] = True
        assert torch.equal((change != 0).any(-1).view(8, 8), expected), depth


def test_blocks_start_smaller_with_depth() -> None:
    torch.manual_seed(0)
    blocks = transformer_blocks(64, 9, 2, 4.0)
    spread = [block.mlp.fc2.weight.std().item() for block in blocks]
    assert spread[8] == pytest.approx(spread[0] / 3, rel=0.1)
