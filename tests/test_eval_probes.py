"""Probes against scikit-learn, selection that must not see the test split, and intervals that hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from ajepa.eval.probe.logistic import fit_logistic
from ajepa.eval.probe.probes import PROBES, class_weights, knn, linear, standardised
from ajepa.eval.probe.selection import describe, run_probe
from ajepa.eval.results.record import Record
from ajepa.eval.results.result import Result, compare_with
from ajepa.eval.results.scores import Scored, bootstrap, interval, mean_average_precision, summary, two_sided
from ajepa.eval.tasks import Clip, Task


def blobs(clips: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features of overlapping classes, double precision."""
    generator = torch.Generator().manual_seed(seed)
    label_N = torch.arange(clips) % classes
    rank = min(features, 20)
    centres = torch.randn(classes, rank, generator=generator, dtype=torch.float64)
    latent = centres[label_N] + torch.randn(clips, rank, generator=generator, dtype=torch.float64)
    mix = torch.randn(rank, features, generator=generator, dtype=torch.float64)
    noise = torch.randn(clips, features, generator=generator, dtype=torch.float64)
    return latent @ mix + 0.3 * noise, label_N


@pytest.mark.parametrize(("clips", "features"), [(150, 20), (60, 200)], ids=["tall", "wide"])
def test_the_fit_is_that_of_scikit_learn(clips: int, features: int) -> None:
    features_ND, label_N = blobs(clips, features, 4)
    penalties = [1e-3, 0.1, 1.0]
    fitted = fit_logistic(features_ND, label_N, penalties, 4, tolerance=1e-14)
    for index, penalty in enumerate(penalties):
        reference = LogisticRegression(C=penalty, tol=1e-10, solver="newton-cholesky")
        reference.fit(features_ND.numpy(), label_N.numpy())
        np.testing.assert_allclose(fitted.weight_RDC[index].T, reference.coef_, atol=2e-6)
        log_p = torch.log_softmax(fitted(features_ND)[index], 1)
        np.testing.assert_allclose(log_p, reference.predict_log_proba(features_ND.numpy()), atol=5e-4)


@pytest.mark.parametrize(("clips", "features"), [(150, 20), (60, 200)], ids=["tall", "wide"])
def test_balanced_classes_are_those_of_scikit_learn(clips: int, features: int) -> None:
    features_ND, label_N = blobs(clips, features, 5)
    label_N = label_N.clamp_max(3)  # the last class has twice the clips of another
    counted = fit_logistic(features_ND, label_N, [0.01], 4, tolerance=1e-14)
    weight_N = class_weights(label_N)
    assert float(weight_N.mean()) == pytest.approx(1.0)
    fitted = fit_logistic(features_ND, label_N, [0.01], 4, clip_weight_N=weight_N, tolerance=1e-14)
    reference = LogisticRegression(C=0.01, tol=1e-10, solver="newton-cholesky", class_weight="balanced")
    reference.fit(features_ND.numpy(), label_N.numpy())
    np.testing.assert_allclose(fitted.weight_RDC[0].T, reference.coef_, atol=2e-6)
    np.testing.assert_allclose(
        torch.log_softmax(fitted(features_ND)[0], 1),
        reference.predict_log_proba(features_ND.numpy()),
        atol=5e-4,
    )
    rare = [int((logits(features_ND)[0].argmax(1) < 3).sum()) for logits in (counted, fitted)]
    assert rare[0] <= rare[1], "a class with more clips is not preferred any more"


def weak_directions(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and other clips of 20 classes, with more features than either needs: a weak penalty separates
    the classes, and its minimum is far from weights of zero."""
    generator = torch.Generator().manual_seed(seed)
    label_N = torch.randint(20, (400,), generator=generator)
    centres = 0.25 * torch.randn(20, 256, generator=generator)
    features_ND = centres[label_N] + torch.randn(400, 256, generator=generator)
    features_ND *= torch.logspace(0, -1.5, 256)
    return features_ND[:280], label_N[:280], features_ND[280:], label_N[280:]


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0, 100.0])
def test_scored_predictions_are_those_of_scikit_learn(penalty: float) -> None:
    """As they are scored: one value, chosen before, in single precision, at the probe's own tolerance."""
    same = []
    for seed in range(3):
        train_ND, label_N, rest_MD, _ = weak_directions(seed)
        found_M = linear(train_ND, label_N, rest_MD, [penalty], 20, True)[0].argmax(1)
        train_ND, rest_MD = standardised(train_ND.double(), rest_MD.double())
        reference = LogisticRegression(C=penalty, tol=1e-8, max_iter=20_000)
        expected = reference.fit(train_ND.numpy(), label_N.numpy()).predict(rest_MD.numpy())
        same.append(found_M.numpy() == expected)
    assert np.mean(same) > 0.99


@pytest.mark.parametrize("penalty", [1.0, 100.0])
def test_what_is_scored_is_what_was_chosen(penalty: float) -> None:
    train_ND, label_N, rest_MD, _ = weak_directions(0)
    values = PROBES["linear"].values
    path = linear(train_ND, label_N, rest_MD, [value for value in values if value <= penalty], 20, True)[-1]
    alone = linear(train_ND, label_N, rest_MD, [penalty], 20, True)[-1]
    assert float((path.argmax(1) == alone.argmax(1)).double().mean()) > 0.98


def test_one_layer_is_no_sum_of_layers() -> None:
    train_ND, label_N, rest_MD, truth_M = weak_directions(0)
    labels = torch.cat([label_N, truth_M])
    features_ND = torch.cat([train_ND, rest_MD])
    splits = ["train"] * 200 + ["valid"] * 80 + ["test"] * 120
    clips = [
        Clip(Path(f"{i}.wav"), (f"class {c:02d}",), split)
        for i, (c, split) in enumerate(zip(labels.tolist(), splits, strict=True))
    ]
    task = Task("made", tuple(clips), folds=False)
    scores = [
        run_probe({"only": lambda given=given: given}, task, PROBES["linear"]).score
        for given in (features_ND, features_ND[:, None])
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.009), "one clip of 120"


def test_the_path_ends_where_the_clips_are_separated() -> None:
    features_ND, label_N = blobs(60, 200, 4)
    penalties = [1e-3, 0.1, 1.0, 10.0]
    whole = fit_logistic(features_ND, label_N, penalties, 4)
    ended = fit_logistic(features_ND, label_N, penalties, 4, separated=0.05)
    losses = [float(torch.nn.functional.cross_entropy(logits, label_N)) for logits in whole(features_ND)]
    first = next(index for index, loss in enumerate(losses) if loss < 0.05)
    assert 0 < first < 3
    torch.testing.assert_close(ended.weight_RDC[: first + 1], whole.weight_RDC[: first + 1])
    assert (ended.weight_RDC[first + 1 :] == ended.weight_RDC[first]).all()


def test_several_labels_are_one_binary_fit_each() -> None:
    features_ND, label_N = blobs(120, 15, 3)
    target_NC = torch.stack([label_N == 0, label_N > 0, (label_N == 1) | (features_ND[:, 0] > 0)], 1).double()
    fitted = fit_logistic(features_ND, target_NC, [0.05], 3, tolerance=1e-14)
    for column in range(3):
        reference = LogisticRegression(C=0.05, tol=1e-10, solver="newton-cholesky")
        reference.fit(features_ND.numpy(), target_NC[:, column].numpy())
        np.testing.assert_allclose(fitted.weight_RDC[0, :, column], reference.coef_[0], atol=2e-6)


def test_single_precision_predicts_the_same() -> None:
    features_ND, label_N = blobs(300, 400, 5)
    train, rest = slice(0, 200), slice(200, 300)
    found = [
        linear(values[train], label_N[train], values[rest], (1e-4, 1e-2, 1.0), 5, True)
        for values in (features_ND, features_ND.float())
    ]
    torch.testing.assert_close(found[0], found[1].double(), atol=0.05, rtol=0)


def test_a_constant_feature_and_an_absent_class_do_no_harm() -> None:
    features_ND, label_N = blobs(60, 10, 3)
    features_ND[:, 4] = 7.0
    moved_MD = features_ND.clone()
    moved_MD[:, 4] = 8.0
    for probe in (linear, knn):
        scores = probe(features_ND, label_N, moved_MD, (1.0,), 4, True)
        assert scores.isfinite().all()
        assert (scores[0].argmax(1) == label_N).double().mean() > 0.9


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_are_those_of_scikit_learn(k: int) -> None:
    features_ND, label_N = blobs(200, 12, 4)
    train, rest = features_ND[:150], features_ND[150:]
    found = knn(train, label_N[:150], rest, (k,), 4, True)[0].argmax(1)
    train, rest = standardised(train, rest)
    reference = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: 2 - distance)
    expected = reference.fit(train.numpy(), label_N[:150].numpy()).predict(rest.numpy())
    assert found.tolist() == expected.tolist()


def folded_task(labels: Tensor, folds: int = 4) -> Task:
    clips = [Clip(Path(f"{i}.wav"), (f"class {c}",), str(i // 4 % folds)) for i, c in enumerate(labels)]
    return Task("made", tuple(clips), folds=True)


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_choices_do_not_see_the_test_split(protocol: str) -> None:
    """With the labels and features of fold 0 replaced, what is chosen for fold 0 stays as it was."""
    features_ND, label_N = blobs(96, 8, 4)
    features_ND = features_ND.float()
    probe = PROBES[protocol]
    outcome = run_probe({"only": lambda: features_ND}, folded_task(label_N), probe)
    test_N = torch.tensor([clip.split == "0" for clip in folded_task(label_N).clips])
    other_ND, other_N = features_ND.clone(), label_N.clone()
    other_ND[test_N] = 5 * torch.randn(int(test_N.sum()), 8, generator=torch.Generator().manual_seed(1))
    other_N[test_N] = other_N[test_N].flip(0)
    changed = run_probe({"only": lambda: other_ND}, folded_task(other_N), probe)
    assert outcome.choices[0] == changed.choices[0]
    assert outcome.splits[0].score > changed.splits[0].score
    assert outcome.score > 0.7
    described = describe(outcome.choices, folded_task(label_N).rounds(), probe)
    assert [choice["split"] for choice in described] == list("0123")


def test_the_better_representation_is_chosen() -> None:
    features_ND, label_N = blobs(120, 8, 3)
    noise_ND = torch.randn(120, 8, generator=torch.Generator().manual_seed(2))
    splits = ["train"] * 60 + ["valid"] * 30 + ["test"] * 30
    clips = [Clip(Path(f"{i}.wav"), (str(c),), splits[i]) for i, c in enumerate(label_N.tolist())]
    task = Task("made", tuple(clips), folds=False)
    choices = {"noise": lambda: noise_ND, "signal": features_ND.float}
    outcome = run_probe(choices, task, PROBES["linear"])
    assert [choice.representation for choice in outcome.choices] == ["signal"]
    assert outcome.score > 0.7


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 30), st.booleans())
def test_average_precision_is_that_of_scikit_learn(seed: int, clips: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    target = (rng.random((clips, 3)) < 0.4).astype(np.float32)
    target[0] = 1
    scores = rng.integers(0, 4, (clips, 3)) / 4 if ties else rng.random((clips, 3))
    times = rng.integers(0, 3, clips)
    times[0] = 1
    found = mean_average_precision(
        torch.from_numpy(scores),
        torch.from_numpy(target),
        torch.from_numpy(np.stack([times, np.ones(clips)])),
    )
    for value, weight in zip(found.tolist(), (times, None), strict=True):
        expected = [
            average_precision_score(target[:, c], scores[:, c], sample_weight=weight) for c in range(3)
        ]
        assert value == pytest.approx(np.mean(expected))


def scored_clips(hits: np.ndarray, groups: list[str]) -> Scored:
    scores_MC = torch.eye(2)[torch.from_numpy(hits.astype(int))]
    return Scored("test", scores_MC, torch.ones(len(hits), dtype=torch.long), tuple(groups))


def span(draws_S: Tensor) -> tuple[float, float]:
    """The interval of draws that there are."""
    found = interval(draws_S)
    assert found is not None
    return found


def test_intervals_are_those_of_the_binomial_and_widen_with_groups() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.7
    alone = bootstrap([scored_clips(hits, [""] * 400)])
    low, high = span(alone)
    rate = hits.mean()
    expected = 1.96 * np.sqrt(rate * (1 - rate) / 400)
    assert rate - low == pytest.approx(expected, rel=0.1)
    assert high - rate == pytest.approx(expected, rel=0.1)
    # Each group of four stands or falls together: a quarter of the clips' information.
    together = np.repeat(rng.random(100) < 0.7, 4)
    grouped = span(bootstrap([scored_clips(together, [str(i // 4) for i in range(400)])]))
    apart = span(bootstrap([scored_clips(together, [""] * 400)]))
    assert grouped[1] - grouped[0] == pytest.approx(2 * (apart[1] - apart[0]), rel=0.1)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(1)
    hits = rng.random(300) < 0.6
    better = hits.copy()
    better[np.flatnonzero(~hits)[:12]] = True
    draws = [bootstrap([scored_clips(h, [""] * 300)]) for h in (hits, better)]
    low, high = span(draws[1] - draws[0])
    assert 0 < low < 12 / 300 < high
    assert two_sided(draws[1] - draws[0]) < 0.01
    assert two_sided(draws[0] - draws[0]) == 1.0
    unpaired = span(draws[1])
    assert high - low < (unpaired[1] - unpaired[0]) / 2


def test_splits_of_one_group_are_drawn_themselves() -> None:
    """A recording a fold is usual. Within it nothing can be drawn: an interval of width 0 would be a lie."""
    rng = np.random.default_rng(2)
    rates = (0.2, 0.5, 0.6, 0.9)
    folds = [
        replace(scored_clips(rng.random(100) < rate, ["one"] * 100), split=str(number))
        for number, rate in enumerate(rates)
    ]
    fields, draws_S = summary([folds])
    low, high = fields["interval"]
    assert low < fields["score"] - 0.1 and high > fields["score"] + 0.1
    assert float(draws_S.std()) == pytest.approx(np.std(rates) / 2, rel=0.15), "of the mean of four"
    assert "over test splits, and groups" in fields["interval_method"]
    assert len(draws_S) == 10_000
    alone, none_S = summary([folds[:1]])
    assert alone["interval"] is None and len(none_S) == 0
    assert alone["interval_method"] == "none: all test clips are of one group"
    few, _ = summary([[replace(folds[0], groups=("a", "b") * 50)]])
    assert "(2 in the smallest: too few" in few["interval_method"]


def test_what_cannot_be_subtracted_is_not_compared() -> None:
    def result(protocol: str, metric: str, draws_S: Tensor) -> Result:
        record = Record("m", "m", "t", protocol, protocol, metric, 0.5)
        return Result(record, draws_S)

    draws_S = torch.rand(1_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = [
        result("linear", "accuracy", draws_S),
        result("knn", "accuracy", draws_S),
        result("hear", "accuracy", draws_S),
        result("verify", "EER", draws_S),
        result("events", "accuracy", draws_S[:10]),
    ]
    _, knn_result, hear, *others = compare_with(given, "linear", by="protocol")
    assert knn_result.record.baseline is not None and hear.record.baseline is not None
    assert knn_result.record.baseline.interval == (0, 0), "paired"
    low, high = hear.record.baseline.interval
    assert low < -0.5 and high > 0.5, "a toolkit's order of clips is its own"
    assert hear.record.baseline.method == "each protocol's own draws"
    assert all(other.record.baseline is None for other in others)
