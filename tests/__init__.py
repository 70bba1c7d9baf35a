"""The tests, and what holds for every process of theirs.

Each has one OpenMP thread. A second one spins while it waits, so tests that run side by side, and the
commands that they start, would fight over the cores. Python looks for garbage as seldom as in a command.
This file is imported before anything imports torch.
"""

import gc
import os

gc.set_threshold(10_000)
os.environ.setdefault("OMP_NUM_THREADS", "1")
