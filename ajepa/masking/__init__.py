"""Context and target masks, drawn for all clips at once (A-JEPA, arXiv 2311.15830, section 3, algorithm 1).

A *block* mask takes out a few rectangles as targets; the context is one large rectangle minus those.
A *time-frequency* mask takes out smaller rectangles, and with them every time step and every frequency
band that they touch. The *curriculum* moves from the first to the second during pre-training. Beside them
stand the unstructured masks and the time+frequency masks of Audio-MAE.

`config` says what can be chosen, `curriculum` how hard a step is, `geometry` how large a rectangle is and how
many tokens a mask can have, `sampling` draws, `masks` is what comes out. docs/masking.md has the numbers.
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
