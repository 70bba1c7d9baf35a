"""An encoder, and a classifier, as models of the transformers library.

Their weights have the names of `ajepa export`, and their outputs are those of `ajepa.load_model` and
`ajepa.load_classifier`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from ajepa.features import LogMel
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier
from ajepa.model.head import Head

from .configuration_ajepa import AjepaConfig


@dataclass
class AjepaOutput(ModelOutput):
    """The outputs of a batch of B clips, of at most T time steps; X is `config.hidden_size`.

    Attributes:
        last_hidden_state: the frequency patches of each time step side by side, [B, T, X], of the last layer
            or of those that `config.layers` joins; zero after a clip's end.
        pooler_output: one vector a clip over its own time, [B, X], or [B, 2 X] for "mean+std".
        frame_lengths: time steps of each clip, [B].
        hidden_states: every block's output, each as wide as one layer, on request.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    frame_lengths: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class AjepaModel(PreTrainedModel):
    """Front end and encoder; see `AjepaConfig`.

    Attributes:
        audio: both as the encoder that `ajepa.load_model` returns.
    """

    config_class = AjepaConfig
    base_model_prefix = "ajepa"
    main_input_name = "input_values"
    input_modalities = "audio"
    audio: AudioEncoder

    def __init__(self, config: AjepaConfig) -> None:
        super().__init__(config)
        audio = AudioEncoder(config.front_end_config(), config.encoder_config(), config.chunk_seconds)
        audio.pooling = config.pooling  # type: ignore[assignment]
        audio.embedding_layers = tuple(config.layers)
        self.features, self.encoder = audio.features, audio.encoder
        object.__setattr__(self, "audio", audio)  # not a module of its own: its parts are above
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The parts draw their own initial weights."""

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """As of every model. The spectrogram, made while the library's default precision was that of the
        weights, is made again in single precision."""
        report = bool(options.pop("output_loading_info", False))
        both: Any = super().from_pretrained(*arguments, output_loading_info=True, **options)
        model, info = both
        model.features = LogMel(model.config.front_end_config()).to(model.device)
        model.audio.features = model.features
        # Of another shape: names, or since transformers 5 names with both shapes.
        other = {name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]}
        model._draw({*info["missing_keys"], *other})
        return (model, info) if report else model

    def _draw(self, names: set[str]) -> None:
        """Draw the initial weights of what a file did not have."""

    def save_pretrained(self, save_directory: Any, *arguments: Any, **options: Any) -> None:
        """As of every model. Where ajepa is installed, the folder gets all that `ajepa export` writes but the
        card: code, feature extractor, and a header that `ajepa.load_model` reads."""
        super().save_pretrained(save_directory, *arguments, **options)
        if __name__.startswith("ajepa."):
            importlib.import_module("ajepa.hf.folder").complete(self, save_directory)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> AjepaOutput | tuple[Tensor, ...]:
        """Encode waveforms [B, samples]; each clip gets the same outputs alone and in any batch.

        Args:
            attention_mask: 1 for a clip's own samples, which come first; None if all are.
        """
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        lengths_B = _lengths(attention_mask)
        found = self.audio(input_values, lengths_B, layers=output_hidden_states)
        layers = tuple(layer.flatten(2) for layer in found.layers) if output_hidden_states else None
        output = AjepaOutput(found.frames, found.clip, found.lengths, layers)
        return output.to_tuple() if return_dict is False else output


class AjepaForAudioClassification(AjepaModel):
    """Front end, encoder and the head of a classifier, for `pipeline("audio-classification")`.

    An encoder's weights get a new head for `config.num_labels` labels, to be fine-tuned. So do those of a
    classifier with another number of labels; `from_pretrained` then needs `ignore_mismatched_sizes=True`.

    Attributes:
        classifier: all three as the classifier that `ajepa.load_classifier` returns.
    """

    classifier: AudioClassifier

    def __init__(self, config: AjepaConfig) -> None:
        super().__init__(config)
        self.head = Head(config.head_config())
        classifier = AudioClassifier(self.audio, self.head, config.label_set(), config.longest_seconds)
        object.__setattr__(self, "classifier", classifier)  # its parts are this module's

    def _draw(self, names: set[str]) -> None:
        if "head.mean_V" in names:
            self.head.reset_parameters()
        elif "head.linear.weight" in names:
            self.head.linear.reset_parameters()

    def forward(  # type: ignore[override]
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Logits [B, labels] of waveforms [B, samples]; each clip has the same alone and in any batch.

        Args:
            attention_mask: 1 for a clip's own samples, which come first; None if all are.
            labels: numbers [B], or 0 and 1 [B, labels] for several labels; with them there is a `loss`.
        """
        lengths_B = _lengths(attention_mask)
        logits = self.classifier(input_values, lengths_B)
        loss = None
        if labels is not None and labels.ndim == 1:
            loss = nn.functional.cross_entropy(logits, labels)
        elif labels is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


def _lengths(mask_BS: Tensor | None) -> Tensor | None:
    """Samples of each clip. Raises ValueError unless they come before the padding."""
    if mask_BS is None:
        return None
    if bool((mask_BS[:, 1:] > mask_BS[:, :-1]).any()):
        raise ValueError("attention_mask: a clip's own samples must come first; pad on the right")
    return mask_BS.sum(1)
