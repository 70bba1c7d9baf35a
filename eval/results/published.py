"""Published scores, to list next to ours where the task is the same and the protocol is of the same kind.

Linear: a frozen encoder and a linear layer, the protocol of EVAR (github.com/nttcslab/eval-audio-repr, its
README): features standardised on the training split, early stopping on validation. Ours is a convex fit with
its penalty chosen on validation.

Fine-tuned: table 1 of A-JEPA (arXiv 2311.15830), all weights trained, ViT-B or alike. wav2vec 2.0 and HuBERT
are left out: their scores there are of linear probes. Only complete data sets are comparable.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A published score, 0 to 1."""

    model: str
    score: float
    source: str


LINEAR_TASKS = ("esc50", "speech_commands_v2", "voxceleb1")
LINEAR = {
    "M2D": (0.913, 0.960, 0.734),
    "ATST-Frame": (0.909, 0.949, 0.774),
    "Dasheng 1.2B": (0.888, 0.976, 0.778),
    "BEATs iter3": (0.869, 0.894, 0.414),
    "EAT-B": (0.856, 0.815, 0.396),
    "wav2vec 2.0 (context)": (0.576, 0.966, 0.409),
}
FINETUNED_TASKS = (
    "audioset_20k",
    "audioset_2m",
    "esc50",
    "speech_commands_v2",
    "speech_commands_v1",
    "voxceleb1",
)
# Pre-trained on, then mAP or accuracy in percent on the tasks of `FINETUNED_TASKS`; None: not reported.
FINETUNED: dict[str, tuple[str, tuple[float | None, ...]]] = {
    "ERANN": ("nothing", (None, 45.0, 89.2, None, None, None)),
    "PANN": ("nothing", (27.8, 43.1, 83.3, 61.8, None, None)),
    "Conformer": ("AudioSet", (None, 41.1, 88.0, None, None, None)),
    "SS-AST": ("AudioSet and LibriSpeech", (31.0, None, 88.8, 98.0, 96.0, 64.3)),
    "MaskSpec": ("AudioSet", (32.3, 47.1, 89.6, 97.7, None, None)),
    "MAE-AST": ("AudioSet and LibriSpeech", (30.6, None, 90.0, 97.9, 95.8, 63.3)),
    "Audio-MAE": ("AudioSet", (37.0, 47.3, 94.1, 98.3, 96.9, 94.8)),
    "A-JEPA": ("AudioSet", (38.4, 48.6, 96.3, 98.5, 97.7, 95.8)),
    "PSLA": ("ImageNet, labels", (31.9, 44.4, None, 96.3, None, None)),
    "AST": ("ImageNet, labels", (34.7, 45.9, 88.7, 98.1, 95.5, 41.1)),
    "MBT": ("ImageNet-21K, labels", (31.3, 44.3, None, None, None, None)),
    "HTS-AT": ("ImageNet, labels", (None, 47.1, 97.0, 98.0, None, None)),
    "PaSST": ("ImageNet, labels", (None, 47.1, 96.8, None, None, None)),
}


def published(task: str, protocol: str) -> list[Published]:
    """Published scores for a task, by the name of its complete data set, and a kind of protocol."""
    if protocol == "linear" and task in LINEAR_TASKS:
        place = LINEAR_TASKS.index(task)
        return [Published(model, scores[place], "EVAR's README") for model, scores in LINEAR.items()]
    if protocol == "finetune" and task in FINETUNED_TASKS:
        place = FINETUNED_TASKS.index(task)
        return [
            Published(model, round(score / 100, 3), f"A-JEPA, table 1; pre-trained on {audio}")
            for model, (audio, scores) in FINETUNED.items()
            if (score := scores[place]) is not None
        ]
    return []
