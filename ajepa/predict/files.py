"""From files to labels, with the decoding and the batches of `ajepa embed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ajepa.audio import AudioError
from ajepa.data.threads import in_order
from ajepa.embed.compute import Row, in_batches, over_time
from ajepa.embed.inputs import Item
from ajepa.embed.job import pieces_of
from ajepa.embed.options import Wanted
from ajepa.embed.pieces import Piece, decode, windows
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier
from ajepa.model.loading import ModelError
from ajepa.model.stream import can_stream, encode_stream


class Prediction(NamedTuple):
    """The labels of a file, or of a window of it.

    Attributes:
        path: the file as it was named.
        start, end: seconds into the file.
        labels: names and probabilities, the most probable first; with several labels there may be none.
    """

    path: str
    start: float
    end: float
    labels: tuple[tuple[str, float], ...]


def predict_files(
    classifier: AudioClassifier,
    items: Iterable[Item],
    *,
    window: float = 0.0,
    hop: float = 0.0,
    top: int = 0,
    batch: int = 8,
    workers: int = 2,
    fail: Callable[[Item, AudioError], None],
    progress: Callable[[int], object] = lambda files: None,
) -> Iterator[Prediction]:
    """Labels of files in their order; memory grows neither with their number nor with their length.

    Args:
        window, hop: as of `Wanted`: seconds of a window, and from one to the next; 0: whole files.
        top: this many labels of each, the most probable ones; 0: the answers, with several labels those above
            their thresholds.
        batch: clips that are classified at once.
        workers: threads that decode ahead of the model.
        fail: called with a file that cannot be used, which then has no rows; it may raise the error.
        progress: called with 1 after each file is decoded.

    Raises:
        EmbedError: `window` or `hop` is no number of seconds.
        ModelError: a probability is not finite.
    """
    wanted = Wanted(window=window, hop=hop)
    failed: dict[int, Item] = {}  # with the items, so that no other one gets the number

    def refuse(item: Item, error: AudioError) -> None:
        failed[id(item)] = item
        fail(item, error)

    def pieces() -> Iterator[Piece]:
        rate = classifier.sample_rate
        decoded = in_order(lambda item: decode(item, wanted, rate, checksum=False), items, workers)
        try:
            for one in decoded:
                try:
                    yield from pieces_of(one)
                except AudioError as error:
                    refuse(one.item, error)
                progress(1)
        finally:
            decoded.close()

    def short(waveform_BS: Tensor, lengths: list[int]) -> Tensor:
        with torch.inference_mode():
            return classifier(waveform_BS.to(classifier.device), lengths).cpu()

    def long(blocks: Iterator[Tensor]) -> Tensor:
        return _streamed(classifier, blocks).cpu()

    # A file's rows wait for its end, where it may turn out to be broken.
    waiting: list[Row] = []
    for row in in_batches(pieces(), classifier.sample_rate, batch, short, long, refuse):
        if waiting and row.piece.item is not waiting[0].piece.item:
            yield from _predictions(classifier, waiting, failed, top)
            waiting = []
        row.piece.waveform_S = None
        waiting.append(row)
    yield from _predictions(classifier, waiting, failed, top)


def _predictions(
    classifier: AudioClassifier, rows: list[Row], failed: dict[int, Item], top: int
) -> Iterator[Prediction]:
    """The rows of one file."""
    if not rows or id(rows[0].piece.item) in failed:
        return
    logits_BY = torch.stack([row.values for row in rows])
    name = rows[0].piece.item.name
    if not logits_BY.isfinite().all():
        raise ModelError(f"{name}: its probabilities are NaN or infinite; the classifier is damaged")
    label_set = classifier.label_set
    probability_BY = label_set.probabilities(logits_BY.double())
    place = {label: number for number, label in enumerate(label_set.names)}
    if top:
        order_BK = probability_BY.topk(min(top, len(label_set.names))).indices.tolist()
        answers = [tuple(label_set.names[number] for number in row) for row in order_BK]
    else:
        answers = label_set.answers(probability_BY)
    for row, given, values in zip(rows, answers, probability_BY.tolist(), strict=True):
        labels = tuple((label, values[place[label]]) for label in given)
        yield Prediction(name, row.piece.start, row.piece.end, labels)


@torch.inference_mode()
def _streamed(classifier: AudioClassifier, blocks: Iterator[Tensor]) -> Tensor:
    """Logits [Y] of a long clip from blocks of its samples."""
    longest, encoder = classifier.longest_samples, classifier.encoder
    if longest:
        found = [
            classifier(piece_S[None].to(classifier.device))[0]
            for _, piece_S in windows(blocks, longest, longest)
        ]
        return torch.stack(found).mean(0)
    if not isinstance(encoder, AudioEncoder) or not can_stream(encoder):
        waveform_S = torch.cat(list(blocks))
        return classifier(waveform_S[None].to(classifier.device))[0]
    steps = encode_stream(encoder, blocks, layers=classifier.head.every_layer)
    statistics_XLFD = over_time(steps).pooled("mean+std")
    return classifier.head(statistics_XLFD.transpose(0, 1)[None].to(classifier.device))[0]
