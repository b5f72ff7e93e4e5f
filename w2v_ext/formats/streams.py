"""Files as streams of blocks: decompressed on the way in, compressed on the way out, worked on by several threads."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from .. import _text
from ..files import FormatError
from ..sources import CorpusError, SourceFile, open_source, read_chunks

COMPRESSED_SUFFIXES = (".gz", ".xz", ".zst")

_MAX_WINDOW = 1 << 27  # bytes that a decompressor may hold: the bound of the program zstd, twice what `xz -9` needs
_MAX_UNPACKED, _MAX_RATIO = 1 << 30, 200  # vectors hardly shrink to a fifth; what is far beyond that is a bomb

Progress = Callable[[int, int | None], object]  # bytes (or rows) done, and of how many
Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count(threads: int) -> int:
    """Return `threads`, or for 0 as many as this process may use.

    Raises:
        ValueError: a negative number.
    """
    if threads < 0:
        raise ValueError(f"threads: expected a number >= 0, got {threads}")
    if threads:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def open_chunks(path: Path, progress: Progress | None = None) -> Iterator[Iterator[bytes]]:
    """Open a file and give its bytes in chunks of about 1 MB; .gz, .xz and .zst are told by their first bytes.

    Raises:
        FormatError: compressed data that are damaged or end early, or become more than 1 GiB and more than 200 times
            the size of the file.
        OSError: the file cannot be read.
    """
    size = os.stat(path).st_size
    source = SourceFile(str(path), os.fspath(path), str(path), size, None)
    report = (lambda done: progress(done, size)) if progress else (lambda done: None)
    with open_source(source) as (raw, head):
        chunks = read_chunks(source, raw, head, report, _MAX_WINDOW)

        def give() -> Iterator[bytes]:
            most, done = max(_MAX_UNPACKED, _MAX_RATIO * size), 0
            try:
                for chunk in chunks:
                    done += len(chunk)
                    if done > most and not source.is_plain(head):
                        raise FormatError(f"{path}: {size:,} bytes unpack to more than {most:,}: these are no vectors")
                    yield chunk
            except CorpusError as error:
                raise FormatError(str(error)) from error

        yield give()


def line_blocks(chunks: Iterable[bytes], longest: Callable[[], int]) -> Iterator[bytes]:
    """Yield blocks that end behind a line break (the last one: with the file); or a line of more than `longest()`."""
    held = b""
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield held + chunk[:cut]
            held = chunk[cut:]
        else:
            held += chunk
            if len(held) > longest():
                break
    if held:
        yield held


class ByteStream:
    """Exact reads from chunks; the end of the data in the middle of one is a FormatError that names the byte."""

    def __init__(self, path: Path, chunks: Iterator[bytes]):
        self.path = path
        self.offset = 0  # of the next byte
        self._chunks = chunks
        self._held = b""

    def _need(self) -> bool:
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._held = chunk
        return True

    def _truncated(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: truncated at byte {self.offset}, in {what}")

    def read(self, n: int, what: str) -> bytes:
        """Read `n` bytes; `what` names them in the error."""
        parts = []
        while n > 0:
            if not self._need():
                raise self._truncated(what)
            parts.append(self._held[:n])
            self._held = self._held[n:]
            self.offset += len(parts[-1])
            n -= len(parts[-1])
        return b"".join(parts)

    def read_past(self, byte: bytes, longest: int, what: str) -> bytes:
        """Read up to and with `byte`; give what stands before it."""
        parts, size = [], 0
        while size <= longest:
            if not self._need():
                raise self._truncated(what)
            end = self._held.find(byte)
            parts.append(self._held if end < 0 else self._held[:end])
            self._held = b"" if end < 0 else self._held[end + 1 :]
            size += len(parts[-1])
            self.offset += len(parts[-1]) + (end >= 0)
            if end >= 0:
                return b"".join(parts)
        raise FormatError(f"{self.path}: at byte {self.offset - size}: {what} of more than {longest} bytes")

    def read_array(self, shape: tuple[int, int], what: str) -> np.ndarray:
        """Read a float32 matrix; memory grows with the bytes that are there."""
        buffer = _text.GrowingBuffer()
        left = 4 * shape[0] * shape[1]
        while left > 0:
            if not self._need():
                raise self._truncated(f"{what} {shape}")
            part, self._held = self._held[:left], self._held[left:]
            buffer.append(part)
            self.offset += len(part)
            left -= len(part)
        return buffer.finish(np.dtype("<f4")).reshape(shape)

    def at_end(self) -> bool:
        """Tell whether all has been read."""
        return not self._need()


@contextlib.contextmanager
def open_writing(target: Path, name: Path) -> Iterator[IO[bytes]]:
    """Open `target` for writing, compressed as the suffix of `name` says; equal contents give equal bytes."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(open(target, "wb"))
        if name.suffix == ".gz":
            yield stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0))
        elif name.suffix == ".xz":
            yield stack.enter_context(lzma.open(raw, "wb"))
        elif name.suffix == ".zst":
            import zstandard

            compressor = zstandard.ZstdCompressor(write_checksum=True)
            yield stack.enter_context(compressor.stream_writer(raw, closefd=False))
        else:
            yield raw


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield `function(item)` in order, computed by several threads; only a few items exist at a time."""
    if threads == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
