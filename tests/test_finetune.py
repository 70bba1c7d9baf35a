"""Fine-tuning: which clips are seen how often, the rates of the layers, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ajepa.eval.finetune.classifier import Classifier
from ajepa.eval.finetune.config import RECIPES, FinetuneConfig, FinetuneConfigError, config_for
from ajepa.eval.finetune.run import finetune_model
from ajepa.eval.finetune.targets import Targets
from ajepa.eval.finetune.training import FinetuneError, Waveforms, _order, finetune, predict
from ajepa.eval.models.open import BASELINES, EncoderModel, Named
from ajepa.eval.results.record import Record
from ajepa.eval.tasks.task import Clip, Task
from ajepa.features import LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.model.classifier import stretches
from ajepa.model.fingerprint import fingerprint
from tests.conftest import TINY

QUICK = FinetuneConfig(
    epochs=8, warmup_epochs=1, batch_size=8, lr=3e-3, layer_decay=0.9, mixup=0.3, freq_mask=8, time_mask=8
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(LogMelConfig(), TINY, 2.08).eval()


@pytest.fixture
def tones(tmp_path: Path) -> Task:
    """Low and high tones in noise: 96 to train, 16 to validate, 16 to test."""
    rng, clips = np.random.default_rng(0), []
    for number in range(128):
        high = number % 2
        time = np.arange(int(16_000 * rng.uniform(0.2, 0.6))) / 16_000
        hz = rng.uniform(1500, 2500) if high else rng.uniform(200, 500)
        wave = rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * hz * time) + 0.01 * rng.standard_normal(len(time))
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, wave, 16_000)
        split = "train" if number < 96 else "valid" if number < 112 else "test"
        clips.append(Clip(path, ("high" if high else "low",), split))
    return Task("tones", tuple(clips), folds=False)


def test_it_learns_and_leaves_the_encoder_alone(model: AudioEncoder, tones: Task) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (chosen,) = tones.rounds()
    seen: list[dict[str, float]] = []
    config = replace(QUICK, epochs=12, lr=1e-2, mixup=0.1, freq_mask=2)
    outcome = finetune(model, tones, chosen, config, report=seen.append)
    assert outcome.test.score > 0.85
    assert outcome.test.target.tolist() == tones.target()[112:].tolist()
    assert outcome.history == seen and [line["epoch"] for line in seen] == list(range(1, 13))
    best = max(line["valid"] for line in seen)
    assert seen[outcome.epoch - 1]["valid"] == best, "the best epoch on the validation split"
    assert all(line["valid"] < best for line in seen[: outcome.epoch - 1]), "the first of several"
    assert seen[-1]["loss"] < seen[0]["loss"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_seed_decides(model: AudioEncoder, tones: Task) -> None:
    (chosen,) = tones.rounds()
    short = replace(QUICK, epochs=2)
    runs = [finetune(model, tones, chosen, short, seed=seed).test.scores_MC for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_no_epoch_is_chosen_on_a_test_fold(model: AudioEncoder, tones: Task) -> None:
    folds = tuple(clip._replace(split=str(number % 3)) for number, clip in enumerate(tones.clips))
    task = Task("folds", folds, folds=True)
    outcome = finetune(model, task, task.rounds()[1], replace(QUICK, epochs=2))
    assert outcome.epoch == 2 and not any("valid" in line for line in outcome.history)
    assert outcome.test.target.tolist() == tones.target()[1::3].tolist()


def test_several_labels_need_their_own_loss(model: AudioEncoder, tones: Task) -> None:
    clips = tuple(
        clip._replace(labels=(*clip.labels, "all") if number % 3 else clip.labels)
        for number, clip in enumerate(tones.clips)
    )
    task = Task("several", clips, folds=False, multilabel=True)
    (chosen,) = task.rounds()
    with pytest.raises(ValueError, match="loss='bce'"):
        finetune(model, task, chosen, QUICK)
    config = replace(QUICK, epochs=1, warmup_epochs=0, loss="bce", balanced=True)
    outcome = finetune(model, task, chosen, config)
    assert outcome.test.scores_MC.shape == outcome.test.target.shape == (16, 3)


def test_padding_changes_no_clip_and_long_clips_are_averaged(model: AudioEncoder, tones: Task) -> None:
    torch.manual_seed(0)
    network = Classifier(model, 2, replace(QUICK, head_std=0.5, seconds=0.4))
    waveforms = Waveforms(tones.clips, 16_000)
    together = predict(network, waveforms, np.arange(12))
    alone = np.concatenate([predict(network, waveforms, np.array([number])) for number in range(12)])
    assert np.abs(together - alone).max() < 1e-4
    long = int(np.argmax([len(waveforms[number]) for number in range(12)]))
    pieces = list(stretches(waveforms[long], 6400))
    assert len(pieces) == 2 and len(pieces[1]) == 6400 and torch.equal(pieces[1], waveforms[long][-6400:])
    parts = [network(piece_S[None], torch.tensor([6400])).detach().numpy() for piece_S in pieces]
    assert np.abs(together[long] - np.mean(parts, axis=0)).max() < 1e-4
    assert [len(piece) for piece in stretches(torch.zeros(24_000), 8000)] == [8000] * 3


def test_earlier_layers_learn_more_slowly(model: AudioEncoder) -> None:
    network = Classifier(model, 3, replace(QUICK, layer_decay=0.5))
    groups = network.parameter_groups()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    scales = {names[id(p)]: group["scale"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    assert scales.keys() == dict(network.named_parameters()).keys()
    assert (
        scales["patch_embed.weight" if "patch_embed.weight" in scales else "encoder.patch_embed.weight"]
        == 0.125
    )
    assert scales["encoder.blocks.0.attn.qkv.weight"] == 0.25
    assert scales["encoder.blocks.1.mlp.fc2.bias"] == 0.5
    assert scales["encoder.norm.weight"] == scales["head.weight"] == 1.0
    for group in groups:
        decays = {parameter.ndim > 1 for parameter in group["params"]}  # type: ignore[attr-defined]
        assert decays == {group["weight_decay"] > 0}  # type: ignore[operator]


def test_no_clip_that_is_not_mixed_is_trained_with_padding(model: AudioEncoder, tones: Task) -> None:
    (chosen,) = tones.rounds()
    losses = []
    for share in (0.0, 1e-9):  # the second mixes no clip of these either
        config = replace(QUICK, epochs=1, warmup_epochs=0, mixup=share, head_std=0.5)
        losses.append(finetune(model, tones, chosen, config).history[0]["loss"])
    assert losses[0] == losses[1]


def test_training_that_diverges_is_an_error(model: AudioEncoder, tones: Task) -> None:
    (chosen,) = tones.rounds()
    quick = replace(QUICK, epochs=1, warmup_epochs=0)
    network = Classifier(model, 2, quick)
    torch.nn.init.constant_(network.head.bias, torch.inf)
    with pytest.raises(FinetuneError, match=r"3\.wav: its logits are NaN or infinite; lower lr"):
        predict(network, Waveforms(tones.clips, 16_000), np.array([3, 4]))
    torch.nn.init.constant_(model.encoder.norm.weight, torch.nan)
    with pytest.raises(FinetuneError, match="seed 0, epoch 1: the training loss is nan; lower lr"):
        finetune(model, tones, chosen, quick)


def labelled(*labels: tuple[str, ...], **options: bool) -> Task:
    splits = ("train",) * (len(labels) - 2) + ("valid", "test")
    clips = (Clip(Path(f"{n}.wav"), *pair) for n, pair in enumerate(zip(labels, splits, strict=True)))
    return Task("labelled", tuple(clips), folds=False, **options)


def test_balanced_draws_show_rare_classes_as_often() -> None:
    task = labelled(*[("common",)] * 90, *[("rare",)] * 10, ("rare",), ("common",))
    targets, train = Targets(task), np.arange(100)
    balanced = replace(QUICK, balanced=True)
    drawn = torch.cat([_order(train, targets, balanced, generator(seed)) for seed in range(40)])
    assert (drawn >= 90).float().mean() == pytest.approx(0.5, abs=0.05) and len(drawn) == 4000
    assert sorted(_order(train[:5], targets, QUICK, generator()).tolist()) == list(range(5))
    assert len(_order(train, targets, replace(balanced, samples_per_epoch=7), generator())) == 7
    assert len(_order(train, targets, replace(QUICK, samples_per_epoch=7), generator())) == 100
    once = replace(balanced, samples_per_epoch=20, replacement=False)
    drawn = torch.stack([_order(train, targets, once, generator(seed)) for seed in range(40)])
    assert all(len(set(row)) == 20 for row in drawn.tolist()), "each clip once an epoch"
    assert (drawn >= 90).float().mean() > 0.3, "a tenth of the clips are rare"
    with pytest.raises(FinetuneError, match="samples_per_epoch is 200, but there are 100 clips"):
        _order(train, targets, replace(once, samples_per_epoch=200), generator())


def test_targets_are_the_tasks() -> None:
    several = labelled(("a", "b"), (), ("b",), ("b", "c"), ("a",), ("c",), multilabel=True)
    targets = Targets(several)
    assert np.array_equal(targets.dense(np.array([3, 0, 1])), several.target()[[3, 0, 1]])
    sizes = torch.tensor([1.0, 3.0, 1.0])  # of a, b and c among the clips that are trained on
    expected = several.target()[:4] @ (1000 / (sizes + 0.01)).numpy()
    assert targets.weights(np.arange(4)).numpy() == pytest.approx(expected)
    single = labelled(("b",), ("a",), ("b",), ("a",))
    assert Targets(single).dense(np.arange(4)).argmax(1).tolist() == single.target().tolist()


def test_no_epoch_is_chosen_on_what_is_trained_on(model: AudioEncoder, tones: Task) -> None:
    task = replace(tones, refit=True)
    config = replace(QUICK, epochs=2)
    outcome = finetune(model, task, task.rounds()[0], config)
    assert outcome.epoch == 2 and not any("valid" in line for line in outcome.history)


def test_recipes_are_the_papers() -> None:
    esc, words = RECIPES["esc50"], RECIPES["speech_commands"]
    assert (esc.epochs, esc.warmup_epochs, esc.freq_mask, esc.time_mask) == (50, 5, 24, 96)
    assert (words.epochs, words.batch_size, words.lr, words.noise, words.loss) == (
        30,
        128,
        2.5e-4,
        True,
        "bce",
    )
    assert all(recipe.layer_decay == 0.75 for recipe in RECIPES.values())
    ours = [recipe for name, recipe in RECIPES.items() if not name.startswith("audio-mae-")]
    assert {(one.masked_how, one.masked_share, one.norm, one.std) for one in ours} == {
        ("regularised", 0.1, "before", 0.0)
    }
    theirs = [recipe for name, recipe in RECIPES.items() if name.startswith("audio-mae-")]
    assert len(theirs) == 5
    assert {
        (one.masked_how, one.masked_share, one.norm, one.weight_decay, one.mixup_with) for one in theirs
    } == {("structured", 0.2, "after", 1e-4, "set")}
    assert RECIPES["audio-mae-esc50"].mean == -6.6268077 and RECIPES["audio-mae-esc50"].std == 5.358466
    audioset = RECIPES["audioset-2m"]
    assert (audioset.samples_per_epoch, audioset.replacement, audioset.epochs) == (200_000, False, 100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"warmup_epochs": 50}, "must be below epochs, 50"),
        ({"mixup": 1.5}, "mixup is 1.5"),
        ({"layer_decay": 0.0}, "layer_decay is 0"),
        ({"lr": 0.0}, "lr is 0.0, must be a number above 0"),
        ({"lr": float("nan")}, "lr is nan, must be a number above 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"min_lr": -1e-6}, "min_lr is -1e-06, must be a number at least 0"),
        ({"min_lr": 1.0}, "min_lr is 1.0, must be at most lr"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"head_std": float("nan")}, "head_std is nan"),
        ({"seconds": -1.0}, "seconds is -1.0, must be a number above 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"drop_path": 1.0}, "drop_path is 1.0, must be at least 0 and below 1"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs is nan"),
        ({"mixup_beta": float("inf")}, "mixup_beta is inf"),
        ({"mixup_with": "all"}, "mixup_with is 'all', must be batch or set"),
        ({"balanced": True, "replacement": False}, "samples_per_epoch must say"),
    ],
)
def test_wrong_settings(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**wrong)  # type: ignore[arg-type]


def test_records_have_a_score_an_interval_and_each_seed(model: AudioEncoder, tones: Task) -> None:
    named = Named("ours", "somewhere", EncoderModel(model))
    seen = []
    record, draws_S, *_ = finetune_model(
        named, tones, replace(QUICK, epochs=2), seeds=(0, 1), report=lambda *line: seen.append(line)
    )
    assert record.score == pytest.approx(np.mean(record.by_seed)) and len(record.by_seed) == 2
    assert record.interval is not None
    low, high = record.interval
    assert low <= record.score <= high and len(draws_S) == 10_000
    assert [(split, seed) for split, seed, _ in seen] == [("test", 0)] * 3 + [("test", 1)] * 3
    assert [seen[place][2]["score"] for place in (2, 5)] == list(record.by_seed), "each said when it is there"
    assert [choice["seed"] for choice in record.chosen] == [0, 1]
    assert record.details["config"]["epochs"] == 2
    assert record.weights == fingerprint(model), "those that training began with"
    assert Record.from_json(json.loads(json.dumps(record.as_json()))) == record


def test_a_baseline_has_nothing_to_train(tones: Task) -> None:
    with pytest.raises(FinetuneError, match="log-mel: has no weights to train"):
        finetune_model(Named("log-mel", "logmel", BASELINES["logmel"]()), tones, QUICK)


def test_settings_from_the_command_line() -> None:
    config = config_for(
        "esc10",
        None,
        ["epochs=7", "lr=1e-3", "noise=true", "loss=bce", "warmup_epochs=1.5", "masked_how=drop"],
    )
    assert config == replace(
        RECIPES["esc50"],
        epochs=7,
        lr=1e-3,
        noise=True,
        loss="bce",
        warmup_epochs=1.5,  # a fraction, though the recipe's own is a whole number
        masked_how="drop",
    )
    assert config_for("voxceleb1", "audioset-20k") == RECIPES["audioset-20k"]
    for settings, message in (
        (["depth=3"], "is not a setting"),
        (["epochs"], "is not a setting"),
        (["epochs=many"], "epochs is many; give a whole number"),
        (["noise=1"], "noise is 1; give true or false"),
        (["mixup=2"], "mixup is 2"),
        (["loss=l2"], "loss is l2; choose cross-entropy or bce"),
    ):
        with pytest.raises(FinetuneConfigError, match=message):
            config_for("esc50", None, settings)
    assert config_for("table", multilabel=True) == replace(RECIPES["esc50"], loss="bce")
    assert config_for("birds") == RECIPES["generic"] == FinetuneConfig(), "a task of another package"
    with pytest.raises(FinetuneConfigError, match="no fine-tuning recipe"):
        config_for("esc50", "imagenet")
