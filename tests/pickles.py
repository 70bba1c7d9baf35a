"""A pickle that does something when it is read, for tests that nothing reads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class MakesFolder:
    """Its unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
