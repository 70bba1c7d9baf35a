"""What runs on a GPU keeps its tensors there and never waits for it, found without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from ajepa.data.crops import Batch
from ajepa.eval.finetune.classifier import Classifier
from ajepa.eval.finetune.config import FinetuneConfig
from ajepa.eval.finetune.foreign import ForeignClassifier
from ajepa.eval.finetune.training import _loss
from ajepa.eval.models.baselines import HearNaive, LogMelBaseline
from ajepa.eval.models.frames import with_frames
from ajepa.eval.models.ours import EncoderModel
from ajepa.features import LogMel
from ajepa.model import AudioEncoder
from ajepa.model.stream import encode_stream
from ajepa.nn.encoder import Encoder
from ajepa.objectives.base import Share
from ajepa.recipes import Recipe, load_recipe, recipe_names
from ajepa.training import step as steps
from ajepa.training.fabric import Fabric
from ajepa.training.optimiser import make_optimizer, set_schedules
from ajepa.training.probe import Probe
from ajepa.training.run import Run
from tests.fake_cuda import CUDA, fake_cuda, on_meta

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a GPU is here; `make bench-gpu` runs on it"
)
CLIPS = 4


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with fake_cuda(monkeypatch):
        yield


def shallow(recipe: Recipe) -> Recipe:
    """The same recipe with few blocks: all blocks of a network do the same."""
    objective: Any = recipe.objective
    depth = max(2, getattr(objective, "target_layers", 1))
    parts = {
        part: replace(getattr(objective, part), depth=2)
        for part in ("predictor", "decoder")
        if hasattr(objective, part)
    }
    return replace(
        recipe,
        encoder=replace(recipe.encoder, depth=depth),
        objective=replace(objective, **parts),
        optim=replace(
            recipe.optim,
            batch_size=2 * CLIPS,
            accumulate=2,
            steps=100,
            epochs=None,
            warmup_steps=10,
            warmup_epochs=None,
        ),
    )


class FakeRun(Run):
    """A run on the device, whose Fabric believes to be on the CPU."""

    @property
    def device(self) -> torch.device:
        return CUDA


def laid_out(recipe: Recipe) -> FakeRun:
    fabric = Fabric(accelerator="cpu", devices=1)
    front_end = LogMel(recipe.front_end).to(CUDA)
    objective = recipe.objective.build(recipe.encoder, 100, recipe.front_end).to(CUDA)
    optimizer = make_optimizer(objective, recipe.optim)
    return FakeRun(
        fabric=fabric,
        recipe=recipe,
        front_end=front_end,
        objective=objective,
        model=fabric.setup_module(objective, move_to_device=False),
        optimizer=optimizer,
        stepper=optimizer,
        start=0,
        compiled=False,
        probe=None,
        info={},
    )


@pytest.mark.parametrize("name", recipe_names())
def test_a_step_of_each_recipe(name: str, device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From waveforms to losses, in bfloat16, with the numbers that a line of the log needs."""
    recipe = shallow(load_recipe(name))
    run = laid_out(recipe)
    monkeypatch.setattr(run.fabric, "backward", lambda loss: None)
    batch = Batch(torch.zeros(2 * CLIPS, recipe.crop_samples), ["a.wav"] * 2 * CLIPS, [], "")
    set_schedules(run.stepper, recipe.optim, 50)
    torch.set_autocast_enabled("cuda", True)
    losses, _ = steps.gradients(run, batch, 50)
    run.objective.after_step(50)
    numbers = [*(loss.value for loss in losses), *steps.mean_metrics(losses, 1).values()]
    assert {number.device.type for number in numbers} == {"cuda"}


@pytest.mark.parametrize("name", recipe_names())
def test_the_gradients_of_each_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a spectrogram to the moved weights."""
    recipe = shallow(load_recipe(name))
    objective = recipe.objective.build(recipe.encoder, 100, recipe.front_end).to("meta")
    frames = recipe.front_end.frames(recipe.crop_samples)
    spectrogram_BLC = torch.zeros(CLIPS, frames, recipe.encoder.mels, device="meta")
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], foreach=True)
    with on_meta(monkeypatch) as generator:
        loss = objective(spectrogram_BLC, 50, generator, Share(0, CLIPS, 2 * CLIPS))
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        assert all(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        optimizer.step()
        objective.after_step(50)


def encoder_of(name: str) -> AudioEncoder:
    recipe = load_recipe(name)
    return AudioEncoder(recipe.front_end, replace(recipe.encoder, depth=2), recipe.data.crop_seconds).eval()


SYSTEMS = ("ajepa-small-cpu", "audio-mae-vit-b-as2m", "audio-jepa-vit-b-as2m")


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_embedding(name: str, device: None) -> None:
    """Short, long and padded clips, all layers; the numbers of the clips' lengths stay on the host."""
    encoder = encoder_of(name).to(CUDA)
    samples = 25 * encoder.sample_rate
    for lengths in (None, [1, samples // 3, samples]):
        found = encoder(torch.zeros(3, samples), lengths, layers=True)
        for values in (*found.layers, found.patches, found.frames, found.clip, found.lengths):
            assert values.device.type == "cuda"
    statistics = EncoderModel(encoder)(torch.zeros(2, samples), [5, samples], True)
    assert statistics.device.type == "cuda"
    encoder = encoder_of(name).set_bf16().to(CUDA)
    assert encoder(torch.zeros(2, 8_000), [8_000, 3_000]).clip.device.type == "cuda"


def test_a_stream(device: None) -> None:
    encoder = encoder_of("ajepa-small-cpu").to(CUDA)
    blocks = (torch.zeros(encoder.sample_rate) for _ in range(40))
    parts = list(encode_stream(encoder, blocks, layers=True))
    assert len(parts) > 1 and {part.device.type for part in parts} == {"cpu"}


@pytest.mark.parametrize("model", [LogMelBaseline, HearNaive])
@torch.no_grad()
def test_baselines(model: Any, device: None) -> None:
    baseline = with_frames(model().to(CUDA))
    assert baseline(torch.zeros(2, 44_100).to(CUDA), [44_100] * 2, False).device.type == "cuda"


@pytest.mark.parametrize("name", SYSTEMS[:2])
def test_the_online_probe_embeds_on_the_device(name: str, device: None) -> None:
    probe = Probe.__new__(Probe)
    probe.model = encoder_of(name).to(CUDA)
    assert probe._embed([torch.zeros(8_000), torch.zeros(20_000)]).device.type == "cpu"


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("how", ["regularised", "zero"])
def test_a_step_of_fine_tuning(name: str, how: Any, device: None) -> None:
    config = FinetuneConfig(
        masked_share=0.2, masked_how=how, drop_path=0.1, freq_mask=20, time_mask=20, noise=True, loss="bce"
    )
    tuned(Classifier(encoder_of(name), 5, config))


def test_a_step_of_fine_tuning_an_encoder_of_others(device: None) -> None:
    tuned(ForeignClassifier(EncoderModel(encoder_of("ajepa-small-cpu")), 5, FinetuneConfig()))


def tuned(network: Any) -> None:
    network = network.to(CUDA)
    torch.set_autocast_enabled("cuda", True)
    lengths_B = torch.tensor([16_000, 9_000, 1, 16_000])
    logits_BC = network(torch.zeros(4, 16_000).to(CUDA), lengths_B, torch.Generator().manual_seed(0))
    assert logits_BC.shape == (4, 5) and logits_BC.device.type == "cuda"
    loss = _loss(logits_BC.float(), torch.zeros(4, 5).to(CUDA), "bce")
    assert loss.device.type == "cuda" and loss.requires_grad


# -- The stand-in itself finds what it is there for --


def test_a_wait_and_another_device_are_found(device: None) -> None:
    there = torch.zeros(3).to(CUDA)
    for ask in (
        lambda: there.tolist(),
        lambda: there[there > 0],
        lambda: bool(there.any()),
        lambda: there.sum().item(),
    ):
        with pytest.raises(Exception, match="aten"):
            ask()
    with pytest.raises(Exception, match="same device"):
        there + torch.zeros(3)
    assert torch.zeros(3).tolist() == [0, 0, 0], "the CPU is as usual"
    encoder: Any = Encoder(load_recipe("ajepa-small-cpu").encoder).to(CUDA)
    with pytest.raises(Exception, match="same device"):
        encoder.patch_embed(torch.zeros(1, 4, 256))
