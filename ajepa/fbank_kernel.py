"""The compiled part of LogMel on a CPU: what stands before and after the Fourier transform, in one pass each.

In torch every step of a log-mel spectrogram is a pass over memory, and those passes cost more than the
Fourier transform. ``_fbank.c`` does them in two. The first cuts the frames and prepares them for the
transform, with the very roundings of torch's single steps. The second sums power in the mel filters, each of
which spans few frequency bins, and takes the log. The mean of a frame and the transform stay torch's own,
since their order of summation shows in weak bands (see ``ajepa.features``).

The library is optional: it is built with the package where there is a C compiler. It is called through
ctypes, which lets other Python threads run meanwhile. It works on one thread: sharing its rows among threads
of its own beside torch's was slower, since torch's wait for their next work without sleeping.

Axes: B clips, S samples, T frames, L samples of a window, N rows (clips x frames), K frequency bins, M mel
bands, G groups of mel bands.
"""

import ctypes
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad

# As in _fbank.c: a library of another version may read its arguments otherwise.
VERSION = 2
BANDS = 4
TOGETHER = 4


class GroupedFilters(NamedTuple):
    """Mel filters in groups of BANDS neighbours: the first bin and the number of bins that a group uses,
    int32 [G], and the weights [bins of all groups, BANDS] of one group after the other, float32."""

    starts_G: Tensor
    counts_G: Tensor
    weights: Tensor
    bins: int
    mels: int


def available() -> bool:
    """Whether the compiled library is here. Without it LogMel takes torch's steps, to the same result."""
    return _library() is not None


def group(filters_KM: Tensor) -> GroupedFilters:
    """Return mel filters [K, M], float32 on the CPU, in the form that ``log_mel`` takes."""
    bins, mels = filters_KM.shape
    starts, counts, weights = [], [], []
    for filters_KG in pad(filters_KM, (0, -mels % BANDS)).split(BANDS, dim=1):
        used = filters_KG.any(dim=1).nonzero().flatten().tolist()
        first, last = (used[0], used[-1] + 1) if used else (0, 0)
        starts.append(first)
        counts.append(last - first)
        weights.append(filters_KG[first:last])
    starts_G = torch.tensor(starts, dtype=torch.int32, device="cpu")
    counts_G = torch.tensor(counts, dtype=torch.int32, device="cpu")
    return GroupedFilters(starts_G, counts_G, torch.cat(weights), bins, mels)


def recorded(tensor: Tensor) -> bool:
    """Whether something (a gradient, a trace, a transformation) has to know of each step on this tensor."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) is not Tensor
        or (tensor.requires_grad and torch.is_grad_enabled())
        or torch.jit.is_tracing()
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None
    )


def takes(tensor: Tensor) -> bool:
    """Whether the functions here may stand for torch's: the library is here, the tensor is plain memory of
    the CPU, and no single step on it is recorded."""
    return not recorded(tensor) and tensor.is_cpu and available()


def cut_frames(waveform_BS: Tensor, means_BT1: Tensor, window_L: Tensor, hop: int, fft_size: int) -> Tensor:
    """Return the frames [B·T, fft_size] of waveforms [B, S]: less their means [B, T, 1], pre-emphasised,
    windowed and padded with zeros.

    ``window_L`` lacks the window's first sample, a zero. All tensors are float32 on the CPU.
    Raises ValueError if they are not, or do not fit together; RuntimeError where the library is missing.
    """
    (clips, samples), (_, frames, _), window = waveform_BS.shape, means_BT1.shape, len(window_L) + 1
    if len(means_BT1) != clips or samples < (frames - 1) * hop + window or fft_size < window:
        raise ValueError(
            f"waveforms {list(waveform_BS.shape)} do not have the frames of {list(means_BT1.shape)} means, "
            f"{window} samples every {hop}, of at most {fft_size}; give tensors of matching shapes"
        )
    rows_NL = torch.empty((clips * frames, fft_size), dtype=torch.float32, device="cpu")
    tensors = [_ready(tensor, torch.float32) for tensor in (waveform_BS, means_BT1, window_L, rows_NL)]
    pointers = [tensor.data_ptr() for tensor in tensors]
    _loaded().ajepa_cut_frames(*pointers, samples, frames, window, hop, fft_size, len(rows_NL))
    return rows_NL


def log_mel(
    spectrum_NK: Tensor,
    filters: GroupedFilters,
    floor: float,
    mean: float = 0.0,
    scale: float = 1.0,
    out_NM: Tensor | None = None,
) -> Tensor:
    """Return ``(log(max(energy, floor)) - mean) / scale`` [N, M] of the energies that mel filters find in
    spectra [N, K], complex64 on the CPU. ``out_NM``, float32 in one block, is what it is written to.

    Raises ValueError if the tensors are of another kind; RuntimeError where the library is missing.
    """
    rows, bins = spectrum_NK.shape
    if bins != filters.bins:
        raise ValueError(
            f"the spectra have {bins} bins, the filters {filters.bins}; use one FFT size for both"
        )
    if out_NM is None:
        out_NM = torch.empty((rows, filters.mels), dtype=torch.float32, device="cpu")
    elif _ready(out_NM, torch.float32) is not out_NM or out_NM.shape != (rows, filters.mels):
        raise ValueError(
            f"the result is written to {list(out_NM.shape)} in steps of {out_NM.stride()}; give "
            f"[{rows}, {filters.mels}] in one block"
        )
    spectrum_NK = _ready(spectrum_NK, torch.complex64)
    power = torch.zeros(TOGETHER * bins, dtype=torch.float32, device="cpu")
    tensors = (spectrum_NK, filters.starts_G, filters.counts_G, filters.weights, power, out_NM)
    pointers = [tensor.data_ptr() for tensor in tensors]
    _loaded().ajepa_log_mel(*pointers, floor, mean, scale, bins, filters.mels, rows)
    return out_NM


def _ready(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_cpu or tensor.dtype != dtype:
        raise ValueError(f"the kernel got {tensor.dtype} on {tensor.device}; give it {dtype} on the CPU")
    return tensor.resolve_conj().resolve_neg().contiguous()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    beside = [Path(__file__).with_name(f"_fbank{suffix}") for suffix in EXTENSION_SUFFIXES]
    path = next(filter(Path.exists, beside), None)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # built on another machine, into a folder that both see
        return None
    library.ajepa_fbank_version.restype = ctypes.c_int64
    if library.ajepa_fbank_version() != VERSION:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.ajepa_cut_frames.argtypes = [pointer] * 4 + [integer] * 6
    library.ajepa_cut_frames.restype = None
    library.ajepa_log_mel.argtypes = [pointer] * 6 + [ctypes.c_float] * 3 + [integer] * 3
    library.ajepa_log_mel.restype = None
    return library


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError(
            "the compiled part of the log-mel spectrogram is missing; install the package where there is a C "
            "compiler, or ask available() first"
        )
    return library
