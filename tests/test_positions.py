"""Stored position tables for clips of any length, and the conventions of a clip's level and end."""

from __future__ import annotations

import pytest
import torch

from ajepa.features import InputConfig, LogMel, LogMelConfig, levelled
from ajepa.nn.encoder import Encoder, EncoderConfig
from ajepa.nn.grid import PatchGrid
from ajepa.nn.positions import PositionTable, TableConfig


def table(transposed: bool) -> PositionTable:
    module = PositionTable(TableConfig(64, 8, transposed), 12)
    module.table.copy_(torch.randn(512, 12, generator=torch.Generator().manual_seed(0)))
    return module


@pytest.mark.parametrize("transposed", [False, True])
def test_the_stored_length_takes_the_table_as_stored(transposed: bool) -> None:
    module = table(transposed)
    assert torch.equal(module(PatchGrid(64, 8)), module.table)


@pytest.mark.parametrize("time", [1, 7, 8, 32, 63])
def test_shorter_clips_take_the_table_cut_along_time(time: int) -> None:
    plain, turned = table(False), table(True)
    assert torch.equal(plain(PatchGrid(time, 8)), plain.table[: 8 * time])
    # Audio-MAE: the table as (8, 64), its second axis cut, then flat.
    expected = torch.stack([turned.table[64 * band : 64 * band + time] for band in range(8)]).flatten(0, 1)
    assert torch.equal(turned(PatchGrid(time, 8)), expected)


def test_longer_clips_take_the_table_stretched_along_time() -> None:
    """A code that says time and band goes half as fast through time, and stays what it is along the bands."""
    time, band = torch.meshgrid(torch.arange(64.0), torch.arange(8.0), indexing="ij")
    for transposed in (False, True):
        module = table(transposed)
        codes_TF2 = torch.stack([time, band], dim=-1)
        stored = codes_TF2.transpose(0, 1) if transposed else codes_TF2
        module.table.copy_(stored.reshape(512, 2).repeat(1, 6))
        longer = module(PatchGrid(128, 8))[:, :2]
        longer_TF2 = longer.view(8, 128, 2).transpose(0, 1) if transposed else longer.view(128, 8, 2)
        expected = (torch.arange(128.0) + 0.5) / 2 - 0.5
        # The bicubic kernel strays from a straight line by up to 0.05, and is flat at the ends.
        torch.testing.assert_close(
            longer_TF2[4:-4, :, 0], expected[4:-4, None].expand(-1, 8), atol=0.06, rtol=0
        )
        torch.testing.assert_close(longer_TF2[..., 1], band[:1].expand(128, -1), atol=1e-4, rtol=0)


def test_other_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="8 frequency patches, the grid has 6"):
        table(False)(PatchGrid(10, 6))
    with pytest.raises(ValueError, match="0 x 8"):
        TableConfig(0, 8)


def test_class_token_takes_part_and_is_left_out() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(size="ti", width=32, depth=2, heads=2, cls_token=True)).eval()
    patches, grid = encoder.patchify(torch.randn(3, 64, 128))
    positions = encoder.positions(grid, patches)
    output, layers = encoder(patches, positions, keep_layers=-1)
    whole, _ = encoder(patches, positions, keep_cls=True)
    assert output.shape == layers[0].shape == (3, grid.tokens, 32)
    assert torch.equal(whole[:, 1:], output)
    assert encoder.cls_token is not None
    # Padding is still ignored where there is a class token.
    valid = torch.arange(grid.tokens) < 20
    short, _ = encoder(patches[:, :20], positions[:20])
    padded, _ = encoder(patches, positions, valid.expand(3, -1))
    torch.testing.assert_close(padded[:, :20], short, atol=1e-5, rtol=0)
    with torch.no_grad():
        encoder.cls_token.mul_(100.0)
    assert float((encoder(patches, positions)[0] - output).detach().abs().max()) > 1e-5


def test_peak_level() -> None:
    config = InputConfig(level="peak")
    wave = 0.01 * torch.randn(3, 1000) + 0.2
    lengths = torch.tensor([1000, 400, 1000])
    wave[1, 400:] = 0.0
    wave[2] = 0.0
    out = levelled(wave, config, lengths)
    assert torch.equal(out[2], torch.zeros(1000)), "silence stays silence"
    for row, length in ((0, 1000), (1, 400)):
        alone = levelled(wave[row : row + 1, :length], config)[0]
        torch.testing.assert_close(out[row, :length], alone)
        assert float(alone.abs().max()) == pytest.approx(1.0)
        assert float(alone.mean()) == pytest.approx(0.0, abs=1e-6)
        assert not out[row, length:].any()
    assert levelled(wave, InputConfig()) is wave


def test_fill_values() -> None:
    features = LogMelConfig()
    silence = LogMel(features).silence
    assert InputConfig().fill_value(features, silence) == silence
    assert InputConfig(fill="zero").fill_value(features, silence) == pytest.approx(0.467, abs=1e-3)
    with pytest.raises(ValueError, match=r"inputs\.steps is 0"):
        InputConfig(steps=0)
