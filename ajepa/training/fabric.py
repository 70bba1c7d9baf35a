"""Lightning Fabric, imported without torchmetrics, which it loads only for its version.

If torchmetrics is installed, it loads torchvision, scipy and transformers, which takes 4 s of processor time
at the start of every process. Only Fabric's spike detection needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let imports of a module that is not yet loaded fail as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what Python itself documents for this
    try:
        yield
    finally:
        del sys.modules[name]


with _absent("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

__all__ = ["DDPStrategy", "Fabric", "ModelParallelStrategy"]
