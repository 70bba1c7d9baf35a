"""The A-JEPA objective: what is a target, what the gradient reaches, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from ajepa import schedules
from ajepa.masking import MaskingConfig
from ajepa.objectives.a_jepa import AJEPA, AJEPAConfig, token_spread
from ajepa.objectives.regularisers import variance_covariance
from ajepa.predictor import PredictorConfig
from ajepa.training.health import rankme
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
    from ajepa.masking import sample_masks

    patches, grid = system.encoder.patchify(batch)
    masks = sample_masks(system.config.masking, grid, 4, 10, 100, generator.set_state(state))
    full = system.target_encoder(patches, system.encoder.positions(grid, patches))[0]
    target = functional.layer_norm(full, (32,))
    errors = []
    for clip in range(4):
        for mask in range(3):
            kept = masks.context_BMK[clip, mask][masks.valid_BMK[clip, mask]][None]
            valid = torch.ones_like(kept, dtype=torch.bool)
            context = system.encode_context(patches[clip : clip + 1], kept, valid, grid)
            prediction = system.predictor(context, kept, valid, grid)[0]
            wanted = masks.target_BMN[clip, mask]
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
    valid = torch.ones_like(index, dtype=torch.bool)
    before = system.encode_context(patches, index, valid, grid)
    hidden = torch.ones(2, grid.tokens, dtype=torch.bool).scatter(1, index, False)
    patches[hidden] = 7.0
    assert torch.equal(system.encode_context(patches, index, valid, grid), before)


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
        targets = system.normalise_targets(features)
        torch.testing.assert_close(targets.mean(0), torch.zeros(grid.tokens, 32), atol=1e-5, rtol=0)
        torch.testing.assert_close(targets.std((0, 1), correction=0), torch.ones(32), atol=1e-3, rtol=0)


def test_variance_and_covariance_terms() -> None:
    white = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0))
    assert [float(term) for term in variance_covariance(white)] == pytest.approx([0.0, 0.0], abs=0.01)
    shortfall, coupling = variance_covariance(0.25 * white[:, :1].expand(-1, 8))
    assert float(shortfall) == pytest.approx(0.75, abs=0.01)
    assert float(coupling) == pytest.approx(7 * 0.25**4, rel=0.05)


def test_regulariser_is_part_of_the_loss(generator: torch.Generator) -> None:
    state = generator.get_state()
    plain = objective()(spectrograms(), 10, generator)
    held = objective(replace(CONFIG, variance_weight=2.0, covariance_weight=0.5))(
        spectrograms(), 10, generator.set_state(state)
    )
    assert torch.equal(plain.value, plain.metrics["prediction_error"])
    assert torch.equal(plain.value, held.metrics["prediction_error"])
    assert held.value > plain.value


def test_gauges_tell_collapse() -> None:
    spread = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    line = spread[:, :1] * torch.ones(32)
    assert rankme(spread) > 30
    assert rankme(line) == pytest.approx(1.0, abs=1e-3)
    assert float(token_spread(spread[None])) == pytest.approx(1.0, abs=0.05)
    assert float(token_spread(torch.ones(1, 50, 32))) == 0.0


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
