"""Classifiers from what was fitted: a linear probe's weights, or a network that was fine-tuned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch

from ajepa.eval.finetune.classifier import Classifier
from ajepa.eval.finetune.foreign import ForeignClassifier
from ajepa.eval.models.open import EncoderModel, Named
from ajepa.eval.probe.embeddings import parts_of
from ajepa.eval.probe.final import FinalProbe
from ajepa.eval.results.record import Record
from ajepa.eval.results.scores import Scored
from ajepa.eval.tasks import Task
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier, LabelSet
from ajepa.model.embedding import LAST
from ajepa.model.fingerprint import fingerprint
from ajepa.model.head import WEIGHTED, Head, HeadConfig

from .folder import ForeignAudioClassifier, Reference
from .measures import UNDECIDED, best_thresholds, macro_f1, measured

Activation = Literal["softmax", "sigmoid"]


def of_probe(
    model: Named, task: Task, record: Record, final: FinalProbe, tested: Sequence[Scored], shape: torch.Size
) -> AudioClassifier:
    """The classifier of a linear probe.

    Args:
        model: in single precision.
        tested: the test splits as they were scored.
        shape: of the embeddings [N, L, X, F, D].
    """
    weights = final.weights
    values, labels = weights.weight_VY.shape
    layer, pool, time = parts_of(final.choice.representation, shape)
    if layer == LAST and isinstance(model.module, EncoderModel):
        layer = model.module.output
    layers = shape[1] if layer == WEIGHTED else 0
    head = Head(HeadConfig(labels, values, layer, layers, pool, time))
    with torch.no_grad():
        head.linear.weight.copy_(weights.weight_VY.T)
        head.linear.bias.copy_(weights.bias_Y)
        head.mean_V.copy_(weights.mean_V)
        head.scale_V.copy_(weights.scale_V)
        if head.mix_LV is not None and weights.mix_LV is not None:
            head.mix_LV.copy_(weights.mix_LV)
    label_set = _label_set(task, "sigmoid" if task.multilabel else "softmax", final.held_out)
    module = model.module
    classifier: AudioClassifier
    if isinstance(module, EncoderModel):
        classifier = AudioClassifier(module.encoder, head, label_set)
    else:
        reference = Reference(model.source, fingerprint(module))
        classifier = ForeignAudioClassifier(module, head, label_set, reference)
    how = ["with the settings that most of them chose"] if task.folds else []
    classifier.about = _about(classifier, task, record, final.splits, final.held_out, tested, how)
    return classifier.eval()


def of_network(
    network: Classifier | ForeignClassifier,
    splits: Collection[str],
    held_out: Scored | None,
    tested: Sequence[Scored],
    *,
    model: Named,
    task: Task,
    record: Record,
) -> AudioClassifier:
    """The classifier of a fine-tuned network; the first arguments are those of `finetune.run.Kept`.

    Args:
        model: what it was fine-tuned from.
    """
    config = network.config
    labels, values = network.head.weight.shape
    after = isinstance(network, Classifier) and config.norm == "after"
    head = Head(
        HeadConfig(
            labels,
            values,
            layer=str(len(network.encoder.blocks)) if after else "last",
            pool="mean" if isinstance(network, Classifier) else "concat",
            norm=network.norm is not None,
        )
    )
    head.linear.load_state_dict(network.head.state_dict())
    if head.norm is not None and network.norm is not None:
        head.norm.load_state_dict(network.norm.state_dict())
    activation: Activation = "sigmoid" if config.loss == "bce" else "softmax"
    label_set = _label_set(task, activation, held_out)
    classifier: AudioClassifier
    if isinstance(network, Classifier):
        assert isinstance(model.module, EncoderModel)
        source = model.module.encoder
        hop = source.hop_seconds
        encoder = AudioEncoder(
            network.features.config, network.encoder.config, network.most_steps * hop, source.source
        )
        encoder.features, encoder.encoder = network.features, network.encoder
        classifier = AudioClassifier(encoder, head, label_set, config.seconds)
    else:
        reference = Reference(model.source, fingerprint(model.module), trained=True)
        classifier = ForeignAudioClassifier(network.encoder, head, label_set, reference, config.seconds)
    how = (
        [f"of seed {record.seeds[0]}, which scored {record.by_seed[0]:.3f}"] if len(record.seeds) > 1 else []
    )
    classifier.about = _about(classifier, task, record, splits, held_out, tested, how)
    return classifier.cpu().eval()


def _label_set(task: Task, activation: Activation, held_out: Scored | None) -> LabelSet:
    thresholds: tuple[float, ...] = ()
    if task.multilabel:
        thresholds = (UNDECIDED,) * len(task.classes)
        if held_out is not None:
            thresholds = best_thresholds(held_out.scores_MC.double().sigmoid(), held_out.target)
    return LabelSet(task.classes, task.multilabel, activation, thresholds)


def _about(
    classifier: AudioClassifier,
    task: Task,
    record: Record,
    splits: Collection[str],
    held_out: Scored | None,
    tested: Sequence[Scored],
    how: Sequence[str],
) -> dict[str, object]:
    """What the folder says of its making."""
    scores = torch.cat([split.scores_MC for split in tested])
    found = measured(classifier.label_set, scores, torch.cat([split.target for split in tested]))
    if task.multilabel and held_out is not None:
        probability = held_out.scores_MC.double().sigmoid()
        found["f1_held_out"] = macro_f1(probability, held_out.target, classifier.label_set.thresholds)
    return {
        "training": {
            "splits": sorted(splits),
            "clips": sum(task.counts[split] for split in splits),
            "folds": len(task.counts) if task.folds else 0,
            "thresholds": "" if not task.multilabel else held_out.split if held_out else "none",
            "how": list(how),
        },
        "measured": found,
        "record": record.as_json(),
    }
