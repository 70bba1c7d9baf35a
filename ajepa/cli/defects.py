"""The command line's report of a failure: one line, and for a defect the place of its traceback."""

from __future__ import annotations

import sys
import tempfile
import traceback
from importlib.metadata import metadata

from ajepa.errors import AjepaError
from ajepa.files import not_utf8
from ajepa.memory import is_out_of_memory, out_of_memory_line

WRONG_USE, DEFECT, INTERRUPTED = 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h
# Libraries whose own errors are about a file, a server or a disk, not about this package.
LIBRARIES = (
    *("pyarrow", "yaml", "safetensors", "safetensors_rust", "soundfile", "av", "csv", "_csv"),
    *("huggingface_hub", "httpx", "httpx2", "requests", "urllib3", "filelock"),
    *("zipfile", "tarfile", "zlib", "lzma"),
)


def reported(error: BaseException, debug: bool, command: str = "", skips: bool = False) -> int:
    """Report a failure on stderr, with --debug after its traceback; returns the exit status.

    Args:
        command: such as "pretrain", for the settings that help.
        skips: whether its --skip-broken, which was not given, would go on without an unusable file.
    """
    if debug:
        traceback.print_exception(error)
    status, line = _described(error, command)
    if skips and _skippable(error):
        line += ", or pass --skip-broken"
    if status == DEFECT:
        line += f". This is a defect of ajepa; please report it{_address()} with its traceback"
        line += " above" if debug else f", {_kept(error)} (--debug shows it)"
    print(f"ajepa: {line}", file=sys.stderr)
    return status


def _skippable(error: BaseException) -> bool:
    from ajepa.audio.errors import REMOVE, AudioError  # its import takes half of a command's start

    return isinstance(error, AudioError) and str(error).endswith(REMOVE)


def _described(error: BaseException, command: str) -> tuple[int, str]:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, str(error) or "interrupted"
    if is_out_of_memory(error):
        return WRONG_USE, out_of_memory_line(error, command)
    if isinstance(error, (AjepaError, OSError)):  # an OSError, such as of a full disk, names its path
        return WRONG_USE, str(error)
    if type(error).__module__.partition(".")[0] in LIBRARIES:  # of a file that a library cannot read
        return WRONG_USE, f"{type(error).__name__}: {_first_line(error)}"
    if isinstance(error, UnicodeEncodeError):
        return WRONG_USE, not_utf8(error)
    if isinstance(error, UnicodeError):
        return WRONG_USE, f"not UTF-8 text: {_first_line(error)}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "ajepa").startswith("ajepa"):
        return WRONG_USE, f"the package {error.name} is not installed; run `pip install {error.name}`"
    return DEFECT, f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0].rstrip(".")


def _kept(error: BaseException) -> str:
    """Write the traceback into a file: a long run need not fail again to be understood."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ajepa-defect-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "which --debug shows"
    return file.name


def _address() -> str:
    for line in metadata("ajepa").get_all("Project-URL") or []:
        name, _, address = line.partition(", ")
        if name.lower() in ("issues", "bug tracker"):
            return f" at {address}"
    return ""
