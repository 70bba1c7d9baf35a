"""The network that is fine-tuned sees what `AudioEncoder` sees; masking in training, four ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ajepa.eval.finetune.classifier import Classifier
from ajepa.eval.finetune.config import FinetuneConfig
from ajepa.eval.finetune.masking import drop_patches, steps_and_bands, zero_patches
from ajepa.features import InputConfig, LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.nn.encoder import Encoder, EncoderConfig, RegularisedMasking
from ajepa.nn.grid import PatchGrid
from ajepa.nn.positions import TableConfig
from tests.conftest import TINY

PLAIN = FinetuneConfig(mixup=0, freq_mask=0, time_mask=0, drop_path=0, masked_share=0)
AUDIO_MAE = replace(
    TINY, cls_token=True, table=TableConfig(64, 8, transposed=True), inputs=InputConfig(fill="zero", steps=8)
)
KINDS = {
    "ours": TINY,
    "Audio-MAE": AUDIO_MAE,
    "Audio-JEPA": replace(TINY, inputs=InputConfig(level="peak", fill="zero")),
}


def encoder_of(config: EncoderConfig, chunk_seconds: float = 2.56) -> AudioEncoder:
    torch.manual_seed(0)
    model = AudioEncoder(LogMelConfig(), config, chunk_seconds).eval()
    if model.encoder.position_table is not None:
        model.encoder.position_table.table.normal_()
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(*lengths: int) -> tuple[Tensor, Tensor]:
    waveforms = [0.1 * torch.randn(length, generator=generator(length)) for length in lengths]
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor(lengths)


@torch.no_grad()
@pytest.mark.parametrize("chunk_seconds", [2.56, 2.08], ids=["whole steps", "cut"])
@pytest.mark.parametrize("kind", KINDS)
def test_pooled_features_are_those_of_the_audio_encoder(kind: str, chunk_seconds: float) -> None:
    model = encoder_of(KINDS[kind], chunk_seconds)
    waveform_BS, lengths_B = clips(700, 5_000, 20_481, 33_000, 12_345)
    found = model(waveform_BS, lengths_B)
    expected_BD = found.patches.sum((1, 2)) / (8 * found.lengths[:, None])
    network = Classifier(model, 3, replace(PLAIN, seconds=2.07))
    assert network.most_steps == model.chunk_patches
    torch.testing.assert_close(network.pooled(waveform_BS, lengths_B), expected_BD, atol=1e-5, rtol=1e-4)
    # In training too, where nothing is drawn.
    trained_BD = network.pooled(waveform_BS, lengths_B, generator())
    torch.testing.assert_close(trained_BD, expected_BD, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_filling_that_weights_know_is_attended_to_and_not_pooled() -> None:
    model, other = encoder_of(AUDIO_MAE), encoder_of(replace(AUDIO_MAE, inputs=InputConfig(fill="zero")))
    other.load_state_dict(model.state_dict())
    waveform_BS, lengths_B = clips(9_000)
    filled, bare = (Classifier(one, 2, PLAIN).pooled(waveform_BS, lengths_B) for one in (model, other))
    assert (filled - bare).abs().max() > 1e-3


def chosen(valid_BN: Tensor) -> Tensor:
    """All patches but two of the first clip and one of the second."""
    kept_BN = valid_BN.clone()
    kept_BN[0, [2, 5]] = False
    kept_BN[1, [0]] = False
    return kept_BN


def batch() -> tuple[Encoder, Tensor, Tensor, Tensor]:
    """An encoder, and two clips of 8 and 6 patches: patches, positions, valid."""
    torch.manual_seed(0)
    valid_BN = torch.arange(8) < torch.tensor([[8], [6]])
    return Encoder(TINY).eval(), torch.randn(2, 8, 256), torch.randn(8, 32), valid_BN


@torch.no_grad()
@pytest.mark.parametrize("each", [False, True], ids=["positions", "positions of each clip"])
def test_dropped_patches_are_as_if_they_had_never_been(each: bool) -> None:
    encoder, patches_BNP, positions, valid_BN = batch()
    given = positions.expand(2, -1, -1) if each else positions
    kept_BKP, where_BKD, left_BK, own_BK = drop_patches(
        patches_BNP, given, valid_BN, valid_BN, chosen(valid_BN)
    )
    assert kept_BKP.shape == (2, 6, 256) and left_BK is not None
    assert left_BK.sum(1).tolist() == [6, 5] and torch.equal(left_BK, own_BK)
    tokens_BKD, _ = encoder(kept_BKP, where_BKD, left_BK)
    for row, places in enumerate(([0, 1, 3, 4, 6, 7], [1, 2, 3, 4, 5])):
        alone, _ = encoder(patches_BNP[row : row + 1, places], positions[places])
        torch.testing.assert_close(tokens_BKD[row, : len(places)], alone[0], atol=1e-5, rtol=1e-4)


def test_filling_is_not_dropped_and_full_clips_need_no_mask() -> None:
    _, patches_BNP, positions, own_BN = batch()
    masking = RegularisedMasking(0.5, generator())
    kept_BN = masking.visible(patches_BNP, own_BN, slice(0, None))
    kept_BKP, _, left_BK, own_BK = drop_patches(patches_BNP, positions, None, own_BN, kept_BN)
    assert left_BK is not None and left_BK.sum(1).tolist() == [4, 5], "8 - 4, and 6 - 3 with 2 of filling"
    assert own_BK.sum(1).tolist() == [4, 3]
    filling = patches_BNP[1, 6:]
    assert all((kept_BKP[1] == one).all(1).any() for one in filling)
    *_, left_BK, own_BK = drop_patches(patches_BNP[:1], positions, None, own_BN[:1], kept_BN[:1])
    assert left_BK is None and own_BK.all()


def test_zeroed_patches_lose_their_content_and_stay() -> None:
    _, patches_BNP, _, own_BN = batch()
    zeroed_BNP = zero_patches(patches_BNP, own_BN, chosen(own_BN))
    empty_BN = (zeroed_BNP == 0).all(2)
    assert empty_BN.nonzero().tolist() == [[0, 2], [0, 5], [1, 0]]
    assert torch.equal(zeroed_BNP[~empty_BN], patches_BNP[~empty_BN])


def test_structured_masks_hide_whole_steps_and_bands_of_a_clip() -> None:
    """Of 10 steps and 8 bands 8 and 6 stay; of a clip that has 6 steps, 4; what fills it up is not drawn."""
    own_BT = torch.arange(10) < torch.tensor([[10], [6]])
    grid = PatchGrid(10, 8)
    kept_BTF = steps_and_bands(own_BT.repeat_interleave(8, 1), grid, 0.2, generator()).view(2, 10, 8)
    for kept_TF, steps in zip(kept_BTF, (8, 4), strict=True):
        rows, columns = kept_TF.any(1), kept_TF.any(0)
        assert (int(rows.sum()), int(columns.sum())) == (steps, 6)
        assert torch.equal(kept_TF, rows[:, None] & columns)
    assert not kept_BTF[1, 6:].any()
    other = steps_and_bands(own_BT.repeat_interleave(8, 1), grid, 0.2, generator(1)).view(2, 10, 8)
    assert not torch.equal(other, kept_BTF)


@torch.no_grad()
def test_where_the_norm_stands() -> None:
    """Before the mean, after it in place of the encoder's, or both, against the mean taken by hand."""
    model, (waveform_BS, lengths_B) = encoder_of(TINY), clips(20_480)
    found = model(waveform_BS, lengths_B, layers=True)
    mean_BD, raw_BD = (layer.flatten(1, 2).mean(1) for layer in (found.patches, found.layers[-1]))
    for norm, pooled_BD in (("before", mean_BD), ("after", raw_BD), ("both", mean_BD)):
        network = Classifier(model, 2, replace(PLAIN, norm=norm))
        torch.testing.assert_close(network.pooled(waveform_BS, lengths_B), pooled_BD, atol=1e-5, rtol=1e-4)
        assert (network.norm is None) == (norm == "before")
        expected = network.head(network.norm(pooled_BD) if network.norm else pooled_BD)
        torch.testing.assert_close(network(waveform_BS, lengths_B), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_statistics_of_the_set_take_the_place_of_the_encoders() -> None:
    model, (waveform_BS, lengths_B) = encoder_of(TINY), clips(20_480)
    own = model.features.config
    network = Classifier(model, 2, replace(PLAIN, mean=-6.0, std=5.0))
    plain, other = model.features(waveform_BS, lengths_B), network.features(waveform_BS, lengths_B)
    torch.testing.assert_close(other, (plain * 2 * own.std + own.mean + 6.0) / 10.0, atol=1e-5, rtol=1e-5)
    assert network.fill == pytest.approx((model.fill_value * 2 * own.std + own.mean + 6.0) / 10.0)


@torch.no_grad()
@pytest.mark.parametrize("how", ["regularised", "structured", "drop", "zero"])
@pytest.mark.parametrize("kind", ["ours", "Audio-MAE"])
def test_each_masking_acts_in_training_alone(how: str, kind: str) -> None:
    model = encoder_of(KINDS[kind])
    config = replace(PLAIN, masked_share=0.3, masked_how=how)
    network, plain = Classifier(model, 2, config), Classifier(model, 2, PLAIN)
    batch = clips(700, 9_000, 30_000)
    expected = plain.pooled(*batch)
    torch.testing.assert_close(network.pooled(*batch), expected)
    one, same, other = (network.pooled(*batch, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and one.isfinite().all()
    for masked in (one, other):
        assert (masked - expected)[1:].abs().amax(1).min() > 1e-4
    assert (one - other)[1:].abs().amax(1).min() > 1e-5


@pytest.mark.parametrize("how", ["regularised", "structured", "drop", "zero"])
def test_gradients_flow_past_each_masking(how: str) -> None:
    network = Classifier(encoder_of(AUDIO_MAE), 2, replace(PLAIN, masked_share=0.3, masked_how=how))
    network.pooled(*clips(9_000, 30_000), generator()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in network.encoder.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masked_how": "swap"}, "must be regularised or structured or drop or zero"),
        ({"masked_share": 1.0}, "below 1"),
        ({"drop_path": 1.0}, "below 1"),
    ],
)
def test_wrong_masking(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**wrong)
