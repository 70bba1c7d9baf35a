"""`ajepa similar`: the clips that are most like a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajepa.errors import shown

from . import device
from .tables import console, new_table
from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.search.similar import Similar

EXAMPLES = """\
examples:
  ajepa similar dog.wav --among sounds/ --html similar.html
  ajepa similar dog.wav --among embeddings.parquet --top 50
  ajepa similar call.wav --among recordings/ --window 5 --out windows      5-second windows of recordings
  ajepa similar day.wav --start 3600 --seconds 5 --among windows           a part of a file
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    similar = commands.add_parser(
        "similar",
        help="find the clips that sound most like a file",
        description="Find the clips or windows of a collection whose embeddings are nearest to a file's. "
        "Scores are cosines in the collection's whitened space: 1 for the same embedding, about 0 for "
        "unrelated clips.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    similar.add_argument("file", type=Path, help="the audio file to search with")
    similar.add_argument(
        "--among",
        required=True,
        metavar="AUDIO_OR_EMBEDDINGS",
        help="embeddings that `ajepa embed` wrote, or audio to embed first: a folder, a manifest, tar shards",
    )
    similar.add_argument(
        "--model", help="anything ajepa.load_model takes; default: the encoder that comes with ajepa"
    )
    similar.add_argument("--top", type=int, default=10, metavar="K", help="matches to show; default: 10")
    similar.add_argument(
        "--start",
        type=float,
        default=0.0,
        metavar="S",
        help="second at which to start in the file; default: 0",
    )
    similar.add_argument(
        "--seconds", type=float, metavar="S", help="seconds of the file to use; default: to its end"
    )
    similar.add_argument(
        "--window", type=float, default=0.0, metavar="S", help="seconds of a window; default: whole clips"
    )
    similar.add_argument(
        "--hop", type=float, default=0.0, metavar="S", help="seconds between windows; default: the window"
    )
    similar.add_argument(
        "--out",
        type=Path,
        help="store the embeddings of audio in this folder or FILE.parquet; a later call adds only new "
        "files; default: the cache",
    )
    similar.add_argument(
        "--plain", action="store_true", help="plain cosines of the embeddings, comparable between collections"
    )
    similar.add_argument("--json", type=Path, help="also write the matches to this file")
    similar.add_argument("--html", type=Path, help="write an HTML page to this file; it plays the matches")
    device.add(similar)
    similar.set_defaults(run=run_similar)


def run_similar(options: argparse.Namespace) -> None:
    """`ajepa similar`."""
    from ajepa.files import check_place, write_json

    _check(options)
    for name in ("json", "html"):
        if getattr(options, name):
            check_place(getattr(options, name), f"--{name}")
    device.check_device(options.device)

    from ajepa.caches import cache_folder, make_room
    from ajepa.embed.options import Wanted
    from ajepa.model.loading import load_model
    from ajepa.search.among import embed_sources, read_stored, stored_about
    from ajepa.search.similar import as_json, query_rows, similar

    about = stored_about(options.among)
    if about and (options.out or options.window):
        raise UsageError(
            f"--among {options.among}: holds embeddings already; leave out --out, --window and --hop"
        )
    wanted = Wanted(window=options.window, hop=options.hop)
    if about:
        wanted = Wanted(window=about["window"], hop=about["hop"])
    stored: dict[str, Any] = {}
    if about:  # as they were made
        stored = {"pooling": about["pooling"], "layers": about.get("joined", "last")}
        stored["precision"] = about.get("precision", "float32")
    model = load_model(options.model, device=options.device, **stored)
    rows = query_rows(model, options.file, wanted, options.start, options.seconds)
    if about:
        collection = read_stored(options.among, model)
    else:
        cache = cache_folder("embeddings")
        collection = embed_sources([options.among], model, wanted, options.out, cache)
        if options.out is None:
            make_room(cache, ".parquet")
    answer = similar(rows, collection, options.top, options.plain)
    _print(answer)
    print(
        f"{len(collection):,} {'windows' if wanted.window else 'clips'}, {answer.space} cosines, searched in "
        f"{answer.seconds:.2f} s",
        file=sys.stderr,
    )
    if options.json:
        write_json(options.json, as_json(answer, options.file, options.among, collection.about))
    if options.html:
        _write_page(options, answer, len(collection))
        print(f"{options.html}: open it in a browser", file=sys.stderr)


def _check(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise UsageError(f"--top is {options.top}, must be at least 1")
    most = float("inf")
    if not 0 <= options.start < most or (options.seconds is not None and not 0 < options.seconds < most):
        raise UsageError(
            f"--start is {options.start}, --seconds {options.seconds}; they must be at least 0 and above 0"
        )


def _print(answer: Similar) -> None:
    table = new_table()
    windows = any(match.query_end != answer.matches[0].query_end for match in answer.matches)
    for name in ("", "score", "from", "to", *(["like FILE from", "to"] if windows else [])):
        table.add_column(name, justify="right")
    table.add_column("clip", overflow="fold")
    for place, match in enumerate(answer.matches, start=1):
        times: list[Any] = [match.start, match.end]
        if windows:
            times += [match.query_start, match.query_end]
        cells = [str(place), f"{match.score:.3f}", *(f"{time:.2f}" for time in times)]
        table.add_row(*cells, shown(match.path), style="bold" if match.score > 0.9 else "")
    console().print(table)


def _write_page(options: argparse.Namespace, answer: Similar, count: int) -> None:
    from ajepa.pages.rows import Clip, Row, Section, write_page

    end = None if options.seconds is None else options.start + options.seconds
    query = Row((), (Clip(str(options.file), options.start, end),))
    found = [
        Row((str(place), f"{match.score:.3f}"), (Clip(match.path, match.start, match.end),))
        for place, match in enumerate(answer.matches, start=1)
    ]
    meaning = "Plain cosines of the embeddings."
    if answer.space == "whitened":
        meaning = (
            "Cosines in the collection's whitened space: 1 for the same embedding, about 0 for unrelated "
            "clips."
        )
    write_page(
        options.html,
        f"Most like {options.file.name}",
        [
            ("Among", f"{options.among}, {count:,} embeddings"),
            ("Encoder", options.model or "the one that comes with ajepa"),
        ],
        [
            Section("The file", "", (), [query]),
            Section("The most similar", meaning, ("rank", "score"), found),
        ],
    )
