"""Audio-MAE: what is hidden, what is predicted, the decoder, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import LayerNorm
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock

import ajepa
from ajepa.features import LogMelConfig
from ajepa.masking import MaskingConfig, Masks, sample_masks
from ajepa.model.reconstruct import ReconstructError, Reconstructor, load_reconstructor
from ajepa.nn.decoder import Decoder, DecoderConfig, WindowBlock, relative_offsets, shift_penalties
from ajepa.nn.grid import PatchGrid
from ajepa.nn.windows import regroup
from ajepa.objectives.audio_mae import AudioMAE, AudioMAEConfig
from ajepa.objectives.base import Share
from ajepa.recipes import Recipe
from tests.conftest import TINY

ENCODER = replace(TINY, cls_token=True)
CONFIG = AudioMAEConfig(decoder=DecoderConfig(depth=2, width=32, heads=2))
TWO_AXES = replace(CONFIG, masking=MaskingConfig(kind="time+frequency", context_share=0.25))


def objective(config: AudioMAEConfig = CONFIG) -> AudioMAE:
    torch.manual_seed(0)
    return AudioMAE(config, ENCODER, 100)


def spectrograms(batch: int = 4, frames: int = 128) -> torch.Tensor:
    return torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(5))


def test_a_step_is_a_pure_function(generator: torch.Generator) -> None:
    system, state = objective(), generator.get_state()
    first = system(spectrograms(), 10, generator)
    torch.manual_seed(99)
    second = system(spectrograms(), 10, generator.set_state(state))
    assert torch.equal(first.value, second.value)
    assert not torch.equal(first.value, system(spectrograms(), 10, generator).value)


@pytest.mark.parametrize("config", [CONFIG, TWO_AXES])
def test_loss_is_the_mean_over_hidden_patches(config: AudioMAEConfig, generator: torch.Generator) -> None:
    """Against the formula, clip by clip, hidden patches replaced by noise in the input."""
    system, batch, state = objective(config), spectrograms(), generator.get_state()
    loss = system(batch, 10, generator)
    patches, grid = system.encoder.patchify(batch)
    masks = sample_masks(config.masking, grid, 4, 10, 100, generator.set_state(state))
    errors = []
    for clip in range(4):
        kept = masks.context_BMK[clip, 0][masks.valid_BMK[clip, 0]][None, None]
        hidden = masks.target_BMN[clip][None]
        # Every patch is either seen or predicted.
        assert kept.shape[2] + int(hidden.sum()) == grid.tokens
        noisy = torch.where(hidden[0, 0, :, None], 9.0, patches[clip])[None]
        alone = Masks(kept, torch.ones_like(kept, dtype=torch.bool), hidden)
        predicted = system.decode(system.encode_visible(noisy, alone, grid), alone, grid)
        wanted = (patches[clip] - patches[clip].mean(1, True)) / (
            patches[clip].var(1, keepdim=True) + 1e-6
        ).sqrt()
        errors.append((predicted[0] - wanted).square().mean(1)[hidden[0, 0]])
    torch.testing.assert_close(loss.value, torch.cat(errors).mean())
    assert float(loss.metrics["targets"]) == pytest.approx(0.8, abs=0.05)


def test_masks_that_lose_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"context_share is 0\.1"):
        AudioMAEConfig(masking=MaskingConfig(kind="random", random_targets=(0.8, 0.8), context_share=0.1))
    with pytest.raises(ValueError, match="kind is 'block'"):
        AudioMAEConfig(masking=MaskingConfig(kind="block"))


def test_gradients_reach_everything(generator: torch.Generator) -> None:
    system = objective()
    system(spectrograms(), 0, generator).value.backward()
    assert [name for name, p in system.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert system.after_step(0) == {}


def test_shares_of_a_step_add_up_to_it(generator: torch.Generator) -> None:
    batch, state, system = spectrograms(6), generator.get_state(), objective()
    whole = system(batch, 10, generator).value
    parts = [
        system(batch[first : first + clips], 10, generator.set_state(state), Share(first, clips, 6)).value
        for first, clips in ((0, 2), (2, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_activations_computed_again_give_the_same_gradients(generator: torch.Generator) -> None:
    state, gradients = generator.get_state(), []
    for again in (False, True):
        system = objective()
        system.decoder.checkpoint_activations = system.encoder.checkpoint_activations = again
        system(spectrograms(), 10, generator.set_state(state)).value.backward()
        gradients.append([p.grad for p in system.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_decoder_blocks_look_into_their_windows() -> None:
    """With one unshifted block a prediction depends on its own 4 x 4 window, with two on the next as well."""
    grid = PatchGrid(16, 8)
    index, valid = torch.arange(grid.tokens)[None], torch.ones(1, grid.tokens, dtype=torch.bool)
    for depth, reach in ((1, set(range(4, 8))), (2, set(range(2, 10)))):
        torch.manual_seed(0)
        decoder = Decoder(DecoderConfig(depth=depth, width=32, heads=2), 32, 256).eval()
        tokens = torch.randn(1, grid.tokens, 32)
        before = decoder(tokens, index, valid, grid)
        tokens[0, 5 * grid.freq + 1] += 1.0
        changed = (decoder(tokens, index, valid, grid) - before)[0].abs().amax(1) > 1e-6
        cells = changed.view(*grid).nonzero()
        assert set(cells[:, 0].tolist()) == reach
        assert set(cells[:, 1].tolist()) == set(range(4)), "shifted along time alone"


@pytest.mark.parametrize("shift", [(0, 0), (2, 2)])  # timm shifts along both axes or none
@torch.no_grad()
def test_a_block_is_timms(shift: tuple[int, int]) -> None:
    """Against timm's later form of the block that Audio-MAE took: its temperature is exp(-logit_scale)."""
    torch.manual_seed(0)
    grid = PatchGrid(16, 8)
    theirs = SwinTransformerV2CrBlock(32, 4, tuple(grid), (4, 4), shift, norm_layer=LayerNorm).eval()
    ours = WindowBlock(32, 4, 4.0).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.3)
    state = {
        name.replace("meta_mlp", "position_mlp").replace("logit_scale", "temperature"): value
        for name, value in theirs.state_dict().items()
    }
    state["attn.temperature"] = (-state["attn.temperature"]).exp()
    ours.load_state_dict(state)
    tokens = torch.randn(2, grid.tokens, 32)
    expected = theirs(tokens.unflatten(1, tuple(grid))).flatten(1, 2)
    moved = regroup(tokens, grid, (4, 4), None, shift)
    cpu = torch.device("cpu")
    moved = ours(moved, relative_offsets(grid, (4, 4), cpu), shift_penalties(grid, (4, 4), shift, cpu))
    torch.testing.assert_close(regroup(moved, grid, (4, 4), shift, None), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("time", [1, 3, 6, 13])
def test_decoder_takes_any_length(time: int) -> None:
    """Windows that the grid does not fill are filled up with cells that nothing sees."""
    grid = PatchGrid(time, 8)
    decoder = Decoder(DecoderConfig(depth=2, width=32, heads=2), 32, 256).eval()
    index, valid = torch.arange(grid.tokens)[None], torch.ones(1, grid.tokens, dtype=torch.bool)
    out = decoder(torch.randn(1, grid.tokens, 32), index, valid, grid)
    assert out.shape == (1, grid.tokens, 256)
    assert out.isfinite().all()
    for shift in ((0, 0), (2, 0)):
        penalties = shift_penalties(grid, (4, 4), shift, torch.device("cpu"))
        barred = torch.zeros(1, 1) if penalties is None else penalties == -torch.inf
        assert bool(barred.any()) == (time > 4 and time % 4 > 0), "only filler is barred outright"
        assert not barred.all(-1).any(), "every cell sees itself"


def test_relative_offsets_are_log_spaced_and_odd() -> None:
    offsets = relative_offsets(PatchGrid(64, 8), (4, 4), torch.device("cpu"))
    assert offsets.shape == (16, 16, 2)
    torch.testing.assert_close(offsets, -offsets.transpose(0, 1))
    torch.testing.assert_close(offsets[13, 0], torch.tensor([4.0, 2.0]).log())  # 3 steps, 1 band


def test_reconstruction_replaces_hidden_patches_alone() -> None:
    torch.manual_seed(0)
    model = Reconstructor(LogMelConfig(), objective()).eval()
    waveform = 0.1 * torch.randn(2, 20_001)
    grid = model.grid(20_001)
    hidden = torch.rand(2, grid.tokens) < 0.5
    original, found = model.features(waveform), model.reconstruct(waveform, hidden)
    assert found.shape == original.shape
    place = hidden.view(2, *grid).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : original.shape[1]]
    assert torch.equal(found[~place], original[~place])
    assert not torch.isclose(found[place], original[place]).all()
    with pytest.raises(ValueError, match="mask has shape"):
        model.reconstruct(waveform, hidden[:, 1:])
    with pytest.raises(ValueError, match="leave at least one"):
        model.reconstruct(waveform, torch.ones_like(hidden))


def test_levels_of_hidden_patches_from_their_neighbours() -> None:
    """No hidden sample has a part in it: other audio there gives the same reconstruction.

    Patches of one level and spread, all of them, get exactly this level and spread.
    """
    torch.manual_seed(0)
    objective = AudioMAE(CONFIG, ENCODER, 10).eval()
    shape = torch.randn(16 * 16)
    patch = 1.5 + 0.3 * (shape - shape.mean()) / shape.std()
    spectrogram_BLC = patch.view(16, 16).repeat(5, 8)[None]
    grid = objective.encoder.grid(80)
    hidden_BN = torch.rand(1, grid.tokens, generator=torch.Generator().manual_seed(1)) < 0.6
    found = objective.reconstruct(spectrogram_BLC, hidden_BN, "neighbours")
    torch.testing.assert_close(found, objective.reconstruct(spectrogram_BLC, hidden_BN), atol=1e-5, rtol=1e-5)
    place = hidden_BN.view(1, 5, 8).repeat_interleave(16, 1).repeat_interleave(16, 2)
    other_BLC = torch.where(place, 7 * torch.randn(spectrogram_BLC.shape), spectrogram_BLC)
    assert torch.equal(objective.reconstruct(other_BLC, hidden_BN, "neighbours"), found)
    assert not torch.allclose(objective.reconstruct(other_BLC, hidden_BN, "true")[place], found[place])


def test_training_loads_reconstructs_and_learns(tiny_recipe: Recipe) -> None:
    """A run of a tiny recipe: the loss falls, and its files are `load_model` sources."""
    recipe = replace(
        tiny_recipe,
        objective=CONFIG,
        encoder=ENCODER,
        optim=replace(tiny_recipe.optim, steps=40, lr=3e-3, batch_size=8),
    )
    out = ajepa.pretrain(recipe).parent
    lines = (out / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    model = ajepa.load_model(out)
    last = out / "checkpoints" / "step-00000040.safetensors"
    clip = 0.1 * torch.randn(1, 30_000)
    assert torch.equal(ajepa.load_model(last)(clip).clip, model(clip).clip)
    assert model.source is not None and model.source.recipe == "tiny"
    reconstructor = load_reconstructor(last)
    hidden = torch.rand(1, reconstructor.grid(30_000).tokens) < 0.8
    assert reconstructor.reconstruct(clip, hidden).isfinite().all()
    with pytest.raises(ReconstructError, match="only a pre-trained Audio-MAE"):
        load_reconstructor(out / "encoder.safetensors")


def test_the_paper_recipe_says_what_the_paper_says() -> None:
    """arXiv 2207.06405, section 4.1, and the options of the official pre-training script."""
    recipe = ajepa.load_recipe("audio-mae-vit-b-as2m")
    assert isinstance(recipe.objective, AudioMAEConfig)
    assert recipe.encoder.dimensions == (768, 12, 12)
    assert recipe.objective.masking.random_targets == (0.8, 0.8)
    decoder = recipe.objective.decoder
    assert (decoder.depth, decoder.width, decoder.heads, decoder.shift) == (16, 512, 16, (2, 0))
    optim = recipe.optim
    assert (optim.batch_size, optim.lr, optim.epochs, optim.warmup_epochs) == (512, 4e-4, 33, 3)
    assert (optim.weight_decay, optim.betas) == ((1e-4, 1e-4), (0.9, 0.95))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_reconstructor(tmp_path / "absent.safetensors")
