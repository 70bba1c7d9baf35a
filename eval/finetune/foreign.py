"""The network that is fine-tuned from an encoder of other people: the encoder, the mean over time, a head.

Its input is a waveform, so of the settings only those apply that need no spectrogram and no look into its
blocks: mixup, crops, loss, schedule, layer decay and the norm after the mean.

Axes: B clips, S samples, T time steps, F frequency patches, X = F D features.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ajepa.eval.models.frames import FrameModel, together
from ajepa.nn.blocks import LayerNorm

from .config import FinetuneConfig

# Settings that have no effect on such a network.
UNUSED = ("masked_share", "masked_how", "freq_mask", "time_mask", "noise", "drop_path", "mean", "std")


@contextmanager
def drawing_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Whatever is drawn from the global generators of torch and numpy is decided by `generator`.

    Encoders of other people draw from these. The generators' own states stay as they were.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" and torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


class ForeignClassifier(nn.Module):
    """A copy of an encoder with a new head.

    Args:
        model: the encoder, which is copied.
        classes: C, the outputs of the head.
    """

    def __init__(self, model: FrameModel, classes: int, config: FinetuneConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = copy.deepcopy(model).requires_grad_(True)
        clip_BS = torch.zeros(1, model.sample_rate, device=model.device)
        with torch.no_grad():
            output_BTFD = self.encoder.frames(clip_BS, [model.sample_rate], False).layers[-1]
        width = output_BTFD[0, 0].numel()
        self.norm = None if config.norm == "before" else LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=config.head_std)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, waveform_BS: Tensor, lengths_B: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits [B, C] of clips with zeros after their ends; lengths on the CPU.

        `generator` decides what the encoder draws in training: its dropout, dropped layers and masks.
        """
        if self.training and generator is not None:
            with drawing_from(generator, waveform_BS.device):
                return self._logits(waveform_BS, lengths_B)
        return self._logits(waveform_BS, lengths_B)

    def _logits(self, waveform_BS: Tensor, lengths_B: Tensor) -> Tensor:
        lengths = lengths_B.tolist()
        pooled: dict[int, Tensor] = {}
        for rows in together(lengths, self.encoder.ragged):
            longest = max(lengths[row] for row in rows)
            pooled_RX = self._pooled(waveform_BS[rows, :longest], [lengths[row] for row in rows])
            pooled |= zip(rows, pooled_RX, strict=True)
        pooled_BX = torch.stack([pooled[row] for row in range(len(lengths))])
        return self.head(pooled_BX if self.norm is None else self.norm(pooled_BX))

    def _pooled(self, waveform_BS: Tensor, lengths: list[int]) -> Tensor:
        """The mean over each clip's own time steps, [B, X]."""
        found = self.encoder.frames(waveform_BS, lengths, False)
        frames_BTX = found.layers[-1].flatten(2).float()
        inside_BT = torch.arange(frames_BTX.shape[1], device=frames_BTX.device) < found.lengths[:, None]
        weight_BT1 = inside_BT[..., None].to(frames_BTX.dtype)
        return (frames_BTX * weight_BT1).sum(1) / weight_BT1.sum(1)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Parameters with the learning-rate factor for their depth, and whether they get weight decay.

        As for our encoders; the blocks are the longest list of modules. What is outside of it, apart from the
        head, counts as the first layer.
        """
        blocks = _blocks(self.encoder)
        depth_of = {
            id(parameter): depth
            for depth, block in enumerate(blocks, start=1)
            for parameter in block.parameters()
        }
        depth_of |= {id(parameter): len(blocks) + 1 for parameter in self.head.parameters()}
        if self.norm is not None:
            depth_of |= {id(parameter): len(blocks) + 1 for parameter in self.norm.parameters()}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            depth = depth_of.get(id(parameter), 0)
            scale = self.config.layer_decay ** (len(blocks) + 1 - depth)
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
        return [
            {"params": params, "scale": scale, "weight_decay": self.config.weight_decay if decays else 0.0}
            for (scale, decays), params in groups.items()
        ]


def _blocks(encoder: nn.Module) -> list[nn.Module]:
    """The longest list of modules in an encoder, the first of several; empty if it has none."""
    lists = [module for module in encoder.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return list(max(lists, key=len)) if lists else []
