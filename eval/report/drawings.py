"""What a report shows of a folder that `ajepa visualize` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ajepa.pages.media import file_uri

from .errors import ReportError
from .sources import DRAWING


def drawing(folder: Path) -> dict[str, Any]:
    """The figure, its numbers and sounds. Raises ReportError if a file is missing or damaged."""
    try:
        facts = json.loads((folder / DRAWING).read_text(encoding="utf-8"))
        return {
            "clip": str(facts["clip"]),
            "model": f"{facts['model']} ({facts['recipe']})",
            "steps": f"{facts['decoder_steps']:,}",
            "regions": len(facts["regions"]),
            "figure": file_uri(folder / Path(facts["figure"]).name),
            "sounds": [
                (str(title), file_uri(folder / Path(name).name)) for title, name in facts["sounds"].items()
            ],
            "verdict": _verdict(facts["verdict"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(
            f"{folder / DRAWING}: cannot be shown ({type(error).__name__}: {error}); run `ajepa visualize` "
            "again"
        ) from error


def _verdict(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "It was not judged on clips that the decoder had not seen (--judge)."
    low, high = verdict["interval"]
    own, other, nearer = verdict["to_truth"], verdict["to_truth_shuffled"], verdict["nearer"]
    regions, seeds = verdict["between_positions"], verdict["between_seeds"]
    return (
        f"On {verdict['clips']} clips that the decoder had not seen, samples for two regions differ by "
        f"{regions:.3f}, those of two seeds by {seeds:.3f}. Within the region they are {own:.3f} from the "
        f"truth, and {other:.3f} with another clip's prediction (farther by {low:.3f} to {high:.3f}, 95 %; "
        f"own is nearer for {nearer:.0%})."
    )
