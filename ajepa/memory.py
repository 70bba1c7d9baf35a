"""Memory of a process: kept for the next step, and what helps in each command when it runs out."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3), from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

_PHRASES = ("can't allocate memory", "out of memory", "cannot allocate memory", "std::bad_alloc")

# Settings that lower the memory of a command, the most effective ones first.
REMEDIES = {
    "pretrain": "raise optim.accumulate (the same step in parts) or lower optim.batch_size; then "
    "run.activation_checkpointing=true, run.precision=bf16-mixed, a shorter data.crop_seconds, a smaller "
    "encoder.size, and of the processor's memory fewer data.workers and a lower data.cache_megabytes",
    "embed": "lower --batch (1 is the least), cut recordings by --window, or use --precision bf16 and fewer "
    "--workers",
    "evaluate": "for fine-tuning lower batch_size or seconds (--set batch_size=8); for probes use --layer "
    "last and --pool mean, whose features are fewer; or use --precision bf16",
}
REMEDIES |= {"predict": REMEDIES["embed"], "compare": REMEDIES["evaluate"]}
OTHERWISE = "use smaller batches or shorter clips"


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step or a batch frees, for the next one.

    glibc returns large blocks to the kernel, which clears them page by page when they are requested again: a
    sixth of the time on a CPU. Other C libraries are not changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or a device could not get the memory that it asked for.

    torch raises OutOfMemoryError for a GPU, and a plain RuntimeError for the processor.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _PHRASES)


def out_of_memory_line(error: BaseException, command: str) -> str:
    """One sentence with what was asked for and the settings that help in a command."""
    first = (str(error).strip() or "Python could not get more").splitlines()[0].rstrip(".")
    # Of "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."
    reason = first.rpartition("DefaultCPUAllocator: ")[2].partition(" Error code")[0].rstrip(".")
    return f"out of memory ({reason}); {REMEDIES.get(command, OTHERWISE)}"
