"""Tables of weights and thresholds, laid out as the in-place kernels want them."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import torch
from torch import Tensor

from .footprint import REMEDY
from .memory import check_memory

_ROW_FLOATS = 16  # rows are padded to 64 bytes, a cache line and the widest vector
_HUGE_PAGE = 2 << 20  # bytes


def padded_weight(vocab_size: int, dim: int) -> Tensor:
    """A zero (V, D) float32 view whose rows start on 64-byte boundaries, as the in-place kernels want them.

    Large tables lie in huge pages where the system has them: their rows are visited at random, and with small pages
    nearly every visit misses the TLB (measured: 5 % of the training speed with 49,000 words).

    Raises:
        MemoryError: there is not that much; the message says what to lower.
    """
    stride = -(-dim // _ROW_FLOATS) * _ROW_FLOATS
    size = vocab_size * stride  # floats
    what = f"dim: a table of {vocab_size} words x {dim} takes"
    check_memory(4 * size, what, REMEDY)
    if 4 * size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory = mmap.mmap(-1, 4 * size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"{what} {4 * size / 2**30:.1f} GiB, more than there is; {REMEDY}") from error
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        buffer, boundary = torch.frombuffer(memory, dtype=torch.float32), _HUGE_PAGE
    else:
        buffer, boundary = torch.zeros(size + _ROW_FLOATS), 4 * _ROW_FLOATS
    offset = -buffer.data_ptr() % boundary // 4
    return buffer[offset : offset + size].view(vocab_size, stride)[:, :dim]


def keep_thresholds(probabilities: np.ndarray) -> Tensor:
    """(V,) int32 with the bits of uint32 thresholds: 32 random bits are at most this with the given probability."""
    scaled = np.clip(np.rint(np.asarray(probabilities, np.float64) * 2.0**32) - 1, 0, 2**32 - 1)
    return torch.from_numpy(scaled.astype(np.uint32).view(np.int32))
