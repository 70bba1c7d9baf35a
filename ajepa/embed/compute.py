"""From pieces of audio to rows: short pieces in batches of like lengths, long ones as streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ajepa.audio import AudioError
from ajepa.data.threads import ahead
from ajepa.model import AudioEncoder
from ajepa.model.embedding import time_statistics
from ajepa.model.loading import ModelError
from ajepa.model.stream import Statistics, can_stream, encode_stream

from .inputs import Item
from .options import Wanted
from .pieces import Piece

# Pieces are sorted by length before they are batched; at most so many, and so many seconds, wait for it.
HELD_PIECES, HELD_SECONDS = 64, 1200
BLOCKS_AHEAD = 32  # of a stream


class Row(NamedTuple):
    """An embedded piece: without its samples, with its values, [features] or [T, features]."""

    piece: Piece
    values: Tensor


def embed(
    model: AudioEncoder,
    pieces: Iterable[Piece],
    wanted: Wanted,
    batch: int,
    fail: Callable[[Item, AudioError], None],
) -> Iterator[Row]:
    """Embed pieces; the rows come in groups, those of a group in the order of its pieces.

    Args:
        batch: pieces that are embedded at once.
        fail: called with the item of a long piece whose audio cannot be decoded to its end, which has no row.

    Raises:
        ModelError: values are not finite.
    """
    held: list[Piece] = []
    samples = 0
    for piece in pieces:
        if piece.blocks is not None:
            yield from _flush(model, held, wanted, batch)
            held, samples = [], 0
            try:
                row = _streamed(model, piece, wanted)
            except AudioError as error:
                fail(piece.item, error)
                continue
            yield _checked(model, row)
            continue
        assert piece.waveform_S is not None
        held.append(piece)
        samples += len(piece.waveform_S)
        if len(held) >= HELD_PIECES or samples > HELD_SECONDS * model.sample_rate:
            yield from _flush(model, held, wanted, batch)
            held, samples = [], 0
    yield from _flush(model, held, wanted, batch)


def _flush(model: AudioEncoder, held: list[Piece], wanted: Wanted, batch: int) -> Iterator[Row]:
    waveforms = [piece.waveform_S for piece in held if piece.waveform_S is not None]
    values: list[Tensor | None] = [None] * len(held)
    order = sorted(range(len(held)), key=lambda place: len(waveforms[place]))
    while order:
        # Ascending lengths: short clips are not padded to the length of a long recording.
        rows = order[:batch]
        while len(rows) > 1 and len(rows) * len(waveforms[rows[-1]]) > HELD_SECONDS * model.sample_rate:
            rows.pop()
        order = order[len(rows) :]
        lengths = [len(waveforms[row]) for row in rows]
        padded_BS = pad_sequence([waveforms[row] for row in rows], batch_first=True)
        for row, found in zip(rows, _embedded(model, padded_BS, lengths, wanted), strict=True):
            values[row] = found
    for piece, value in zip(held, values, strict=True):
        assert value is not None
        piece.waveform_S = None
        yield _checked(model, Row(piece, value))


@torch.inference_mode()
def _embedded(model: AudioEncoder, padded_BS: Tensor, lengths: list[int], wanted: Wanted) -> Iterator[Tensor]:
    found = model(padded_BS, lengths, layers=wanted.what == "layers")
    if wanted.what == "clip":
        yield from found.clip.cpu()
    elif wanted.what == "layers":
        which = slice(0, 1 if model.pooling == "mean" else 2)
        every = [
            time_statistics(layer.float(), found.lengths)[:, which]
            for layer in (*found.layers, found.patches)
        ]
        yield from torch.stack(every, 1).flatten(1).cpu()
    else:
        for frames_TX, length in zip(found.frames.cpu(), found.lengths.tolist(), strict=True):
            yield frames_TX[:length].clone()


def _streamed(model: AudioEncoder, piece: Piece, wanted: Wanted) -> Row:
    """A long piece, whose `end` is known now."""
    assert piece.blocks is not None
    blocks: Iterator[Tensor] = ahead(piece.blocks, BLOCKS_AHEAD)
    if not can_stream(model):
        waveform_S = torch.cat(list(blocks))
        piece.end = piece.start + len(waveform_S) / model.sample_rate
        (values,) = _embedded(model, waveform_S[None], [len(waveform_S)], wanted)
        piece.blocks = None
        return Row(piece, values)
    samples = 0

    def counted() -> Iterator[Tensor]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    steps = encode_stream(model, counted(), layers=wanted.what == "layers")
    if wanted.what in ("frames", "patches"):
        values = torch.cat([steps_TLFD[:, -1].flatten(1) for steps_TLFD in steps])
    else:
        statistics = Statistics()
        for steps_TLFD in steps:
            statistics.add(steps_TLFD)
        pooled = statistics.pooled(model.pooling)  # [L, F, D], or with the deviation [2, L, F, D]
        values = (pooled if model.pooling == "mean" else pooled.transpose(0, 1)).flatten()
    piece.blocks, piece.end = None, piece.start + samples / model.sample_rate
    return Row(piece, values)


def _checked(model: AudioEncoder, row: Row) -> Row:
    if not row.values.isfinite().all():
        source = model.source.path if model.source and model.source.path else "the model"
        raise ModelError(
            f"{source}: the embedding of {row.piece.item.name} has values that are NaN or infinite; the "
            "weights have diverged or are damaged; use an earlier checkpoint"
        )
    return row
