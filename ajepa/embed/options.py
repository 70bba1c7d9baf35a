"""What a job computes: the choices that decide its results, checked and stored with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ajepa.errors import AjepaError

What = Literal["clip", "frames", "patches", "layers"]
Number = Literal["float32", "float16"]


class EmbedError(AjepaError, ValueError):
    """A job cannot be run as asked, or its folder holds another one; the message says what to do."""


@dataclass(frozen=True)
class Wanted:
    """What is computed for each clip.

    Attributes:
        what: "clip": one vector, the statistics over time that the model's `pooling` says; "frames": one
            vector a time step; "patches": the same with frequency patches apart; "layers": like "clip", of
            every block's output and the normed last one.
        window: seconds of audio that are embedded as a clip of their own; 0 for the whole of each clip.
        hop: seconds from one window to the next; 0: windows follow each other. The last window ends with
            the clip; a clip shorter than a window is one.
        numbers: how values are stored.
    """

    what: What = "clip"
    window: float = 0.0
    hop: float = 0.0
    numbers: Number = "float32"

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise EmbedError(f"--what is {self.what!r}; choose {', '.join(get_args(What))}")
        if self.numbers not in get_args(Number):
            raise EmbedError(f"--numbers is {self.numbers!r}; choose {' or '.join(get_args(Number))}")
        for name in ("window", "hop"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise EmbedError(f"--{name} is {value}; give seconds above 0")
        if self.hop and not self.window:
            raise EmbedError("--hop needs --window, the length of each window in seconds")

    @property
    def step(self) -> float:
        """Seconds from one window to the next."""
        return self.hop or self.window
