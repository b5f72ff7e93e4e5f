"""Memory that the processes of one machine have in common."""

from __future__ import annotations

import mmap
import os
import secrets

import torch
import torch.distributed as dist
from torch import Tensor

_MARK = 16  # random bytes behind the others, by which a rank knows that it has opened the right memory


def shared_by_all_ranks(size: int) -> Tensor | None:
    """Zero bytes that every rank reads and writes in one place, where all run on one machine.

    The memory has no name in any file system (Linux's memfd), so nothing of it stays when its processes are gone,
    however they end. All ranks must call this together.

    Args:
        size: how many bytes, at least 1.

    Returns:
        (size,) uint8 on the CPU, the same memory in all ranks; or None in all of them, where one cannot have it: on
        several machines, in containers that do not see each other's processes, on systems other than Linux, without
        memory.
    """
    first, mark, file = dist.get_rank() == 0, secrets.token_bytes(_MARK), -1
    try:
        if first and hasattr(os, "memfd_create"):
            file = os.memfd_create("w2v_ext")
            os.posix_fallocate(file, 0, size + _MARK)
            os.pwrite(file, mark, size)
    except OSError:
        if file >= 0:
            os.close(file)
        file = -1
    try:
        box = [(os.getpid(), file, mark)]
        dist.broadcast_object_list(box)
        pid, number, mark = box[0]
        there = None if number < 0 else _opened(file if first else f"/proc/{pid}/fd/{number}", size, mark)
        agreed = torch.tensor([there is not None], dtype=torch.int32)
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
    finally:
        if file >= 0:
            os.close(file)
    return torch.frombuffer(there, dtype=torch.uint8, count=size) if there and agreed.item() else None


def _opened(file: int | str, size: int, mark: bytes) -> mmap.mmap | None:
    try:
        descriptor = os.dup(file) if isinstance(file, int) else os.open(file, os.O_RDWR)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_size != size + _MARK or os.pread(descriptor, _MARK, size) != mark:
            return None
        return mmap.mmap(descriptor, size + _MARK)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
