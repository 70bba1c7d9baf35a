"""What a pre-training run will take, from measured rates.

    python benchmarks/cost.py RATES.json [--clips N] [--devices N ...] [--efficiency E] [--cores-rate R]

RATES.json is what `benchmarks/pretrain_step.py --json` or `benchmarks/gpu.sh` wrote. The only measurement in
the table is the rate of one device, in the table's first column. Hours on one device are that rate times the
recipe's epochs; on more devices each is taken to keep the share `--efficiency` of its rate, which is an
assumption. Decoding cores are the same clips/s over what one core decodes (benchmarks/input.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ajepa.recipes import RecipeError, load_recipe

AUDIOSET_CLIPS = 2_000_000  # AudioSet-2M, rounded up
FLAC_CLIPS_PER_CORE = 343.0  # docs/performance.md, crops of 10 s from a folder


class Rate(NamedTuple):
    """One measured step rate of one device."""

    recipe: str
    device: str
    options: str
    clips_per_s: float


class Cost(NamedTuple):
    """A run on so many devices."""

    devices: int
    hours: float
    device_hours: float
    cores: float


def read_rates(path: Path) -> list[Rate]:
    """The rates in a file of either benchmark.

    Raises:
        RecipeError: it holds none, or those of the tiny networks that try the script.
    """
    report: dict[str, Any] = json.loads(path.read_text())
    if "sections" not in report:
        return [_rate(report, report["run"]["device"])]
    entries = report["sections"].get("pretrain", {}).get("result", [])
    measured = [entry for entry in entries if "clips_per_s" in entry]
    if report.get("tiny") or not measured:
        raise RecipeError(f"{path}: no step rates of a real network; run benchmarks/gpu.sh without --cpu")
    return [_rate(entry, report["hardware"]["device"]) for entry in measured]


def _rate(entry: dict[str, Any], device: str) -> Rate:
    options = f"{entry['clips']} clips, {entry['precision']}{', compiled' if entry['compiled'] else ''}"
    if "run.activation_checkpointing=true" in entry.get("options", []):
        options += ", activations again"
    return Rate(entry["recipe"], device, options, entry["clips_per_s"])


def cost(rate: Rate, clips: int, devices: int, efficiency: float, cores_rate: float) -> Cost:
    """Hours of the recipe's epochs over `clips` clips; `efficiency` counts where devices are several."""
    epochs = load_recipe(rate.recipe).optim.epochs
    if not epochs:
        raise RecipeError(f"recipe {rate.recipe} sets optim.steps, not optim.epochs: name one that does")
    together = rate.clips_per_s * devices * (efficiency if devices > 1 else 1.0)
    hours = epochs * clips / together / 3600
    return Cost(devices, hours, hours * devices, together / cores_rate)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rates", type=Path, metavar="RATES.json")
    parser.add_argument("--clips", type=int, default=AUDIOSET_CLIPS, help="clips of an epoch")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--efficiency", type=float, default=0.9, help="assumed for more than one device")
    parser.add_argument(
        "--cores-rate", type=float, default=FLAC_CLIPS_PER_CORE, help="clips/s a core decodes"
    )
    options = parser.parse_args(arguments)
    try:
        rows = [
            (rate, cost(rate, options.clips, devices, options.efficiency, options.cores_rate))
            for rate in read_rates(options.rates)
            for devices in options.devices
        ]
    except RecipeError as error:
        parser.error(str(error))
    print("| measured: one device | devices | hours | device hours | decoding cores |")
    print("|---|---|---|---|---|")
    for rate, found in rows:
        measured = f"{rate.recipe}, {rate.options}: {rate.clips_per_s:.4g} clips/s on {rate.device}"
        print(
            f"| {measured} | {found.devices} | {found.hours:,.1f} | {found.device_hours:,.0f} "
            f"| {found.cores:.2g} |"
        )
    print(
        f"\n{options.clips:,} clips an epoch. Assumed, not measured: each of several devices keeps "
        f"{options.efficiency:g} of its rate."
    )


if __name__ == "__main__":
    main()
