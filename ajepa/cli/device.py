"""`--device` and `--precision`: where models run and how they compute, in every command that has them."""

from __future__ import annotations

import argparse

from .usage import UsageError


def add(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option to a parser or to a group of one."""
    parser.add_argument("--device", metavar="DEVICE", help="where models run, such as cuda:1; default: cpu")


def add_precision(parser: argparse.ArgumentParser, meaning: str = "in which models compute") -> None:
    """Add --precision, with what its help says before the default."""
    parser.add_argument(
        "--precision", choices=["float32", "bf16"], default="float32", help=f"{meaning}; default: float32"
    )


def check_device(device: str | None) -> None:
    """Try the device that --device names.

    Raises:
        UsageError: this machine has no such device.
    """
    if device is None:
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device}: {reason}; leave it out, or choose cpu") from error
