"""Estimated cost of a pre-training run, from measured rates.

    python benchmarks/cost.py RATES.json [--clips N] [--devices N ...] [--efficiency E] [--cores-rate R]

RATES.json is the output of `benchmarks/pretrain_step.py --json` or `benchmarks/gpu.sh`. The only measurement
in the table is the rate of one device, in the first column. Hours on one device follow from that rate and the
recipe's epochs. On several devices, each is assumed to keep the share `--efficiency` of its rate. The number
of decoding cores is the clips/s divided by the rate of one core (benchmarks/input.py).
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
    """A run on a number of devices."""

    devices: int
    hours: float
    device_hours: float
    cores: float


def read_rates(path: Path) -> list[Rate]:
    """The rates in a file of either benchmark.

    Raises:
        RecipeError: it has no rates, or only those of the tiny networks that try the script.
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
        options += ", activations recomputed"
    return Rate(entry["recipe"], device, options, entry["clips_per_s"])


def cost(rate: Rate, clips: int, devices: int, efficiency: float, cores_rate: float) -> Cost:
    """Hours for the recipe's epochs over `clips` clips; `efficiency` applies to several devices."""
    epochs = load_recipe(rate.recipe).optim.epochs
    if not epochs:
        raise RecipeError(f"recipe {rate.recipe} sets optim.steps, not optim.epochs: use one with epochs")
    together = rate.clips_per_s * devices * (efficiency if devices > 1 else 1.0)
    hours = epochs * clips / together / 3600
    return Cost(devices, hours, hours * devices, together / cores_rate)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rates", type=Path, metavar="RATES.json")
    parser.add_argument("--clips", type=int, default=AUDIOSET_CLIPS, help="clips per epoch")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--efficiency", type=float, default=0.9, help="assumed share with several devices")
    parser.add_argument(
        "--cores-rate", type=float, default=FLAC_CLIPS_PER_CORE, help="clips/s that a core decodes"
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
        f"\n{options.clips:,} clips per epoch. Assumed, not measured: with several devices, each keeps "
        f"{options.efficiency:g} of its rate."
    )


if __name__ == "__main__":
    main()
