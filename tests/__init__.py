"""The tests, and what holds for every process of theirs.

Each has one OpenMP thread. A second one spins while it waits, so tests that run side by side, and the
commands that they start, would fight over the cores. Python looks for garbage as seldom as in a command, and
keeps what it compiles even where the environment says otherwise: hundreds of processes read the same modules.
This file is imported before anything imports torch.
"""

import gc
import os
import sys

gc.set_threshold(10_000)
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
