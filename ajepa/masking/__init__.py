"""Context and target masks, drawn for all clips at once (A-JEPA, arXiv 2311.15830, section 3, algorithm 1).

A *block* mask hides a few rectangles as targets; the context is one large rectangle minus those. A
*time-frequency* mask hides smaller rectangles, and with them all time steps and frequency bands that they
touch. The *curriculum* moves from the first to the second during pre-training. There are also unstructured
masks, and the time+frequency masks of Audio-MAE.

`config` has the settings, `curriculum` the difficulty of a step, `geometry` the sizes of rectangles and
masks; `sampling` draws `masks`. docs/masking.md has the numbers.
"""

from .config import MaskingConfig, MaskingError, RegionConfig
from .curriculum import PROGRESS, hard_share
from .geometry import context_tokens, target_budget
from .masks import Masks
from .sampling import sample_masks

__all__ = [
    "PROGRESS",
    "MaskingConfig",
    "MaskingError",
    "Masks",
    "RegionConfig",
    "context_tokens",
    "hard_share",
    "sample_masks",
    "target_budget",
]
