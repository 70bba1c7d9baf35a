"""Classifiers that `ajepa evaluate` keeps: what is in the folder is what was scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import ajepa
from ajepa.audio import load
from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.eval.classifiers import ClassifierError, load_classifier
from ajepa.eval.classifiers.made import of_network
from ajepa.eval.classifiers.measures import best_thresholds, macro_f1
from ajepa.eval.finetune.run import Kept, finetune_model
from ajepa.eval.finetune.training import Waveforms, predict
from ajepa.eval.models.open import open_model
from ajepa.eval.results.record import Record, read_records
from ajepa.eval.tasks import Task, open_task
from ajepa.model.classifier import AudioClassifier
from tests.labelled_tones import write_table
from tests.test_encoders_in import module  # noqa: F401
from tests.test_finetune import QUICK

Evaluate = Callable[..., int]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path)


@pytest.fixture
def evaluate(source: str, tmp_path: Path) -> Evaluate:
    def run(protocol: str, table: Path, *options: str, model: str = source, split: str = "split") -> int:
        line = ["evaluate", protocol, "--task", "table", "--data", str(table), f"--{split}", split]
        line += ["--model", model, "--json", str(tmp_path / "record.json")]
        if protocol == "linear":
            line += ["--cache", str(tmp_path / "cache")]
        return main([*line, *options])

    return run


def saved(folder: Path) -> tuple[AudioClassifier, Record]:
    return ajepa.load_classifier(folder / "saved"), read_records(folder / "record.json")[0]


def accuracy(classifier: AudioClassifier, task: Task, split: str = "test") -> float:
    """Clip by clip, each alone."""
    right = []
    for clip in task.clips:
        if clip.split == split:
            wave_S = load(clip.path, sample_rate=classifier.sample_rate)
            right.append(classifier.predict(wave_S[None]).labels[0] == clip.labels)
    return sum(right) / len(right)


@pytest.mark.parametrize(
    "options",
    [
        ("--layer", "last"),
        ("--layer", "1", "--time", "mean+std"),
        ("--layer", "weighted", "--pool", "mean", "--time", "mean+std"),
        ("--layer", "best", "--pool", "best", "--class-weight", "balanced"),
    ],
    ids=lambda options: options[1],
)
def test_a_saved_probe_is_the_one_that_was_scored(
    options: tuple[str, ...], evaluate: Evaluate, table: Path, tmp_path: Path
) -> None:
    assert evaluate("linear", table, "--save", str(tmp_path / "saved"), *options) == 0
    classifier, record = saved(tmp_path)
    task = open_task("table", table, split="split")
    assert classifier.labels == task.classes == ("high", "low")
    assert accuracy(classifier, task) == pytest.approx(record.score) and record.score > 0.8
    assert classifier.about["measured"]["right"] == pytest.approx(record.score)
    assert 0.5 < classifier.about["measured"]["confidence"] <= 1
    assert classifier.about["training"]["splits"] == ["train"]
    together = classifier.predict(0.1 * torch.randn(2, 30_000), [30_000, 9_000]).probabilities
    with pytest.raises(ValueError, match="clips 1 have samples that are not finite; leave them out"):
        classifier.predict(torch.stack([torch.zeros(9_000), torch.full((9_000,), float("nan"))]))
    torch.testing.assert_close(together.sum(1), torch.ones(2))


def test_the_folder_is_complete_and_its_encoder_loads(
    evaluate: Evaluate, table: Path, tmp_path: Path, source: str
) -> None:
    assert evaluate("linear", table, "--save", str(tmp_path / "saved")) == 0
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "saved", moved)
    assert sorted(path.name for path in moved.iterdir()) == [
        "README.md",
        "classifier.json",
        "model.safetensors",
    ]
    clip = 0.1 * torch.randn(1, 40_000)
    with torch.no_grad():
        assert torch.equal(ajepa.load_model(moved)(clip).clip, ajepa.load_model(source)(clip).clip)
    card = (moved / "README.md").read_text()
    assert "pipeline_tag: audio-classification" in card and "high, low." in card
    assert "This is the classifier that was scored." in card and "24 clips (train) of tones" in card
    assert str(tmp_path) not in card + (moved / "classifier.json").read_text(), "no private folder"


def test_with_folds_all_of_them_train_the_one_that_is_kept(
    evaluate: Evaluate, table: Path, tmp_path: Path
) -> None:
    assert evaluate("linear", table, "--save", str(tmp_path / "saved"), split="fold") == 0
    classifier, record = saved(tmp_path)
    assert classifier.about["training"] == {
        "splits": ["0", "1", "2"],
        "clips": 48,
        "folds": 3,
        "thresholds": "",
        "how": ["with the settings that most of them chose"],
    }
    assert accuracy(classifier, open_task("table", table, fold="fold"), "0") >= record.score - 0.1
    assert "mean of 3 classifiers" in (tmp_path / "saved/README.md").read_text()
    assert "was not tested itself" in (tmp_path / "saved/README.md").read_text()


@pytest.mark.parametrize("norm", ["before", "after", "both"])
def test_a_fine_tuned_network_keeps_its_logits(norm: str, source: str, table: Path) -> None:
    """Of clips shorter and longer than the longest stretch, alone and in a batch."""
    model, task = open_model(source), open_task("table", table, split="split")
    config = replace(
        QUICK, epochs=1, warmup_epochs=0, seconds=1.6, norm=norm, head_std=0.5, mean=-5.0, std=4.0
    )
    kept: list[Kept] = []
    result = finetune_model(model, task, config, keep=lambda _, one: kept.append(one))
    classifier = of_network(*kept[0], model=model, task=task, record=result.record)
    numbers = np.arange(12)
    waveforms = Waveforms(task.clips, 16_000)
    expected = torch.from_numpy(predict(kept[0].network, waveforms, numbers)).float()
    waves = [waveforms[number] for number in numbers]
    assert min(map(len, waves)) < 1.6 * 16_000 < max(map(len, waves))
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        logits = classifier(padded, [len(wave) for wave in waves])
    with pytest.raises(ValueError, match="must be 12 numbers from 1 to"):
        classifier(padded, [padded.shape[1] + 1] * 12)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert classifier.longest_seconds == 1.6 and not classifier.training
    assert kept[0].held_out is not None and kept[0].held_out.split == "valid"


def test_fine_tuning_leaves_a_folder(evaluate: Evaluate, table: Path, tmp_path: Path) -> None:
    options = ["--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "lr=1e-2", "--set", "mixup=0"]
    save = ["--save", str(tmp_path / "saved")]
    assert evaluate("finetune", table, *options, "--seeds", "3,4", *save) == 0
    classifier, record = saved(tmp_path)
    assert accuracy(classifier, open_task("table", table, split="split")) == pytest.approx(record.by_seed[0])
    card = (tmp_path / "saved/README.md").read_text()
    assert "A fine-tuned network" in card and "mean of 2 seeds; this network is that of seed 3" in card
    assert evaluate("finetune", table, *options, *save, split="fold") == 0
    classifier, _ = saved(tmp_path)
    assert classifier.about["training"]["splits"] == ["0", "1", "2"]


# -- several labels --


def test_thresholds_have_the_best_f1() -> None:
    rng = torch.Generator().manual_seed(0)
    target = (torch.rand(60, 4, generator=rng) < 0.3).float()
    target[:, 3] = 0
    probability = (0.3 * target + torch.rand(60, 4, generator=rng) * 0.7).round(decimals=1)  # with ties
    found = best_thresholds(probability, target)
    for label in range(3):
        values = [f1_score(target[:, label], probability[:, label] >= t) for t in np.arange(-0.05, 1.1, 0.1)]
        chosen = f1_score(target[:, label], probability[:, label].double() >= found[label])
        assert chosen == pytest.approx(max(values))
    assert found[3] == 0.5, "no clip has it"
    answers = probability.double() >= torch.tensor(found)
    expected = f1_score(target[:, :3], answers[:, :3], average="macro")
    assert macro_f1(probability, target, found) == pytest.approx(expected)


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_several_labels(protocol: str, evaluate: Evaluate, tmp_path: Path) -> None:
    table = write_table(tmp_path, several=True)
    options = ["--multilabel", "--save", str(tmp_path / "saved")]
    if protocol == "finetune":
        options += ["--set", "epochs=1", "--set", "warmup_epochs=0"]
    assert evaluate(protocol, table, *options) == 0
    classifier, record = saved(tmp_path)
    labels = classifier.label_set
    assert labels.several and labels.activation == "sigmoid" and len(labels.thresholds) == 3
    task = open_task("table", table, split="split", multilabel=True)
    for split, name in (("test", "f1"), ("valid", "f1_held_out")):
        rows = [place for place, clip in enumerate(task.clips) if clip.split == split]
        waves = [load(task.clips[row].path) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        found = classifier.predict(padded, [len(wave) for wave in waves])
        target = torch.from_numpy(task.target()[rows])
        f1 = macro_f1(found.probabilities, target, labels.thresholds)
        assert f1 == pytest.approx(classifier.about["measured"][name])
        chosen = [tuple(sorted(names)) for names in found.labels]
        above = found.probabilities.double() >= torch.tensor(labels.thresholds).double()
        assert chosen == [
            tuple(name for name, on in zip(task.classes, row, strict=True) if on) for row in above.tolist()
        ]
    card = (tmp_path / "saved/README.md").read_text()
    assert "chosen on the validation split" in card and record.metric == "mAP"


# -- encoders of other people --


def test_a_probe_on_a_baseline(evaluate: Evaluate, table: Path, tmp_path: Path) -> None:
    assert evaluate("linear", table, "--save", str(tmp_path / "saved"), model="logmel") == 0
    classifier, record = saved(tmp_path)
    assert accuracy(classifier, open_task("table", table, split="split")) == pytest.approx(record.score)
    lengths = [20_000, 9_000, 20_000]
    waves = 0.1 * torch.randn(3, 20_000)
    together = classifier.predict(waves, lengths).probabilities
    alone = classifier.predict(waves[1:2, :9_000]).probabilities
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)
    assert main(["export", str(tmp_path / "saved"), "--out", str(tmp_path / "x.onnx")]) == 2


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_code_of_others_runs_on_the_users_word(
    protocol: str,
    evaluate: Evaluate,
    table: Path,
    tmp_path: Path,
    module: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = f"python:{module}:energies"
    options = ["--set", "epochs=2", "--set", "warmup_epochs=0"] if protocol == "finetune" else []
    assert evaluate(protocol, table, *options, "--save", str(tmp_path / "saved"), model=source) == 0
    with pytest.raises(ClassifierError, match="whose code runs only if you name it yourself"):
        load_classifier(tmp_path / "saved")
    classifier = load_classifier(tmp_path / "saved", encoder=source)
    score = read_records(tmp_path / "record.json")[0].score
    assert accuracy(classifier, open_task("table", table, split="split")) == pytest.approx(score)
    line = ["predict", str(table.parent / "0.wav"), "--model", str(tmp_path / "saved")]
    assert main(line) == 2 and "--encoder" in capsys.readouterr().err
    assert main([*line, "--encoder", source]) == 0
    with pytest.raises(ClassifierError, match=r"made with other weights of python:.*fingerprint"):
        load_classifier(tmp_path / "saved", encoder=f"python:{module}:energies:9")


# -- what cannot be done --


def test_what_cannot_be_saved_is_said_before_the_work(
    evaluate: Evaluate, table: Path, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        (["--model", f"two={source}"], "--save {} keeps the classifier of one model"),
        (["--layer", "each"], "give --layer another value than each"),
    ):
        folder = tmp_path / "saved"
        assert evaluate("linear", table, "--save", str(folder), *options) == 2
        assert words.format(folder) in capsys.readouterr().err
    assert evaluate("linear", table, "--save", str(tmp_path)) == 2
    assert f"--save {tmp_path}: has other files in it; name a new folder" in capsys.readouterr().err
    assert table.is_file(), "nothing is replaced"


def test_finished_results_are_kept_where_their_classifier_is(
    evaluate: Evaluate, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "results")]
    assert evaluate("linear", table, *out) == 0
    assert evaluate("linear", table, *out, "--save", str(tmp_path / "saved")) == 0, "fitted again for it"
    classifier, _ = saved(tmp_path)
    assert classifier.labels == ("high", "low")
    monkeypatch.setattr("ajepa.eval.protocols.probing.probe_model", lambda *_: pytest.fail("ran again"))
    assert evaluate("linear", table, *out, "--save", str(tmp_path / "saved")) == 0


def test_damaged_folders_are_named(evaluate: Evaluate, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    assert evaluate("linear", table, "--save", str(folder)) == 0
    whole = json.loads((folder / "classifier.json").read_text())
    for change, words in (
        ({"format": 9}, "format is not 1; update ajepa"),
        ({"head": whole["head"] | {"values": 9}}, "head does not fit"),
        ({"head": whole["head"] | {"layer": "7"}}, "head does not fit"),
        ({"head": whole["head"] | {"pool": "max"}}, "head.pool is 'max', must be"),
        ({"labels": whole["labels"] | {"names": ["a", "b", "c"]}}, "2 outputs for 3 labels"),
        ({"labels": whole["labels"] | {"names": "ab"}}, "labels.names is 'ab', must be a list"),
        ({"longest_seconds": -1.0}, "longest_seconds is -1.0"),
    ):
        (folder / "classifier.json").write_text(json.dumps(whole | change))
        with pytest.raises(ClassifierError, match=words) as error:
            load_classifier(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)
    (folder / "classifier.json").write_text(json.dumps(whole))
    good = checkpoint.load(folder / "model.safetensors")
    bad = good.tensors | {
        "head.linear.weight": torch.full_like(good.tensors["head.linear.weight"], torch.nan)
    }
    checkpoint.save(
        folder / "model.safetensors", checkpoint.Checkpoint(bad, good.recipe, good.step, good.info)
    )
    with pytest.raises(ValueError, match=r"head\.linear\.weight has NaN"):
        load_classifier(folder)
    with pytest.raises(ClassifierError, match=r"no classifier\.json in it; name a folder that"):
        load_classifier(tmp_path / "absent")
