"""Memory that the processes of one machine have in common."""

from __future__ import annotations

import mmap
import os
import secrets
import weakref

import torch
import torch.distributed as dist
from torch import Tensor

_MARK = 16  # random bytes behind the others, by which a rank knows that it has opened the right memory


class SharedMemory:
    """Bytes that every rank reads and writes in one place; which ranks are still there can be asked at any time.

    Each rank has a lock on a byte of its own. The system gives it up when the process ends, however it ends, before
    anybody has waited for the process, and whatever numbers processes have.

    Attributes:
        bytes: (size,) uint8 on the CPU.
        file: the number of its descriptor in this process.
    """

    def __init__(self, file: int, size: int) -> None:
        """Be there for the other ranks, and take over the file; OSError or ValueError where that is not possible."""
        self.file, self._locks = file, size + _MARK  # locks lie behind what there is of the file: they need no bytes
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self.bytes: Tensor = torch.frombuffer(mmap.mmap(file, size + _MARK), dtype=torch.uint8, count=size)
        self._lock(self._rank)
        weakref.finalize(self, os.close, file)  # not before: a process that closes a file gives up its locks on it

    def gone(self) -> list[int]:
        """The ranks whose processes have ended."""
        found = []
        for other in range(self._ranks):
            if other != self._rank:
                try:
                    self._lock(other)
                    self._lock(other, lock=False)  # for others to find it too
                except OSError:
                    continue
                found.append(other)
        return found

    def _lock(self, rank: int, lock: bool = True) -> None:
        import fcntl  # Unix only

        fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB if lock else fcntl.LOCK_UN, 1, self._locks + rank)


def shared_by_all_ranks(size: int) -> SharedMemory | None:
    """Zero bytes that every rank reads and writes in one place, where all run on one machine.

    The memory has no name in any file system (Linux's memfd), so nothing of it stays when its processes are gone,
    however they end. All ranks must call this together.

    Args:
        size: how many bytes, at least 1.

    Returns:
        The same memory in all ranks; or None in all of them, where one cannot have it: on several machines, in
        containers that do not see each other's processes, on systems other than Linux, without memory.
    """
    first, mark = dist.get_rank() == 0, secrets.token_bytes(_MARK)
    there = _made(size, mark) if first else None
    box = [(os.getpid(), -1 if there is None else there.file, mark)]
    dist.broadcast_object_list(box)
    pid, number, mark = box[0]
    if not first and number >= 0:
        there = _opened(f"/proc/{pid}/fd/{number}", size, mark)
    agreed = torch.tensor([there is not None], dtype=torch.int32)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)  # all have their locks now
    return there if agreed.item() else None


def _made(size: int, mark: bytes) -> SharedMemory | None:
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("w2v_ext")
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, size + _MARK)
        os.pwrite(file, mark, size)
        return SharedMemory(file, size)
    except (OSError, ValueError):
        os.close(file)
        return None


def _opened(path: str, size: int, mark: bytes) -> SharedMemory | None:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        if os.fstat(file).st_size == size + _MARK and os.pread(file, _MARK, size) == mark:
            return SharedMemory(file, size)
    except (OSError, ValueError):
        pass
    os.close(file)
    return None
