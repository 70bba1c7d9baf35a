"""Masks: time to draw a batch, compared with a sampler that loops over clips as I-JEPA's collator does.

    python benchmarks/masking.py [--json FILE] [--threads N] [--repeats N] [--clips N]

All samplers take turns in one run. Times are processor times of this process, not wall-clock times, so other
work on the machine does not count; with several threads, their times are added. The loop over clips draws the
block masks of A-JEPA's section 4.1, one context and four targets per clip, on 64 x 8 patches; all samplers
draw one mask per clip.
"""

import math
import os
import time
from collections.abc import Callable

import torch
from common import medians, parser, write
from torch import Tensor

from ajepa.masking import MaskingConfig, sample_masks
from ajepa.nn.grid import PatchGrid
from ajepa.training.provenance import cpu_name

GRID = PatchGrid(64, 8)
LEAST_TOKENS = 4
PATIENCE = 20


def block_size(
    scale: tuple[float, float], aspect: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    """One block's size for the whole batch: a single uniform number sets scale and aspect ratio."""
    draw = torch.rand(1, generator=generator).item()
    area = int(GRID.tokens * (scale[0] + draw * (scale[1] - scale[0])))
    ratio = aspect[0] + draw * (aspect[1] - aspect[0])
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(height, GRID.time - 1), min(width, GRID.freq - 1)


def place_block(size: tuple[int, int], regions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Token indices of a block at a random place within the acceptable regions, and its complement [T, F].

    Tries again while the block keeps too few tokens; after every 20 tries it ignores one more region.
    """
    height, width = size
    tries, respected = 0, len(regions)
    while True:
        top = torch.randint(0, GRID.time - height, (1,))
        left = torch.randint(0, GRID.freq - width, (1,))
        block_TF = torch.zeros(GRID, dtype=torch.int32)
        block_TF[top : top + height, left : left + width] = 1
        for region_TF in regions[:respected]:
            block_TF *= region_TF
        tokens = block_TF.flatten().nonzero()
        if len(tokens) > LEAST_TOKENS:
            break
        tries += 1
        if tries % PATIENCE == 0:
            respected = max(0, respected - 1)
    complement_TF = torch.ones(GRID, dtype=torch.int32)
    complement_TF[top : top + height, left : left + width] = 0
    return tokens.squeeze(), complement_TF


def clip_by_clip(config: MaskingConfig, clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """I-JEPA's algorithm (Assran et al., 2023, section 3; its code's `MaskCollator`), on this grid.

    Returns contexts [B, K] and targets [B, 4, Q], both cut to the shortest of the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    target_size = block_size(config.block.scale, config.block.aspect, generator)
    context_size = block_size(config.context_scale, (1.0, 1.0), generator)
    contexts, targets = [], []
    for _ in range(clips):
        blocks = [place_block(target_size, []) for _ in range(config.block.targets)]
        targets.append([tokens for tokens, _ in blocks])
        contexts.append(place_block(context_size, [complement for _, complement in blocks])[0])
    context_tokens = min(len(tokens) for tokens in contexts)
    target_tokens = min(len(tokens) for clip in targets for tokens in clip)
    return (
        torch.stack([tokens[:context_tokens] for tokens in contexts]),
        torch.stack([torch.stack([tokens[:target_tokens] for tokens in clip]) for clip in targets]),
    )


def compare(clips: int, repeats: int) -> dict[str, float]:
    """Median processor time of each sampler in seconds; after a warm-up, the samplers take turns."""
    generator = torch.Generator().manual_seed(0)
    # glibc returns freed memory to the kernel, at a cost, until a program has freed one large block, as any
    # training step does.
    torch.ones(31 * 2**20, dtype=torch.uint8)

    def whole_batch(config: MaskingConfig) -> Callable[[], object]:
        return lambda: sample_masks(config, GRID, clips, 1, 4, generator)

    calls: dict[str, Callable[[], object]] = {
        "clip by clip": lambda: clip_by_clip(MaskingConfig(), clips, seed=0),
        "block": whole_batch(MaskingConfig(kind="block")),
        "curriculum": whole_batch(MaskingConfig()),
        "time-frequency": whole_batch(MaskingConfig(kind="time-frequency")),
        "random": whole_batch(MaskingConfig(kind="random")),
        "random, 40 to 60 %": whole_batch(MaskingConfig(kind="random", random_targets=(0.4, 0.6))),
        "time+frequency": whole_batch(MaskingConfig(kind="time+frequency")),
    }
    return medians(calls, repeats, time.process_time)


def main() -> None:
    made = parser(__doc__, threads=1)
    made.add_argument("--repeats", type=int, default=25)
    made.add_argument("--clips", type=int, default=256)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    seconds = compare(options.clips, options.repeats)
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, {options.threads} threads; torch {torch.__version__}")
    print(f"{options.clips} clips, {GRID.time} x {GRID.freq} patches; median of {options.repeats}\n")
    for name, value in seconds.items():
        ratio = seconds["clip by clip"] / value
        print(f"{name:>20}: {1e3 * value:8.2f} ms, {ratio:5.1f} times as fast as clip by clip")
    report = {"cpu": cpu_name(), "threads": options.threads, "torch": torch.__version__}
    report |= {"clips": options.clips, "repeats": options.repeats, "seconds": seconds}
    write(report, options.json)


if __name__ == "__main__":
    main()
