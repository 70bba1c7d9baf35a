"""CUDA tensors without CUDA: shapes, types and devices of every operation, but no values.

Operations on the CPU run as usual. One that mixes devices, and one that asks a tensor of the device for its
values (`item`, `tolist`, `bool`, a boolean index), which on a GPU would wait for it, raises.

torch's backward pass of such tensors needs a driver. There tensors of the device `meta` stand in: they have
no values either, and no autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ajepa.features import logmel
from ajepa.nn import decoder, grid, windows

CUDA = torch.device("cuda")


class _FakeCuda(FakeTensorMode):
    """Fakes tensors of the device alone; torch's own mode fakes those of the CPU too."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(map(_there, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        args, kwargs = tree_map(self._faked, (args, kwargs))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _faked(self, value: Any) -> Any:
        """Otherwise torch would compute small constants on the device itself."""
        return self.from_tensor(value) if type(value) is torch.Tensor else value


def _there(value: object) -> bool:
    return isinstance(value, FakeTensor) or (isinstance(value, torch.device) and value.type == "cuda")


class Generator(torch.Generator):
    """A generator that says it is on the device; none can be made without one."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._device

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed(seed)
        return self


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tensor that is made on CUDA or moved to it in the context is a fake one."""
    cached: list[Callable[[], None]] = [
        part.cache_clear
        for part in (
            windows.grid_windows,
            windows._move,
            grid.sincos_positions,
            decoder.relative_offsets,
            decoder.shift_penalties,
        )
    ]
    before, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    for clear in cached:
        clear()
    with monkeypatch.context() as changed, _FakeCuda():
        changed.setattr(torch, "Generator", Generator)
        # The front end sees the steps of a plain tensor, not those of a trace.
        changed.setattr(logmel, "_recorded", lambda tensor: tensor.requires_grad)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", before)
            torch.set_autocast_dtype("cuda", dtype)
            for clear in cached:
                clear()  # fake tables must not reach other tests


class _NoDraws(TorchDispatchMode):
    """Draws on the device `meta`, for which no generator can be made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not None and str(kwargs.get("device")) == "meta":
            kwargs["generator"] = None
        return func(*args, **kwargs)


@contextmanager
def on_meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[Generator]:
    """Gives a generator for tensors of the device `meta`."""
    windows._move.cache_clear()
    with monkeypatch.context() as changed, _NoDraws():
        changed.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        yield Generator("meta")
    windows._move.cache_clear()
