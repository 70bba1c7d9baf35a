"""Out of memory: how it is recognised, and what helps in each command."""

from __future__ import annotations

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
