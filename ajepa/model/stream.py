"""Audio of any length in constant memory: the encoder over a stream of samples, and statistics as it goes.

Shape suffixes: S samples, R chunks, T time patches, F frequency patches, P values of a patch, D features,
L layers (the outputs of the blocks that were asked for, then the normed output).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .batching import cut_into_patches
from .chunks import Chunk, fade
from .embedding import Pooling
from .encoder import AudioEncoder, choose, tokens_a_pass


def can_stream(model: AudioEncoder) -> bool:
    """Whether a clip can be embedded before its end is known: not where its peak sets the level."""
    return model.encoder.config.inputs.level == "as-is"


class Statistics:
    """Mean and standard deviation over time of what arrives in pieces, in double precision."""

    def __init__(self) -> None:
        self.steps = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None  # sum of squared deviations from the mean

    def add(self, values_TX: Tensor) -> None:
        """Time steps [T, ...] (Chan et al., 1979: the pairwise update)."""
        values_TX = values_TX.double()
        steps, mean = len(values_TX), values_TX.mean(0)
        squares = (values_TX - mean).square().sum(0)
        if self._mean is None or self._squares is None:
            self._mean, self._squares = mean, squares
        else:
            total, difference = self.steps + steps, mean - self._mean
            self._mean = self._mean + difference * (steps / total)
            self._squares = self._squares + squares + difference.square() * (self.steps * steps / total)
        self.steps += steps

    def pooled(self, pooling: Pooling) -> Tensor:
        """The mean [...], or with "mean+std" mean and deviation [2, ...], float32."""
        assert self._mean is not None and self._squares is not None, "nothing was added"
        if pooling == "mean":
            return self._mean.float()
        return torch.stack([self._mean, (self._squares / self.steps).sqrt()]).float()


@torch.inference_mode()
def encode_stream(
    model: AudioEncoder, blocks: Iterable[Tensor], *, layers: bool = False, joined: bool = False
) -> Iterator[Tensor]:
    """Embed a clip that arrives in blocks, as `AudioEncoder` does with the whole.

    Time steps come as they are done, and memory does not grow with the clip. The results differ from those
    of the whole by rounding.

    Args:
        model: one for which `can_stream` holds.
        blocks: the clip's samples at the model's rate, [S] each, in order.
        layers: also every block's output.
        joined: the layers that an embedding joins (`Embedding.joined`) instead of the normed output.

    Yields:
        [T, L, F, D] on the CPU: time steps in order, T of them at a time.
    """
    config, size = model.features.config, model.chunk_patches
    patch, step = model.encoder.config.patch[0], size - size // 4
    hop, window = config.hop, config.window
    rows_a_pass = max(1, tokens_a_pass(model.device) // (size * model.encoder.freq_patches))
    depth = len(model.encoder.blocks)
    kept = depth if layers else model.blocks_kept if joined else 0

    def encoded(waveforms: list[Tensor]) -> Tensor:
        """Chunks of the same number of samples to [R, T, L, F, D]."""
        waveform_RS = torch.stack(waveforms).to(model.device)
        spectrogram_RLC = model.features(waveform_RS)
        frames = [spectrogram_RLC.shape[1]] * len(waveforms)
        patches_RTFP, lengths = cut_into_patches(model.encoder, spectrogram_RLC, frames, model.fill_value)
        rows = [Chunk(row, 0, length) for row, length in enumerate(lengths)]
        output, *inner = model._encode_chunks(patches_RTFP, rows, kept)
        time = patches_RTFP.shape[1]
        if joined and model.embedding_layers:
            output, inner = torch.cat(choose(inner, model.embedding_layers, depth), -1), []
        return torch.stack([*inner, output], 2)[:, :time].float().cpu()

    joiner = _Joiner(size)
    held = torch.empty(0)  # samples from the next chunk's start on
    start = 0  # of the next chunk, in patches
    samples_of_chunk = (size * patch - 1) * hop + window
    waiting: list[tuple[int, Tensor]] = []
    for block in blocks:
        held = torch.cat([held, block])
        # A chunk at `start` is not the last one if there is at least one frame after its patches.
        while len(held) >= samples_of_chunk + hop:
            waiting.append((start, held[:samples_of_chunk]))
            held, start = held[step * patch * hop :], start + step
            if len(waiting) == rows_a_pass:
                yield from joiner.add_all(waiting, encoded([wave for _, wave in waiting]))
                waiting = []
    # The last chunk ends with the clip. `held` begins at `start`; what is before it, in the last chunk that
    # was taken, may be needed again.
    time = start + -(-config.frames(len(held)) // patch)
    last = max(0, time - size)
    if last < start:
        before = waiting[-1] if waiting else joiner.previous
        assert before is not None
        again = before[1][(last - before[0]) * patch * hop : (start - before[0]) * patch * hop]
        held = torch.cat([again, held])
    else:
        held = held[(last - start) * patch * hop :]
    if waiting:
        yield from joiner.add_all(waiting, encoded([wave for _, wave in waiting]))
    yield from joiner.add_all([(last, held)], encoded([held]))
    yield joiner.rest()


class _Joiner:
    """Joins overlapping chunks as `AudioEncoder.encode` does, and lets go of what no later chunk touches."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.previous: tuple[int, Tensor] | None = None  # the last chunk's start and samples
        self._start = 0  # the time step of the first row that is held
        self._sum: Tensor | None = None
        self._weight = torch.empty(0)

    def add_all(self, chunks: list[tuple[int, Tensor]], values_RTLFD: Tensor) -> Iterator[Tensor]:
        """Add chunks by their starts; yields the steps before each."""
        for (start, _), values_TLFD in zip(chunks, values_RTLFD, strict=True):
            if self._sum is not None and start > self._start:
                done = start - self._start
                yield self._sum[:done] / self._weight[:done, None, None, None]
                self._sum, self._weight, self._start = self._sum[done:], self._weight[done:], start
            weight_T = fade(Chunk(0, start, len(values_TLFD)), self.size)
            total = start - self._start + len(values_TLFD)
            if self._sum is None:
                self._sum = values_TLFD.new_zeros(0, *values_TLFD.shape[1:])
            missing = max(0, total - len(self._sum))
            self._sum = torch.cat([self._sum, self._sum.new_zeros(missing, *values_TLFD.shape[1:])])
            self._weight = torch.cat([self._weight, self._weight.new_zeros(missing)])
            span = slice(start - self._start, total)
            self._sum[span] += values_TLFD * weight_T[:, None, None, None]
            self._weight[span] += weight_T
        self.previous = chunks[-1]

    def rest(self) -> Tensor:
        """The steps that are left."""
        assert self._sum is not None
        return self._sum / self._weight[:, None, None, None]
