"""Where words come from: files (plain, gzip, xz, zstd), directories, standard input, sequences of items."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from . import _text
from .packages import import_package

_CHUNK = 1 << 20  # bytes read or handed on at a time
MAX_WINDOW = 1 << 31  # bytes that a decompressor may hold: as `zstd --long=31` and the largest texts have it
_GZIP, _XZ, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"


class CorpusError(ValueError):
    """Text or a corpus directory that cannot be used; the message names the file and the place."""


@dataclass(frozen=True)
class SourceFile:
    """One file to read, as it was when the sources were listed."""

    name: str  # for messages; "-" for standard input
    path: str  # resolved
    argument: str  # the source it belongs to, as the caller named it
    size: int | None  # None for what has no size and cannot be read twice: standard input, pipes
    mtime_ns: int | None

    def check_unchanged(self, raw: IO[bytes]) -> None:
        """Raise CorpusError if the open file is not what it was when the sources were listed."""
        if self.size is None:
            return
        info = os.fstat(raw.fileno())
        if (info.st_size, info.st_mtime_ns) != (self.size, self.mtime_ns):
            raise CorpusError(f"{self.name}: the file changed while it was read (it had {self.size} bytes)")

    def is_plain(self, head: bytes) -> bool:
        """Tell whether this is a regular, uncompressed file."""
        return self.size is not None and not head.startswith((_GZIP, _XZ, _ZSTD))


def list_files(sources: str | os.PathLike | Sequence[str | os.PathLike]) -> list[SourceFile]:
    """Return the files that `sources` stand for, in order; see `prepare_corpus`."""
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    files: list[SourceFile] = []
    for source in sources:
        if isinstance(source, (list, tuple)):
            raise TypeError("sources: expected paths, got a list; corpus_from_sequences takes sequences of words")
        source = os.fspath(source)
        if source == "-":
            files.append(SourceFile("-", "-", "-", None, None))
        elif os.path.isdir(source):
            found = []
            for folder, folders, names in os.walk(source, onerror=_raise):
                folders[:] = [name for name in folders if not name.startswith(".")]
                found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
            # Only regular files: a directory may hold a socket or a pipe that nobody meant to be read.
            files_in_it = [f for f in (_stat_file(path, source) for path in sorted(found)) if f.size is not None]
            if not any(f.size for f in files_in_it):
                raise ValueError(f"{source}: the directory has no files with text in it")
            files += files_in_it
        else:
            file = _stat_file(source, source)
            if file.size == 0:
                raise ValueError(f"{source}: the file is empty")
            files.append(file)
    if not files:
        raise ValueError("sources: expected at least one file, directory or -, got none")
    return files


def _raise(error: OSError) -> None:
    raise error


def _stat_file(path: str, argument: str) -> SourceFile:
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        return SourceFile(path, path, argument, None, None)
    return SourceFile(path, os.path.realpath(path), argument, info.st_size, info.st_mtime_ns)


@contextlib.contextmanager
def open_source(file: SourceFile) -> Iterator[tuple[IO[bytes], bytes]]:
    """Open a source; give the binary file and its first bytes, which have been read from it."""
    with contextlib.ExitStack() as stack:
        if file.path == "-":
            raw = getattr(sys.stdin, "buffer", sys.stdin)
        else:
            raw = stack.enter_context(open(file.path, "rb", buffering=0))
        head = b""
        while len(head) < len(_XZ) and (data := raw.read(len(_XZ) - len(head))):
            head += data
        yield raw, head


class _Bytes(io.RawIOBase):
    """Bytes read already, then a file, then a tail; says how much of the file has been read."""

    def __init__(self, head: bytes, file: IO[bytes], report: Callable[[int], object]):
        self.head, self.file, self.report = head, file, report
        self.tail, self.done = b"", len(head)

    def readable(self) -> bool:
        return True

    def read(self, n: int = _CHUNK) -> bytes:
        n = _CHUNK if n is None or n < 0 else n
        data, self.head = self.head[:n], self.head[n:]
        if not data:
            data = self.file.read(n)
            self.done += len(data)
            self.report(self.done)
        if not data:
            data, self.tail = self.tail[:n], self.tail[n:]
        return data


def read_chunks(
    file: SourceFile,
    raw: IO[bytes],
    head: bytes,
    report: Callable[[int], object],
    max_window: int = MAX_WINDOW,
) -> Iterator[bytes | memoryview]:
    """Yield the text of an open source in chunks, decompressed. CorpusError naming a damaged file.

    Args:
        file, raw, head: as `open_source` gives them.
        report: called with the bytes of the file read so far.
        max_window: .xz and .zst that ask for more memory than this are refused.
    """
    source = _Bytes(head, raw, report)
    try:
        if head.startswith(_GZIP):
            yield from _read_all(gzip.GzipFile(fileobj=source, mode="rb"))
        elif head.startswith(_XZ):
            yield from _read_xz(source, max_window)
        elif head.startswith(_ZSTD):
            yield from _read_zstd(source, max_window)
        else:
            yield from _read_all(source)
    except Exception as error:
        # zstandard's error is known by its name: the package is needed for .zst files only
        damaged = isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError))
        if damaged or type(error).__name__ == "ZstdError":
            name = "standard input" if file.name == "-" else file.name
            raise CorpusError(f"{name}: the compressed data are damaged or incomplete: {error}") from error
        raise


def _read_all(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(_CHUNK):
        yield data


def _read_xz(source: _Bytes, max_window: int) -> Iterator[bytes]:
    """As lzma.LZMAFile reads, which sets no bounds: one stream after another, zeros between them."""
    data = b""
    while data or (data := source.read(_CHUNK)):
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=max_window + (1 << 24))  # and what else it needs
        while not decoder.eof:
            if decoder.needs_input and not (data := data or source.read(_CHUNK)):
                raise EOFError("the data end inside a stream")
            if text := decoder.decompress(data, _CHUNK):
                yield text
            data = b""
        data = decoder.unused_data
        while not data.strip(b"\0") and (data := source.read(_CHUNK)):
            pass
        data = data.lstrip(b"\0")


def _read_zstd(source: _Bytes, max_window: int) -> Iterator[bytes]:
    zstandard = import_package("zstandard", "zstandard", "to read .zst files")
    # The reader takes the end of its input for the end of the text, even inside a frame. So one more frame is added,
    # whose contents cannot be guessed: they come out, and come out last, only if all before them was whole.
    mark = secrets.token_bytes(24)
    source.tail = zstandard.ZstdCompressor(write_checksum=True).compress(mark)
    reader = zstandard.ZstdDecompressor(max_window_size=max_window).stream_reader(source, read_across_frames=True)
    held = b""
    while data := reader.read(_CHUNK):
        held += data
        if len(held) > len(mark):  # an empty chunk would be taken for the end
            yield held[: -len(mark)]
        held = held[-len(mark) :]
    if held != mark:
        raise EOFError("the data end inside a frame")


def import_jieba() -> Any:
    """Return the module jieba. ImportError saying how to install it."""
    try:
        import jieba
    except ImportError:
        raise ImportError("tokenizer='jieba' needs the package jieba: pip install 'w2v_ext[chinese]'") from None
    return jieba


def segment(chunks: Iterable[bytes], name: str, errors: str) -> tuple[Iterator[bytes], list[int]]:
    """Put spaces between the words that jieba finds in each line.

    Returns the segmented text, and a list whose one number counts the invalid sequences replaced so far.
    """
    jieba = import_jieba()
    replaced = [0]

    def run() -> Iterator[bytes]:
        offset = 0
        for piece in _whole_lines(chunks):
            try:
                text = piece.decode("utf-8")
            except UnicodeDecodeError as error:
                if errors == "strict":
                    raise _text.TextError("utf8", name, offset + error.start, piece[error.start]) from None
                text = piece.decode("utf-8", "replace")
                replaced[0] += text.count("\ufffd") - piece.count("\ufffd".encode())
            offset += len(piece)
            yield "\n".join(" ".join(jieba.cut(line)) for line in text.split("\n")).encode()
            if not piece.endswith(b"\n"):
                yield b" "

    return run(), replaced


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut behind line ends; a line of more than 1 MB is cut between two characters."""
    held = b""
    for chunk in chunks:
        held += chunk
        cut = held.rfind(b"\n") + 1
        if cut == 0 and len(held) > _CHUNK:
            cut = len(held) - 1
            while cut > len(held) - 4 and held[cut] & 0xC0 == 0x80:
                cut -= 1
        if cut:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def feed_sequences(builder: _text.Builder, sequences: Any) -> None:
    """Hand item sequences to a builder whose tokenizer is "items"; see `corpus_from_sequences`."""
    if hasattr(sequences, "__array__"):
        _feed_array(builder, np.asarray(sequences), "sequences")
    else:
        for i, sequence in enumerate(sequences):
            _feed_sequence(builder, sequence, f"sequences[{i}]")


def _feed_array(builder: _text.Builder, rows: np.ndarray, name: str) -> None:
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected a 2-D array of integers, got shape {rows.shape} and dtype {rows.dtype}")
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if part.dtype == np.uint64 and part.size and part.max() >= 2**63:
            raise ValueError(f"{name}: expected integers below 2**63, got {part.max()}")
        builder.feed_rows(np.ascontiguousarray(part, dtype=np.int64))


def _feed_sequence(builder: _text.Builder, sequence: Any, name: str) -> None:
    if isinstance(sequence, (str, bytes)):
        raise TypeError(f"{name}: expected a sequence of items, got the string {sequence!r}")
    if isinstance(sequence, np.ndarray) and sequence.dtype.kind in "iu":
        return _feed_array(builder, sequence[None], name)
    items = list(sequence)
    kinds = set(map(type, items))
    if bad := [k.__name__ for k in kinds if issubclass(k, bool) or not issubclass(k, (int, np.integer, str))]:
        raise TypeError(f"{name}: expected integers or strings, got an item of type {bad[0]}")
    if not any(issubclass(k, str) for k in kinds):
        try:
            numbers = np.array([items], dtype=np.int64)
        except OverflowError:
            raise ValueError(f"{name}: expected integers below 2**63, got {max(items)}") from None
        return _feed_array(builder, numbers, name)
    words = [item if isinstance(item, str) else str(item) for item in items if isinstance(item, str) or item >= 0]
    line = "\t".join(words)
    if "\n" in line or "\r" in line or line.count("\t") != len(words) - 1 or "" in words:
        bad_word = next(w for w in words if not w or "\t" in w or "\n" in w or "\r" in w)
        raise ValueError(f"{name}: expected words without tab or line break, and not empty, got {bad_word!r}")
    try:
        builder.feed(f"{line}\n".encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: {line[error.start]!r} cannot be written as UTF-8") from None


def describe_error(error: _text.TextError, segmented: bool = False) -> CorpusError:
    """Word an error of the C++ side; the offsets of jieba-segmented text are not those of the file."""
    kind, name, offset, byte = error.args
    if name == "-":
        name = "standard input"
    if kind == "utf8":
        return CorpusError(
            f"{name}: not UTF-8: byte 0x{byte:02x} at offset {offset}; errors='replace' (--errors replace) puts U+FFFD "
            "in its place and goes on"
        )
    place = "is in the text" if segmented else f"begins at offset {offset}"
    return CorpusError(
        f"{name}: a token of more than {_text.MAX_TOKEN_BYTES:,} bytes {place}; errors='replace' (--errors replace) "
        "drops such tokens and goes on"
    )
