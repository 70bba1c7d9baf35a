"""Grid positions, the encoder and the predictor."""

from __future__ import annotations

import pytest
import torch

from ajepa.nn.encoder import DropPath, Encoder, EncoderConfig, gather_tokens, parameter_count
from ajepa.nn.grid import PatchGrid, sincos_positions
from tests.conftest import TINY


def encode(encoder: Encoder, spectrogram: torch.Tensor) -> torch.Tensor:
    patches, grid = encoder.patchify(spectrogram)
    return encoder(patches, encoder.positions(grid, patches))[0]


def test_positions_follow_the_formula() -> None:
    grid, width = PatchGrid(7, 5), 16
    table = sincos_positions(grid, width).view(7, 5, width)
    for time, freq in [(0, 0), (6, 4), (3, 1)]:
        for axis, position in enumerate((time, freq)):
            half = table[time, freq, axis * 8 : axis * 8 + 8]
            phases = position / 10_000 ** (torch.arange(4) / 4)
            torch.testing.assert_close(half, torch.cat([phases.sin(), phases.cos()]))


def test_positions_do_not_depend_on_the_grid() -> None:
    small = sincos_positions(PatchGrid(3, 4), 32).view(3, 4, 32)
    large = sincos_positions(PatchGrid(90, 8), 32).view(90, 8, 32)
    assert torch.equal(small, large[:3, :4])


def test_patchify_is_a_convolution() -> None:
    """A linear layer on flat patches equals the strided convolution that ViT and Audio-MAE use."""
    encoder = Encoder(TINY)
    spectrogram = torch.randn(2, 48, 128)
    patches, grid = encoder.patchify(spectrogram)
    assert grid == PatchGrid(3, 8)
    kernel = encoder.patch_embed.weight.view(-1, 1, 16, 16)
    convolved = torch.nn.functional.conv2d(spectrogram[:, None], kernel, encoder.patch_embed.bias, stride=16)
    torch.testing.assert_close(encoder.patch_embed(patches), convolved.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("patch", [(16, 16), (16, 8), (128, 2), (4, 128), (1, 128)])
def test_any_patch_shape(patch: tuple[int, int]) -> None:
    encoder = Encoder(EncoderConfig(size="ti", width=32, depth=1, heads=2, patch=patch))
    tokens = encode(encoder, torch.randn(2, 200, 128))
    assert tokens.shape == (2, -(-200 // patch[0]) * (128 // patch[1]), 32)


def test_sizes_have_the_published_parameters() -> None:
    """A-JEPA table 2: 22 M, 86 M, 304 M."""
    with torch.device("meta"):
        counts = {size: parameter_count(Encoder(EncoderConfig(size=size))) / 1e6 for size in "sbl"}
    assert {size: round(count) for size, count in counts.items()} == {"s": 21, "b": 85, "l": 303}


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="divide"):
        EncoderConfig(size="ti", patch=(16, 48))
    with pytest.raises(ValueError, match="80 mel bands"):
        Encoder(TINY).patchify(torch.zeros(1, 16, 80))


def test_padding_tokens_influence_nothing() -> None:
    encoder = Encoder(TINY).eval()
    patches, positions = torch.randn(1, 6, 256), torch.randn(1, 6, 32)
    valid = torch.tensor([[True, True, True, True, False, False]])
    alone = encoder(patches[:, :4], positions[:, :4])[0]
    changed = patches.clone()
    changed[:, 4:] = 1e3
    for padded in (patches, changed):
        torch.testing.assert_close(encoder(padded, positions, valid)[0][:, :4], alone, atol=1e-5, rtol=0)


def test_context_sees_only_its_tokens() -> None:
    encoder = Encoder(TINY).eval()
    patches, grid = encoder.patchify(torch.randn(2, 64, 128))
    index = torch.tensor([[0, 5, 9], [1, 2, 31]])
    positions = encoder.positions(grid, patches)[index]
    before = encoder(gather_tokens(patches, index), positions)[0]
    others = torch.ones(2, grid.tokens, dtype=torch.bool).scatter(1, index, False)
    patches[others] = 0
    assert torch.equal(encoder(gather_tokens(patches, index), positions)[0], before)


def test_drop_path_leaves_out_later_branches_more_often_and_keeps_the_mean() -> None:
    drop = DropPath(0.5, torch.Generator().manual_seed(0))
    for depth, keep in ((0, 1.0), (1, 0.75), (2, 0.5)):
        scales_2B = drop.scales(20_000, depth, 3)
        assert scales_2B.max().item() == pytest.approx(1 / keep) and len(scales_2B.unique()) == 1 + (keep < 1)
        assert (scales_2B > 0).float().mean() == pytest.approx(keep, abs=0.01)
        assert (scales_2B[0] != scales_2B[1]).any() == (keep < 1)
    with pytest.raises(ValueError, match="drop path is 1"):
        DropPath(1.0, torch.Generator())


def test_drop_path_in_the_encoder_is_for_training_alone() -> None:
    encoder = Encoder(EncoderConfig(size="ti", width=32, depth=3, heads=2))
    patches_BNP, positions = torch.randn(4, 6, 256), torch.randn(6, 32)
    plain, _ = encoder(patches_BNP, positions)
    dropped, _ = encoder(patches_BNP, positions, drop_path=DropPath(0.9, torch.Generator().manual_seed(1)))
    nothing, _ = encoder(patches_BNP, positions, drop_path=DropPath(0.0, torch.Generator()))
    assert torch.allclose(nothing, plain, atol=1e-6) and not torch.allclose(dropped, plain, atol=1e-2)
