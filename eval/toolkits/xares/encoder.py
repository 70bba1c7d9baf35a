"""Encoders for X-ARES 0.1.3 (arXiv 2505.16369): one class for each checkpoint.

    python -m ajepa.eval.xares runs/first            # writes ajepa_first_3f2a91c0.py
    python -m xares.run --max-jobs 0 ajepa_first_3f2a91c0.py tasks/esc50_task.py

X-ARES makes an encoder from a file with one class, without arguments, and keeps embeddings and scores under
the class's name alone: two checkpoints with the same name would share one score. A file written here has the
checkpoint's fingerprint in its name, and its class refuses other weights.

X-ARES batches clips of different lengths, pads the shorter ones with zeros and does not give their lengths.
The padding is therefore encoded as audio and its frames count in X-ARES's mean over time, for every encoder
alike: a clip's score depends on the other clips of its batch. We do not guess lengths from trailing zeros,
because recordings have those too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ajepa import files
from ajepa.errors import AjepaError
from ajepa.eval.models.open import open_frames
from ajepa.eval.models.text import absolute, default_name
from ajepa.model.fingerprint import fingerprint

FREQUENCIES = ("concatenate", "average")


class XaresError(AjepaError, ValueError):
    """An encoder for X-ARES cannot be made as asked; the message says what to change."""


class XaresEncoder(nn.Module):
    """An encoder as X-ARES calls it.

    Args:
        source: what `ajepa evaluate --model` takes.
        frequency: "concatenate" joins the F frequency patches of a time step (F * D features); "average"
            averages them (D).
        weights: the fingerprint that the weights must have; None accepts any.

    Attributes:
        sampling_rate: Hz.
        output_dim: features per frame.
        hop_size_in_ms: time between two frames.

    Raises:
        AjepaError: as `ajepa.eval.models.open.open_source`.
        XaresError: the weights have another fingerprint, or `frequency` is unknown.
    """

    def __init__(self, source: str, frequency: str = "concatenate", weights: str | None = None) -> None:
        super().__init__()
        if frequency not in FREQUENCIES:
            raise XaresError(f"frequency is {frequency!r}; choose {' or '.join(FREQUENCIES)}")
        self.encoder = open_frames(source)
        if weights is not None and (found := fingerprint(self.encoder)) != weights:
            raise XaresError(
                f"{source}: its fingerprint is {found}, but {type(self).__name__} was written for {weights}; "
                f"write its file again with `python -m ajepa.eval.xares {source}`"
            )
        self.frequency = frequency
        self.sampling_rate = self.encoder.sample_rate
        self.hop_size_in_ms = 1000 * self.encoder.hop_seconds
        with torch.no_grad():
            self.output_dim = self(torch.zeros(1, self.sampling_rate)).shape[-1]

    def forward(self, audio: Tensor) -> Tensor:
        """Clips [B, S], or one [S], S at least 1, to frames [B, T, X], float32; all S samples count."""
        audio_BS = audio.to(self.encoder.device)
        audio_BS = audio_BS[None] if audio_BS.ndim == 1 else audio_BS
        found = self.encoder.frames(audio_BS, [audio_BS.shape[1]] * len(audio_BS), False)
        patches_BTFD = found.layers[-1].float()
        return patches_BTFD.mean(2) if self.frequency == "average" else patches_BTFD.flatten(2)


def encoder_class(
    name: str, source: str, frequency: str = "concatenate", weights: str | None = None
) -> type[XaresEncoder]:
    """An encoder class for X-ARES, called `name`, which ends in `Encoder`; it takes no arguments.

    X-ARES keeps results under the name. The other arguments are those of `XaresEncoder`. Raises XaresError
    for a name of another form.
    """
    if not (name.isidentifier() and name.endswith("Encoder")):
        raise XaresError(f"{name!r}: X-ARES needs a Python name that ends in Encoder; rename it")

    def __init__(self: XaresEncoder) -> None:  # noqa: N807
        XaresEncoder.__init__(self, source, frequency, weights)

    return type(name, (XaresEncoder,), {"__init__": __init__, "__doc__": f"{source}, for X-ARES."})


def write_encoder(
    source: str | Path, folder: str | Path, *, name: str | None = None, frequency: str = "concatenate"
) -> tuple[Path, str]:
    """Write an encoder file for X-ARES. The file's name and the class's include the weights' fingerprint.

    Args:
        source: what `ajepa evaluate --model` takes.
        folder: where the file is written.
        name: prefix of the file's name; by default the source's name.
        frequency: as for `XaresEncoder`.

    Returns the file and the name of the class in it. Raises the errors of `XaresEncoder`.
    """
    place = absolute(str(source))
    weights = fingerprint(XaresEncoder(place, frequency).encoder)
    slug = re.sub(r"[^a-z0-9]+", "_", (name or default_name(str(source))).lower()).strip("_")
    slug += f"_{weights[:8]}" + ("_average" if frequency == "average" else "")
    class_name = "Ajepa" + "".join(part.capitalize() for part in slug.split("_")) + "Encoder"
    given = ", ".join(repr(value) for value in (class_name, place, frequency, weights))
    file = Path(folder) / f"ajepa_{slug}.py"
    files.write(
        file,
        f"# {place!r} for X-ARES, written by `python -m ajepa.eval.xares`.\n"
        "from ajepa.eval.xares import encoder_class\n\n"
        f"{class_name} = encoder_class({given})\n",
    )
    return file, class_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an encoder's file; returns the exit status, 2 for wrong usage or bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m ajepa.eval.xares", description="Write an X-ARES encoder."
    )
    parser.add_argument("source", help="what `ajepa evaluate --model` takes")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the file; default: here")
    parser.add_argument("--name", help="what its name begins with; default: the source's name")
    parser.add_argument("--frequency", choices=FREQUENCIES, default="concatenate")
    options = parser.parse_args(arguments)
    try:
        file, _ = write_encoder(options.source, options.out, name=options.name, frequency=options.frequency)
    except AjepaError as error:
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    print(file)
    return 0
