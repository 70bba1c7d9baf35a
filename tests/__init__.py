"""The tests, and what holds for every process of theirs.

Each has one OpenMP thread. A second one spins while it waits, so tests that run side by side, and the
commands that they start, would fight over the cores. This file is imported before anything imports torch.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
