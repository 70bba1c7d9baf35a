"""Protocols: the ways of scoring a model on a task, with one interface."""

from __future__ import annotations

from ajepa.eval.plugins import Registry

from .base import Bench, Conditions, Protocol, ProtocolError, Seeded, TaskEntry
from .events import Events
from .finetuning import Finetuning
from .hear import Hear
from .probing import Probing
from .s3prl import S3prl
from .verify import Verify
from .xares import Xares

__all__ = ["OURS", "PROTOCOLS", "Bench", "Conditions", "Protocol", "ProtocolError", "Seeded", "TaskEntry"]

OURS: dict[str, type[Protocol]] = {
    "linear": Probing,
    "knn": Probing,
    "finetune": Finetuning,
    "verify": Verify,
    "events": Events,
    "hear": Hear,
    "s3prl": S3prl,
    "xares": Xares,
}
PROTOCOLS = Registry("ajepa.protocols", OURS)
