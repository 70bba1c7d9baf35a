"""The A-JEPA objective: what is a target, what the gradient reaches, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from ajepa import schedules
from ajepa.masking import MaskingConfig, Masks, sample_masks
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.a_jepa import AJEPA, AJEPAConfig
from ajepa.objectives.base import Share
from ajepa.objectives.metrics import token_spread
from ajepa.objectives.moving_average import parameter_gap
from ajepa.objectives.regularisers import variance_covariance
from ajepa.objectives.targets import ERRORS, batch_normed
from ajepa.training.devices import checkpoint_activations
from ajepa.training.health import CollapseWatch, attention_entropy, rankme
from tests.conftest import TINY

CONFIG = AJEPAConfig(predictor=PredictorConfig(kind="global", depth=1, width=32, heads=2))


def objective(config: AJEPAConfig = CONFIG, total: int = 100) -> AJEPA:
    torch.manual_seed(0)
    return AJEPA(config, TINY, total)


def spectrograms(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 128, 128, generator=torch.Generator().manual_seed(5))


def test_a_step_is_a_pure_function(generator: torch.Generator) -> None:
    system, batch = objective(), spectrograms()
    state = generator.get_state()
    first = system(batch, 10, generator)
    torch.manual_seed(99)
    second = system(batch, 10, generator.set_state(state))
    assert torch.equal(first.value, second.value)
    assert not torch.equal(first.value, system(batch, 10, generator).value)


def test_loss_is_the_mean_over_targets(generator: torch.Generator) -> None:
    """Against the formula, place by place."""
    system, batch = objective(replace(CONFIG, masking=MaskingConfig(masks_per_clip=3))), spectrograms()
    state = generator.get_state()
    loss = system(batch, 10, generator)
    patches, grid = system.encoder.patchify(batch)
    masks = sample_masks(system.config.masking, grid, 4, 10, 100, generator.set_state(state))
    full = system.target_encoder(patches, system.encoder.positions(grid, patches))[0]
    target = functional.layer_norm(full, (32,))
    errors = []
    for clip in range(4):
        for mask in range(3):
            kept = masks.context_BMK[clip, mask][masks.valid_BMK[clip, mask]][None]
            valid, wanted = torch.ones_like(kept, dtype=torch.bool), masks.target_BMN[clip, mask]
            alone = Masks(kept[None], valid[None], wanted[None, None])
            context = system.encode_context(patches[clip : clip + 1], alone, grid)
            prediction = system.predictor(context, kept, valid, grid)[0]
            errors.append((prediction - target[clip]).square().mean(-1)[wanted])
    torch.testing.assert_close(loss.value, torch.cat(errors).mean())


def test_gradients_reach_context_and_predictor_only(generator: torch.Generator) -> None:
    system = objective()
    system(spectrograms(), 0, generator).value.backward()
    assert all(p.grad is not None for p in system.encoder.parameters())
    assert all(p.grad is not None for p in system.predictor.parameters())
    assert all(p.grad is None for p in system.target_encoder.parameters())


def test_hidden_patches_do_not_reach_the_context(generator: torch.Generator) -> None:
    system = objective().eval()
    patches, grid = system.encoder.patchify(spectrograms(2))
    index = torch.tensor([[0, 3, 17], [5, 6, 7]])
    hidden = torch.ones(2, grid.tokens, dtype=torch.bool).scatter(1, index, False)
    masks = Masks(index[:, None], torch.ones(2, 1, 3, dtype=torch.bool), hidden[:, None])
    before = system.encode_context(patches, masks, grid)
    patches[hidden] = 7.0
    assert torch.equal(system.encode_context(patches, masks, grid), before)


def test_moving_average(generator: torch.Generator) -> None:
    config = replace(CONFIG, momentum=(0.9, 1.0))
    system = objective(config, total=10)
    with torch.no_grad():
        for parameter in system.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = copy.deepcopy(system.target_encoder)
    assert system.after_step(5) == {"momentum": pytest.approx(0.95)}
    for old, new, source in zip(
        before.parameters(), system.target_encoder.parameters(), system.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.95 * old + 0.05 * source)


def test_targets_are_normalised_per_patch_and_over_the_batch() -> None:
    batch = spectrograms()
    for layers in (1, 2):
        system = objective(replace(CONFIG, target_layers=layers, target_norm="batch"))
        patches, grid = system.encoder.patchify(batch)
        features, output = system.features(patches, grid)
        assert torch.equal(features, output) == (layers == 1)
        torch.testing.assert_close(features.mean(-1), torch.zeros(4, grid.tokens), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            features.var(-1, correction=0), torch.ones(4, grid.tokens), atol=1e-3, rtol=0
        )
        targets = batch_normed(features)
        torch.testing.assert_close(targets.mean(0), torch.zeros(grid.tokens, 32), atol=1e-5, rtol=0)
        torch.testing.assert_close(targets.std((0, 1), correction=0), torch.ones(32), atol=1e-3, rtol=0)


def test_variance_and_covariance_terms() -> None:
    white = torch.randn(100, 200, 8, generator=torch.Generator().manual_seed(0))
    every = torch.ones(100, 200, dtype=torch.bool)
    assert [float(term) for term in variance_covariance(white, every)] == pytest.approx([0.0, 0.0], abs=0.01)
    shortfall, coupling = variance_covariance(0.25 * white[..., :1].expand(-1, -1, 8), every)
    assert float(shortfall) == pytest.approx(0.75, abs=0.01)
    assert float(coupling) == pytest.approx(7 * 0.25**4, rel=0.05)


def test_padding_is_no_part_of_the_regulariser() -> None:
    features = torch.randn(3, 5, 8)
    valid = torch.rand(3, 5) > 0.4
    terms = variance_covariance(features, valid)
    covariance = torch.cov(features[valid].T)
    torch.testing.assert_close(terms[0], (1 - covariance.diagonal().add(1e-4).sqrt()).relu().mean())
    between = covariance - covariance.diagonal().diag()
    torch.testing.assert_close(terms[1], between.square().sum() / 8)


def test_shares_of_a_step_add_up_to_it(generator: torch.Generator) -> None:
    """Two calls with a part of the clips each: the losses and the gradients of one call with all."""
    config = replace(CONFIG, masking=MaskingConfig(masks_per_clip=2))
    batch, state = spectrograms(6), generator.get_state()
    whole = objective(config)
    value = whole(batch, 10, generator.set_state(state)).value
    value.backward()
    parts = objective(config)
    shared = [
        parts(batch[first : first + clips], 10, generator.set_state(state), Share(first, clips, 6)).value
        for first, clips in ((0, 2), (2, 4))
    ]
    sum(shared).backward()
    torch.testing.assert_close(sum(shared), value)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["l2", "smooth-l1", "cosine"])
def test_losses_are_zero_for_the_target_alone(loss: str) -> None:
    target = torch.randn(3, 7, 16)
    torch.testing.assert_close(ERRORS[loss](target, target), torch.zeros(3, 7), atol=1e-6, rtol=0)
    assert (ERRORS[loss](-target, target) > 0.5).all()
    scaled = ERRORS[loss](3 * target, target)
    assert (scaled.abs() < 1e-5).all() == (loss == "cosine"), "only the cosine is blind to length"


@pytest.mark.parametrize("kind", ["local", "global", "targets"])
@pytest.mark.parametrize("masking", ["curriculum", "random"])
def test_predictor_kinds_train(kind: str, masking: str, generator: torch.Generator) -> None:
    """The same targets whatever predicts them; gradients everywhere."""
    system = objective(
        replace(
            CONFIG,
            masking=MaskingConfig(kind=masking, masks_per_clip=2),
            predictor=PredictorConfig(kind=kind, depth=2, width=32, heads=2),
        )
    )
    loss = system(spectrograms(), 10, generator)
    loss.value.backward()
    assert all(p.grad.abs().sum() > 0 for p in system.predictor.parameters())
    assert float(loss.metrics["targets"]) > 0.1


def test_predictor_at_targets_sees_every_target(generator: torch.Generator) -> None:
    """The mean over the targets' own list is the mean over the grid's marked places."""
    config = replace(CONFIG, predictor=replace(CONFIG.predictor, kind="targets"))
    system, state = objective(config), generator.get_state()
    system.predictor.head.weight.data.zero_()  # predicts zeros: the error is the targets' mean square
    value = system(spectrograms(), 10, generator).value
    everywhere = objective()
    everywhere.predictor.head.weight.data.zero_()
    torch.testing.assert_close(value, everywhere(spectrograms(), 10, generator.set_state(state)).value)


def test_targets_over_the_clip() -> None:
    """data2vec's instance norm: each feature has no mean and unit variance over a clip's patches."""
    system = objective(replace(CONFIG, target_layers=2, target_norm="instance"))
    patches, grid = system.encoder.patchify(spectrograms())
    features, _ = system.features(patches, grid)
    torch.testing.assert_close(features.mean(1), torch.zeros(4, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(1, correction=0), torch.ones(4, 32), atol=1e-3, rtol=0)


def test_activations_computed_again_give_the_same_gradients(generator: torch.Generator) -> None:
    state, gradients = generator.get_state(), []
    for again in (False, True):
        system = objective()
        if again:
            checkpoint_activations(system)
            assert system.encoder.checkpoint_activations and system.predictor.checkpoint_activations
            assert not system.target_encoder.checkpoint_activations
        system(spectrograms(), 10, generator.set_state(state)).value.backward()
        gradients.append([p.grad for p in system.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="target_layers is 3"):
        objective(replace(CONFIG, target_layers=3))
    with pytest.raises(ValueError, match="momentum"):
        replace(CONFIG, momentum=(0.9, 1.1))
    with pytest.raises(ValueError, match="reconstruction_weight is -1"):
        replace(CONFIG, reconstruction_weight=-1)
    system = objective()
    system.target_encoder.extra = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(RuntimeError, match="extra"):
        system.after_step(0)


def test_regulariser_is_part_of_the_loss(generator: torch.Generator) -> None:
    state = generator.get_state()
    plain = objective()(spectrograms(), 10, generator)
    held = objective(replace(CONFIG, variance_weight=2.0, covariance_weight=0.5))(
        spectrograms(), 10, generator.set_state(state)
    )
    assert torch.equal(plain.value, plain.metrics["prediction_error"])
    assert torch.equal(plain.value, held.metrics["prediction_error"])
    assert held.value > plain.value


@pytest.mark.parametrize("kind", ["global", "targets"])
def test_reconstruction_is_part_of_the_loss(kind: str, generator: torch.Generator) -> None:
    """Against the formula at the targets, whichever places the predictor answers for."""
    predictor = replace(CONFIG.predictor, kind=kind)
    config = replace(CONFIG, predictor=predictor, masking=MaskingConfig(kind="random"))
    state, batch = generator.get_state(), spectrograms()
    plain = objective(config)(batch, 10, generator)
    system = objective(replace(config, reconstruction_weight=0.5))
    anchored = system(batch, 10, generator.set_state(state))
    error = anchored.metrics["reconstruction_error"]
    torch.testing.assert_close(anchored.value, plain.value + 0.5 * error)

    patches, grid = system.encoder.patchify(batch)
    masks = sample_masks(config.masking, grid, 4, 10, 100, generator.set_state(state))
    context = system.encode_context(patches, masks, grid)
    prediction, _, counted = system._predict(context, masks, patches, grid)
    places = masks.target_BMN[:, 0].nonzero(as_tuple=True)
    said = prediction[counted.bool()] if kind == "targets" else prediction[places]
    patch = functional.layer_norm(patches[places], patches.shape[-1:])
    torch.testing.assert_close(error, (system.to_patch(said) - patch).square().mean())

    anchored.value.backward()
    assert system.to_patch.weight.grad.abs().sum() > 0
    assert objective(config).to_patch is None  # the paper's objective has no such weights


def test_gauges_tell_collapse() -> None:
    spread = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    line = spread[:, :1] * torch.ones(32)
    assert rankme(spread) > 30
    assert rankme(line) == pytest.approx(1.0, abs=1e-3)
    assert float(token_spread(spread[None])) == pytest.approx(1.0, abs=0.05)
    assert float(token_spread(torch.ones(1, 50, 32))) == 0.0


def test_attention_entropy_goes_from_one_token_to_all() -> None:
    encoder = objective().encoder
    for block in encoder.blocks:
        block.attn.qkv.weight.data.zero_()
    assert attention_entropy(encoder, spectrograms()) == pytest.approx(1.0, abs=1e-5)
    for block in encoder.blocks:
        block.attn.qkv.weight.data.normal_(std=30.0)
    assert attention_entropy(encoder, spectrograms()) < 0.2
    assert not encoder.blocks[0].attn.qkv._forward_hooks


def test_gap_between_the_encoders() -> None:
    system = objective()
    assert parameter_gap(system.encoder, system.target_encoder) == 0.0
    with torch.no_grad():
        for parameter in system.target_encoder.parameters():
            parameter.mul_(0.5)
    assert parameter_gap(system.encoder, system.target_encoder) == pytest.approx(0.5)


def test_collapse_is_told_once_in_words() -> None:
    watch = CollapseWatch([{"step": 1, "rankme": 50.0, "target_std": 0.6}], AJEPAConfig())
    assert watch.look({"step": 2, "rankme": 40.0, "target_std": 0.5}) == []
    assert watch.look({"step": 3}) == []
    (warning,) = watch.look({"step": 4, "rankme": 12.0, "target_std": 0.5})
    assert "step 4: representations are collapsing: rankme is 12, 50 at its highest" in warning
    assert watch.look({"step": 5, "rankme": 11.0, "target_std": 0.5}) == []
    assert watch.look({"step": 6, "rankme": 45.0}) == []
    assert len(watch.look({"step": 7, "rankme": 11.0, "target_std": 0.1})) == 2


def test_schedules() -> None:
    assert [schedules.linear(step, 10, 0.0, 1.0) for step in (0, 5, 10, 20)] == [0.0, 0.5, 1.0, 1.0]
    assert schedules.cosine(0, 10, 2.0, 1.0) == 2.0
    assert schedules.cosine(5, 10, 2.0, 1.0) == pytest.approx(1.5)
    assert schedules.cosine(10, 10, 2.0, 1.0) == 1.0
    rates = [schedules.warmup_cosine(step, 100, 10, 1.0, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    rates = [schedules.warmup_decay(step, 100, 10, 20, 1.0, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    rates = [schedules.warmup_decay(step, 100, 50, 80, 1.0, 0.0) for step in range(101)]
    assert torch.tensor(rates).diff().abs().max() < 0.03 and rates[100] == 0, (
        "a warm-up that overlaps the fall meets it"
    )


def test_mean_over_masks(generator: torch.Generator) -> None:
    """Each mask weighs alike, however many targets it has; shares of a step add up to it."""
    masking = MaskingConfig(kind="random", random_targets=(0.1, 0.8), masks_per_clip=3)
    config = replace(CONFIG, masking=masking, mean="masks", reconstruction_weight=0.5)
    system, batch = objective(config), spectrograms()
    state = generator.get_state()
    whole = system(batch, 10, generator.set_state(state))
    parts = [
        system(batch[first : first + 2], 10, generator.set_state(state), Share(first, 2, 4))
        for first in (0, 2)
    ]
    torch.testing.assert_close(sum(part.value for part in parts), whole.value)
    error_RX, weight_RX = (
        torch.tensor([[8.0, 0, 0, 0], [1, 1, 1, 1]]),
        torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]]),
    )
    assert system._mean(error_RX, weight_RX, weight_RX.sum(), 2) == (8 + 1) / 2
    assert objective()._mean(error_RX, weight_RX, weight_RX.sum(), 2) == (8 + 4) / 5
    # With one clip and one mask a step both are the same mean.
    alone = replace(config, masking=replace(masking, masks_per_clip=1))
    values = [
        objective(one)(batch[:1], 10, generator.set_state(state)).value
        for one in (alone, replace(alone, mean="tokens"))
    ]
    torch.testing.assert_close(*values)
