"""The configuration of an encoder or a classifier in the transformers library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from ajepa.features import InputConfig, LogMelConfig
from ajepa.model.classifier import LabelSet
from ajepa.model.embedding import layers_text
from ajepa.model.head import HeadConfig
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.positions import TableConfig


class AjepaConfig(PretrainedConfig):
    """Front end, encoder, and how long audio is cut.

    Args:
        front_end, encoder: the settings of `LogMelConfig` and `EncoderConfig`; None for their defaults.
        chunk_seconds: longest part that is encoded at once.
        pooling: of a clip over time, "mean" or "mean+std".
        layers: blocks, from 1, whose outputs an embedding joins; none for the normed output of the last.
        recipe: name of the recipe, or of the official system, of the weights.
        head: of a classifier, the settings of `HeadConfig`; None for an encoder.
        longest_seconds: of a classifier, as of `AudioClassifier`.
        thresholds: of a classifier for several labels, as of `LabelSet`.
    """

    model_type = "ajepa"

    def __init__(
        self,
        front_end: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
        chunk_seconds: float = 10.24,
        pooling: str = "mean",
        recipe: str = "",
        head: dict[str, Any] | None = None,
        longest_seconds: float = 0.0,
        thresholds: Sequence[float] = (),
        layers: Sequence[int] = (),
        **options: Any,
    ) -> None:
        self.front_end = dict(front_end or {})
        self.encoder = dict(encoder or {})
        self.chunk_seconds = chunk_seconds
        self.pooling, self.layers = pooling, list(layers)
        self.recipe = recipe
        self.head = None if head is None else dict(head)
        self.longest_seconds = longest_seconds
        self.thresholds = list(thresholds)
        network = self.encoder_config()
        width, depth, heads = network.dimensions
        # What other code reads of every configuration.
        self.hidden_size = network.mels // network.patch[1] * width * max(1, len(self.layers))
        self.num_hidden_layers, self.num_attention_heads = depth, heads
        self.sampling_rate = self.front_end_config().sample_rate
        for derived in ("hidden_size", "num_hidden_layers", "num_attention_heads", "sampling_rate"):
            options.pop(derived, None)
        super().__init__(**options)

    def front_end_config(self) -> LogMelConfig:
        """The settings of the spectrogram."""
        return LogMelConfig(**self.front_end)

    def encoder_config(self) -> EncoderConfig:
        """The sizes of the encoder."""
        given = dict(self.encoder)
        if given.get("table"):
            given["table"] = TableConfig(**given["table"])
        if given.get("inputs"):
            given["inputs"] = InputConfig(**given["inputs"])
        if "patch" in given:
            given["patch"] = tuple(given["patch"])
        return EncoderConfig(**given)

    def head_config(self) -> HeadConfig:
        """The settings of a classifier's head; for an encoder, of a new one on the clip's embedding."""
        given = self.head or {
            "values": self.hidden_size * (2 if self.pooling == "mean+std" else 1),
            "layer": layers_text(self.layers),
            "time": self.pooling,
            "norm": True,  # blocks in the middle are not normed yet
        }
        return HeadConfig(**{**given, "labels": self.num_labels})

    def label_set(self) -> LabelSet:
        """The labels of a classifier, from `id2label` and `problem_type`."""
        numbered: dict[Any, str] = dict(self.id2label or {})
        names = tuple(numbered[number] for number in range(len(numbered)))
        several = self.problem_type == "multi_label_classification"
        return LabelSet(
            names, bool(self.thresholds), "sigmoid" if several else "softmax", tuple(self.thresholds)
        )
