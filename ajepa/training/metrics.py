"""metrics.jsonl and broken.txt: what a run says of itself while it goes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class MetricsLog:
    """metrics.jsonl, cut back to the resumed step, and the list of broken files."""

    def __init__(self, path: Path, start: int, enabled: bool) -> None:
        self.path, self.enabled = path, enabled
        self.broken: dict[str, str] = {}
        self.clips, self.since = 0, time.perf_counter()
        if enabled:
            kept = []
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= start]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(line + "\n" for line in kept))

    def count(self, clips: int, broken: list[tuple[str, str]]) -> None:
        """Note a step's clips and broken files."""
        self.clips += clips
        self.broken.update(broken)

    def write(self, step: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """Append one line; tensors become numbers here, the one place where the device is waited for."""
        now = time.perf_counter()
        record = {"step": step} | {name: float(value) for name, value in metrics.items()}
        record |= {"clips_per_s": self.clips / (now - self.since), "broken": len(self.broken)}
        self.clips, self.since = 0, now
        if self.enabled:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        return record

    def report_broken(self) -> None:
        """Write broken.txt and say how many files there were."""
        if self.enabled and self.broken:
            listing = self.path.with_name("broken.txt")
            listing.write_text("".join(f"{reason}\n" for reason in self.broken.values()))
            print(f"{len(self.broken)} files could not be used; {listing} lists them", file=sys.stderr)
