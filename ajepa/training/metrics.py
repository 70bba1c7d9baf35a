"""metrics.jsonl and broken.txt: what a run says of itself while it goes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class MetricsLog:
    """metrics.jsonl, cut back to the resumed step, and the list of broken files.

    Rates are over the time since the last line, so that the first line includes what starting costs.
    """

    def __init__(self, out: Path, start: int, enabled: bool) -> None:
        self.path, self.listing, self.enabled = out / "metrics.jsonl", out / "broken.txt", enabled
        self.clips, self.since = 0, time.perf_counter()
        self.broken: set[str] = set()
        if enabled:
            if start and self.listing.exists():
                self.broken = set(self.listing.read_text().splitlines())
            else:
                self.listing.unlink(missing_ok=True)
            kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= start]
            partial = self.path.with_name(".metrics.jsonl.partial")
            partial.write_text("".join(kept))
            partial.replace(self.path)

    def count(self, clips: int, broken: list[tuple[str, str]]) -> None:
        """Note a step's clips, and list its broken files at once: an interrupted run has them too."""
        self.clips += clips
        for _, reason in broken:
            line = " ".join(reason.split())
            if line not in self.broken:
                self.broken.add(line)
                if self.enabled:
                    with self.listing.open("a") as file:
                        file.write(line + "\n")

    def write(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """Append one line; tensors become numbers."""
        now = time.perf_counter()
        record = {"step": step} | {name: float(value) for name, value in metrics.items()}
        record |= {"clips_per_s": self.clips / (now - self.since), "broken": len(self.broken)}
        self.clips, self.since = 0, now
        if self.enabled:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        return record

    def report_broken(self) -> None:
        """Say how many files could not be used."""
        if self.enabled and self.broken:
            print(f"{len(self.broken)} files could not be used; {self.listing} lists them", file=sys.stderr)


def _lines(path: Path) -> list[str]:
    """Whole lines; the last one may have been cut by a kill."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()]
