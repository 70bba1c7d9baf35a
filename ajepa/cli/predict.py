"""`ajepa predict`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import device
from .usage import UsageError

EXAMPLES = """\
examples:
  ajepa evaluate linear --task table --data labels.csv --split auto --model default --save birds
  ajepa predict recordings/ --model birds --out labels.csv
  ajepa predict recordings/ --model birds --out labels.csv --window 5      a row for each 5 seconds
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    predict = commands.add_parser(
        "predict",
        help="label audio with a classifier of `ajepa evaluate --save`",
        description="Label audio, with probabilities, using a classifier that `ajepa evaluate linear` or "
        "`finetune` stored in the folder given by --save.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument(
        "audio",
        nargs="+",
        help="audio files, folders that are searched, manifests and tables of segments (.csv, .tsv, .jsonl, "
        ".parquet), folders of tar shards or their addresses",
    )
    predict.add_argument(
        "--model", required=True, metavar="FOLDER", help="the classifier's folder, or hf://owner/name"
    )
    predict.add_argument(
        "--encoder",
        metavar="SOURCE",
        help="the encoder that the classifier was made with, if it is somebody else's",
    )
    predict.add_argument(
        "--out", type=Path, help="FILE.csv, .json, .jsonl or .parquet; default: CSV in the terminal"
    )
    predict.add_argument(
        "--window", type=float, default=0.0, metavar="S", help="seconds of a window; default: whole files"
    )
    predict.add_argument(
        "--hop", type=float, default=0.0, metavar="S", help="seconds between windows; default: the window"
    )
    predict.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="the K most probable labels; default: one, or if clips have several labels, those above their "
        "thresholds",
    )
    device.add(predict)
    device.add_precision(predict, "in which the encoder computes")
    predict.add_argument("--batch", type=int, default=8, help="clips at once; default: 8")
    predict.add_argument("--workers", type=int, default=2, help="threads that decode ahead; default: 2")
    predict.add_argument("--skip-broken", action="store_true", help="name unreadable files and go on")
    predict.set_defaults(run=run_predict)


def run_predict(options: argparse.Namespace) -> None:
    """`ajepa predict`."""
    from ajepa.embed.inputs import Inputs
    from ajepa.files import check_place
    from ajepa.predict.table import check_ending, open_table

    for name in ("batch", "workers", "top"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UsageError(f"--{name} is {value}, must be at least 1")
    if options.out:
        check_ending(options.out)
        check_place(options.out, "--out")
    inputs = Inputs(options.audio)
    inputs.say_left_out()
    device.check_device(options.device)

    from importlib.metadata import version

    from tqdm import tqdm

    from ajepa.audio import AudioError
    from ajepa.embed.inputs import Item
    from ajepa.eval.classifiers import load_classifier
    from ajepa.predict import predict_files

    classifier = load_classifier(
        options.model, device=options.device, precision=options.precision, encoder=options.encoder
    )
    broken = rows = 0

    def fail(item: Item, error: AudioError) -> None:
        nonlocal broken
        if not options.skip_broken:
            raise error
        broken += 1
        print(error, file=sys.stderr)

    about = {"model": options.model, "labels": classifier.labels, "version": version("ajepa")}
    with (
        tqdm(total=len(inputs), unit="file", disable=None if options.out else True) as bar,
        open_table(options.out, about) as write,
    ):
        for row in predict_files(
            classifier,
            inputs,
            window=options.window,
            hop=options.hop,
            top=options.top or 0,
            batch=options.batch,
            workers=options.workers,
            fail=fail,
            progress=bar.update,
        ):
            rows += 1
            write(row)
        if broken == len(inputs):
            raise AudioError(
                "none of the files could be read; their reasons are above", path=options.audio[0]
            )
    if options.out:
        left_out = f"; {broken} could not be used" if broken else ""
        windows = f", {rows} windows" if options.window else ""
        print(f"{options.out}: {len(inputs) - broken} files{windows}{left_out}")
