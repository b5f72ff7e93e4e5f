"""How much memory there is, asked before much of it is taken: a message then, instead of a process that is killed."""

from __future__ import annotations

from pathlib import Path

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
_SMALL = 64 << 20  # bytes that are not asked about


def available_memory() -> int | None:
    """Bytes that this process could take without swapping, as far as the system (Linux) tells; None elsewhere."""
    bounds = []
    try:
        lines = (line.partition(":") for line in _MEMINFO.read_text().splitlines())
        bounds.append(1024 * next(int(value.split()[0]) for name, _, value in lines if name == "MemAvailable"))
        bounds.append(int(_CGROUP.read_text()))  # "max" where there is no bound
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    return min(bounds, default=None)


def check_memory(size: int, what: str, remedy: str = "") -> None:
    """Refuse to take more memory than there is.

    Args:
        size: bytes.
        what: that takes them, for the message: "dim: a table of 3 words x 5 takes", without the figure.
        remedy: what to do about it.

    Raises:
        MemoryError: there is less.
    """
    available = available_memory() if size > _SMALL else None
    if available is not None and size > available:
        raise MemoryError(
            f"{what} {size / 2**30:.1f} GiB, more than there is ({available / 2**30:.1f} GiB){remedy and '; '}{remedy}"
        )
