"""The clips of an audit, and what is found about them."""

from __future__ import annotations

from typing import NamedTuple

from ajepa.audio import AudioSource
from ajepa.embed.inputs import Inputs, Item


class AuditClip(NamedTuple):
    """A clip to look at.

    Attributes:
        path: its file as users know it.
        audio: where its bytes are.
        start, seconds: the part of the file; `seconds` None is the rest of it.
        label: its only label; empty if it has none or several.
        split: train, valid, test or a fold; empty if there are none.
        group: what it shares with other clips (recording, speaker); empty: nothing.
    """

    path: str
    audio: AudioSource
    start: float = 0.0
    seconds: float | None = None
    label: str = ""
    split: str = ""
    group: str = ""


class Finding(NamedTuple):
    """Something that looks wrong.

    Attributes:
        kind: a key of KINDS.
        clip: number of the clip.
        other: number of the clip that it is a copy of; None for the other kinds.
        value: how bad it is, in the kind's own unit; the worst first where they are listed.
        note: a few words, with the number and its unit.
        leak: a copy in another split.
        suggestion: a label that looks right.
    """

    kind: str
    clip: int
    value: float
    note: str
    other: int | None = None
    leak: bool = False
    suggestion: str = ""


# In the order in which they are reported: title and explanation.
KINDS = {
    "unreadable": ("Unreadable", "They cannot be decoded."),
    "truncated": (
        "Truncated",
        "They end before their header or label says, or are damaged on the way.",
    ),
    "silent": ("Silent", "Nothing is above -60 dB of full scale."),
    "mostly silent": ("Mostly silent", "At least half of the samples are digital silence."),
    "short": ("Very short", "Shorter than a tenth of a second."),
    "clipped": ("Clipped", "Waves are cut off at the top, or would be when played."),
    "dc offset": ("DC offset", "The mean of the samples is far from 0."),
    "copy": ("Copies", "The same samples, under another name or in another lossless format."),
    "near copy": (
        "Near copies",
        "The same recording at another level, in another format, with noise, shifted or cut.",
    ),
    "label": (
        "Labels that look wrong",
        "The most similar clips of other groups have another label, and a classifier trained on other groups "
        "agrees with them. Listen before you change anything: hard clips look like this too.",
    ),
}


def clips_of(inputs: Inputs) -> list[AuditClip]:
    """The clips of folders, files, manifests and shards; a clip that is named twice counts once."""
    items: dict[str, Item] = {}
    for item in inputs:
        items.setdefault(item.key, item)
    return [
        AuditClip(item.name, item.clip.audio, item.clip.start, item.clip.seconds) for item in items.values()
    ]
