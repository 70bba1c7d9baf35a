"""From pieces of audio to rows: short pieces in batches of like lengths, long ones as streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
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


Short = Callable[[Tensor, list[int]], Iterable[Tensor]]


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
    """Embed pieces, as `in_batches`.

    Raises:
        ModelError: values are not finite.
    """

    def short(padded_BS: Tensor, lengths: list[int]) -> Iterator[Tensor]:
        return _embedded(model, padded_BS, lengths, wanted)

    def long(blocks: Iterator[Tensor]) -> Tensor:
        return _streamed(model, blocks, wanted)

    for row in in_batches(pieces, model.sample_rate, batch, short, long, fail):
        yield _checked(model, row)


def in_batches(
    pieces: Iterable[Piece],
    sample_rate: int,
    batch: int,
    short: Short,
    long: Callable[[Iterator[Tensor]], Tensor],
    fail: Callable[[Item, AudioError], None],
) -> Iterator[Row]:
    """Values of pieces, in their order: short pieces in batches of like lengths, long ones one by one.

    Args:
        batch: short pieces that are computed at once.
        short: values of pieces [B, S], with these lengths in samples.
        long: the values of a piece from blocks of its samples.
        fail: called with the item of a long piece whose audio cannot be decoded to its end, which has no row.
    """
    held: list[Piece] = []
    samples = 0
    for piece in pieces:
        if piece.blocks is not None:
            yield from _flush(held, sample_rate, batch, short)
            held, samples = [], 0
            try:
                values = _long(piece, sample_rate, long)
            except AudioError as error:
                fail(piece.item, error)
                continue
            yield Row(piece, values)
            continue
        assert piece.waveform_S is not None
        held.append(piece)
        samples += len(piece.waveform_S)
        if len(held) >= HELD_PIECES or samples > HELD_SECONDS * sample_rate:
            yield from _flush(held, sample_rate, batch, short)
            held, samples = [], 0
    yield from _flush(held, sample_rate, batch, short)


def _long(piece: Piece, sample_rate: int, long: Callable[[Iterator[Tensor]], Tensor]) -> Tensor:
    """The values of a long piece, whose `end` is known now."""
    assert piece.blocks is not None
    samples = 0

    def counted() -> Iterator[Tensor]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    with closing(ahead(piece.blocks, BLOCKS_AHEAD)) as blocks:
        values = long(counted())
    piece.blocks, piece.end = None, piece.start + samples / sample_rate
    return values


def _flush(held: list[Piece], sample_rate: int, batch: int, short: Short) -> Iterator[Row]:
    waveforms = [piece.waveform_S for piece in held if piece.waveform_S is not None]
    values: list[Tensor | None] = [None] * len(held)
    order = sorted(range(len(held)), key=lambda place: len(waveforms[place]))
    while order:
        # Ascending lengths: short clips are not padded to the length of a long recording.
        rows = order[:batch]
        while len(rows) > 1 and len(rows) * len(waveforms[rows[-1]]) > HELD_SECONDS * sample_rate:
            rows.pop()
        order = order[len(rows) :]
        lengths = [len(waveforms[row]) for row in rows]
        padded_BS = pad_sequence([waveforms[row] for row in rows], batch_first=True)
        for row, found in zip(rows, short(padded_BS, lengths), strict=True):
            values[row] = found
    for piece, value in zip(held, values, strict=True):
        assert value is not None
        piece.waveform_S = None
        yield Row(piece, value)


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


def _streamed(model: AudioEncoder, blocks: Iterator[Tensor], wanted: Wanted) -> Tensor:
    """The values of a long piece."""
    if not can_stream(model):
        waveform_S = torch.cat(list(blocks))
        (values,) = _embedded(model, waveform_S[None], [len(waveform_S)], wanted)
        return values
    every = wanted.what == "layers"
    steps = encode_stream(model, blocks, layers=every, joined=not every)
    if wanted.what in ("frames", "patches"):
        return torch.cat([steps_TLFD[:, -1].flatten(1) for steps_TLFD in steps])
    pooled = over_time(steps).pooled(model.pooling)  # [L, F, D], or with the deviation [2, L, F, D]
    return (pooled if model.pooling == "mean" else pooled.transpose(0, 1)).flatten()


def over_time(steps: Iterable[Tensor]) -> Statistics:
    """Statistics of time steps that arrive in pieces [T, L, F, D]."""
    statistics = Statistics()
    for steps_TLFD in steps:
        statistics.add(steps_TLFD)
    return statistics


def _checked(model: AudioEncoder, row: Row) -> Row:
    if not row.values.isfinite().all():
        source = model.source.path if model.source and model.source.path else "the model"
        raise ModelError(
            f"{source}: the embedding of {row.piece.item.name} has values that are NaN or infinite; the "
            "weights have diverged or are damaged; use an earlier checkpoint"
        )
    return row
