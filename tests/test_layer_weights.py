"""The learned weighted sum of layers: it finds what is informative, at a minimum, on training clips alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ajepa.data.synthetic import write_esc50
from ajepa.eval.models.open import EncoderModel, Named
from ajepa.eval.probe import layer_weights
from ajepa.eval.probe.layer_weights import Problem, learn_mixes, nearest_penalty
from ajepa.eval.probe.probes import PENALTIES, PROBES, linear
from ajepa.eval.probe.selection import run_probe
from ajepa.eval.protocols.base import ProtocolError
from ajepa.eval.protocols.probing import Probing
from ajepa.eval.tasks import Clip, Task, open_task
from ajepa.features import LogMelConfig
from ajepa.model import AudioEncoder
from tests.conftest import TINY
from tests.probing import probed


def layered(
    clips: int, width: int, informative: int, layers: int = 4, classes: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise in all layers, as loud in each, but for one that knows the class: [N, L, D] and [N]."""
    generator = torch.Generator().manual_seed(seed)
    label_N = torch.arange(clips) % classes
    centres = torch.randn(classes, width, generator=generator)
    features_NLD = torch.randn(clips, layers, width, generator=generator)
    features_NLD[:, informative] = centres[label_N] + 0.8 * features_NLD[:, informative]
    return features_NLD * torch.tensor([1.0, 10.0, 0.1, 3.0])[:layers, None], label_N


def task_of(label_N: Tensor) -> Task:
    splits = ("train", "train", "valid", "test")
    clips = [Clip(Path(f"{i}.wav"), (f"{c}",), splits[i // 5 % 4]) for i, c in enumerate(label_N.tolist())]
    return Task("made", tuple(clips), folds=False)


@pytest.mark.parametrize("width", [16, 400], ids=["narrow", "wider than the axes and the clips"])
@pytest.mark.parametrize("informative", [0, 3])
def test_the_informative_layer_is_found(width: int, informative: int) -> None:
    features_NLD, label_N = layered(200, width, informative)
    for mix in learn_mixes(features_NLD, label_N, layer_weights.PENALTIES, 5).values():
        assert int(mix.weight_L.argmax()) == informative
        assert float(mix.weight_L.sum()) == pytest.approx(1.0)
    weak = learn_mixes(features_NLD, label_N, [1e-1], 5)[1e-1]
    assert weak.weight_L[informative] > 0.6


def test_layers_that_are_alike_share_the_weight() -> None:
    features_NLD, label_N = layered(200, 12, 1, layers=2)
    features_NLD[:, 0] = 7 * features_NLD[:, 1]
    mix = learn_mixes(features_NLD, label_N, [0.1], 5)[0.1]
    torch.testing.assert_close(mix.weight_L, torch.tensor([0.5, 0.5]), atol=1e-3, rtol=0)
    features_ND = features_NLD[:, 1]
    ours, one = (
        linear(values, label_N, values, [0.1], 5, True) for values in (mix(features_NLD), features_ND)
    )
    torch.testing.assert_close(ours, one, atol=1e-2, rtol=0)  # the same features, the same probe


@pytest.mark.parametrize("several", [False, True])
def test_the_weights_are_at_a_minimum(several: bool) -> None:
    """No step along the gradient or along any weight goes further down; and autograd's is the true one."""
    features_NLD, label_N = layered(120, 6, 2)
    features_NLD = features_NLD.double()
    truth_NC = functional.one_hot(label_N, 5).double()
    target = truth_NC if several else label_N
    weight_N = torch.linspace(0.5, 1.5, 120, dtype=torch.double)
    mix = learn_mixes(features_NLD, target, [0.1], 5, weight_N)[0.1]
    z_LNK = ((features_NLD - features_NLD.mean(0)) / mix.scale_LD).transpose(0, 1)
    gram_LL = torch.einsum("lnk,mnk->lm", z_LNK, z_LNK) / (120 * 6)
    problem = Problem(z_LNK, truth_NC, weight_N, gram_LL, 0.1, several)

    def least(logit_L: Tensor) -> float:
        """The minimum over the head with these weights."""
        head_KC, bias_C = (torch.zeros(s, dtype=torch.double).requires_grad_() for s in ((6, 5), (5,)))
        optimiser = torch.optim.LBFGS(
            [head_KC, bias_C], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = problem(logit_L, head_KC, bias_C)
            loss.backward()
            return loss

        optimiser.step(closure)
        return float(closure().detach())

    found_L = mix.weight_L.log()
    lowest = least(found_L)
    for layer in range(4):
        for step in (-0.1, 0.1):
            moved_L = found_L.clone()
            moved_L[layer] += step
            assert least(moved_L) > lowest - 1e-6
    assert least(torch.zeros(4, dtype=torch.double)) > lowest + 1e-3, "equal weights are worse"
    arguments = (found_L, torch.randn(6, 5, dtype=torch.double), torch.randn(5, dtype=torch.double))
    assert torch.autograd.gradcheck(problem, tuple(value.requires_grad_() for value in arguments))


def test_a_layer_is_not_preferred_for_its_scale() -> None:
    """Layers that know different things are worth most together, under a strong penalty too."""
    generator = torch.Generator().manual_seed(0)
    label_N = torch.arange(300) % 5
    centres = torch.randn(2, 5, 8, generator=generator)
    noise_NLD = torch.randn(300, 2, 8, generator=generator)
    features_NLD = centres[:, label_N].transpose(0, 1) + 2 * noise_NLD
    for mix in learn_mixes(features_NLD, label_N, layer_weights.PENALTIES, 5).values():
        assert 0.3 < float(mix.weight_L[0]) < 0.7


def test_it_is_deterministic() -> None:
    features_NLD, label_N = layered(100, 300, 1)
    one, two = (learn_mixes(features_NLD, label_N, [0.1], 5)[0.1].weight_L for _ in range(2))
    torch.manual_seed(99)
    assert torch.equal(one, two)
    assert torch.equal(one, learn_mixes(features_NLD, label_N, [0.1], 5)[0.1].weight_L)


def test_every_penalty_of_the_head_has_weights() -> None:
    near = [nearest_penalty(value) for value in PENALTIES]
    assert near == sorted(near) and set(near) == set(layer_weights.PENALTIES)


def test_weights_and_choices_see_training_and_validation_alone() -> None:
    features_NLD, label_N = layered(200, 10, 2)
    task = task_of(label_N)
    outcome = run_probe({"weighted": lambda: features_NLD}, task, PROBES["linear"])
    assert outcome.score > 0.8
    (weights,) = outcome.layer_weights
    assert max(range(4), key=weights.__getitem__) == 2
    last = run_probe({"last": lambda: features_NLD[:, -1]}, task, PROBES["linear"])
    assert last.score < 0.4 and last.layer_weights == [[]]
    test_N = torch.tensor([clip.split == "test" for clip in task.clips])
    changed_NLD = features_NLD.clone()
    changed_NLD[test_N] = 5 * torch.randn(int(test_N.sum()), 4, 10)
    changed = run_probe({"weighted": lambda: changed_NLD}, task, PROBES["linear"])
    assert changed.layer_weights == outcome.layer_weights and changed.choices == outcome.choices
    train_N = torch.tensor([clip.split == "train" for clip in task.clips])
    mixes = learn_mixes(features_NLD[train_N], label_N[train_N], layer_weights.PENALTIES, 5)
    expected = mixes[nearest_penalty(outcome.choices[0].value)].weight_L
    torch.testing.assert_close(torch.tensor(weights), expected)


def test_records_have_the_weights(tmp_path: Path) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=10, classes=3, seconds=0.3)
    torch.manual_seed(0)
    tiny = Named("tiny", "", EncoderModel(AudioEncoder(LogMelConfig(), TINY, 1.28)).eval())
    task = open_task("esc50", tmp_path / "esc50")
    how, cache = Probing(layer="weighted", pool="best"), tmp_path / "cache"
    (record,) = probed([tiny], task, how, cache)
    assert record.layer == "weighted" and record.details["features"] == 8 * 32
    for choice in record.chosen:
        assert choice["representation"] in {"weighted concat mean", "weighted mean mean"}
        assert len(choice["layer_weights"]) == 3 and sum(choice["layer_weights"]) == pytest.approx(1)
    # The last layer is read from the file that has them all.
    (last,) = probed([tiny], task, replace(how, layer="last", pool="concat"), cache)
    assert last.details["embeddings_cached"] and len(list(cache.glob("*.safetensors"))) == 1
    (alone,) = probed([tiny], task, Probing(layer="last", pool="concat"), tmp_path / "other")
    assert alone.score == last.score and not alone.details["embeddings_cached"]
    with pytest.raises(ProtocolError, match="not with knn"):
        Probing("knn", "weighted")
