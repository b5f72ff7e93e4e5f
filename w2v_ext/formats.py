"""Reading and writing vectors in the word2vec text and binary formats.

Nothing here unpickles anything, and nothing believes a header: memory grows with the data that is really there, so a
file that claims 10^12 rows costs an error, not an allocation. Files are written under a temporary name in the same
directory and renamed when complete, so a real name never holds half a file.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .files import FormatError, write_files

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DIM = 1 << 20  # more columns than any embedding has: a larger number in a header is a damaged header
_MAX_WORD_BYTES = 1 << 20
_MAX_NUMBER_CHARS = 64  # longest text of one number that a reader accepts; the shortest repr of a float32 has <= 15
_READ_BYTES = 1 << 20
_BREAKS = frozenset(" \t\n\r\v\f")  # what readers of the text format split at

PathLike = str | os.PathLike[str]


def _encode_word(word: str) -> bytes:
    """Return the UTF-8 bytes of a word, or raise ValueError for one that no reader would get back whole."""
    if not word or not _BREAKS.isdisjoint(word):
        raise ValueError(f"words: {word!r} is empty or contains white space, which the word2vec format cannot hold")
    try:
        return word.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"words: {word!r} cannot be written as UTF-8: {error.reason}") from error


# ---- the word2vec format: writing --------------------------------------------------------------------------------


def save_word2vec_format(
    path: PathLike,
    words: Sequence[str],
    vectors: np.ndarray,
    counts: Sequence[int] | np.ndarray | None = None,
    binary: bool = False,
) -> None:
    """Write vectors as word2vec does: a line `rows columns`, then one record per word.

    Text records are `word number number ...` with the shortest digits that give back the same float32; binary ones
    are `word `, the little-endian float32 values, and a newline. A float32 array survives either bit by bit.

    Args:
        path: the file to write, replaced only when the new one is complete; `.gz` at the end compresses it.
        words: V distinct words.
        vectors: (V, D), D >= 1, written as float32.
        counts: (V,) how often each word occurred; given, the rows are written in order of falling count (ties as they
            come), which is what readers with a `limit` expect.
        binary: the binary format instead of the text one.

    Raises:
        ValueError: shapes that do not match, a word that is empty, repeated or contains white space, a value that is
            not finite.
        OSError: `path` cannot be written.
    """
    path = Path(path)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf, which is reported below
        rows = np.ascontiguousarray(vectors, dtype="<f4")
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(f"vectors: expected shape (V, D) with D >= 1, got {rows.shape}")
    if len(words) != len(rows):
        raise ValueError(f"words: expected {len(rows)} to match vectors, got {len(words)}")
    if len(set(words)) != len(words):
        raise ValueError(f"words: {_first_repeated(words)!r} appears twice")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(f"vectors: the vector of {words[int(finite.argmin())]!r} is not finite as float32")
    order = np.arange(len(rows))
    if counts is not None:
        count_array = np.asarray(counts)
        if count_array.shape != (len(rows),):
            raise ValueError(f"counts: expected shape ({len(rows)},) to match vectors, got {count_array.shape}")
        order = np.argsort(-count_array.astype(np.int64), kind="stable")
    encoded = [_encode_word(word) for word in words]

    def write(target: Path) -> None:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(target, "wb") as file:
            file.write(b"%d %d\n" % rows.shape)
            for i in order.tolist():
                if binary:
                    file.write(encoded[i] + b" " + rows[i].tobytes() + b"\n")
                else:
                    # astype(str) gives the shortest digits that round-trip, and is ten times as fast as repr.
                    file.write(encoded[i] + b" " + " ".join(rows[i].astype(str).tolist()).encode() + b"\n")

    write_files({path: write})


def _first_repeated(words: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(word for word in words if word in seen or seen.add(word))


# ---- the word2vec format: reading --------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_reading(path: Path) -> Iterator[BinaryIO]:
    """Open a plain or gzip-compressed file (told by its first bytes); a damaged gzip stream is a FormatError."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            with gzip.open(raw) if compressed else contextlib.nullcontext(raw) as file:
                yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FormatError(f"{path}: damaged or truncated gzip data: {error}") from error


def _read_header(path: Path, file: BinaryIO) -> tuple[int, int]:
    line = file.readline(256)
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or not line.endswith(b"\n"):
        shown = line[:60].decode("utf-8", "replace").rstrip("\n")
        raise FormatError(f"{path}: line 1: expected a header 'rows columns', got {shown!r}")
    rows, dim = int(fields[0]), int(fields[1])
    if not 1 <= dim <= _MAX_DIM:
        raise FormatError(f"{path}: line 1: the header says {dim} columns, expected 1 to {_MAX_DIM}")
    return rows, dim


def _text_records(path: Path, file: BinaryIO, wanted: int, dim: int) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Yield (place, word, values) of up to `wanted` rows of the text format."""
    longest = _MAX_WORD_BYTES + dim * _MAX_NUMBER_CHARS
    for number in range(2, wanted + 2):
        place = f"line {number}"
        line = file.readline(longest)
        if not line:
            return
        if len(line) == longest and not line.endswith(b"\n"):
            raise FormatError(f"{path}: {place}: longer than a word and {dim} numbers can be")
        fields = line.rstrip(b" \r\n").split(b" ")
        if len(fields) != dim + 1:
            raise FormatError(f"{path}: {place}: expected a word and {dim} numbers, got {len(fields)} fields")
        try:
            yield place, fields[0], np.array([float(field) for field in fields[1:]], dtype=np.float64)
        except ValueError as error:
            raise FormatError(f"{path}: {place}: not a number: {error}") from error


def _binary_records(path: Path, file: BinaryIO, wanted: int, dim: int) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Yield (place, word, values) of up to `wanted` records of the binary format, with or without newlines between."""
    offset = file.tell()
    for number in range(1, wanted + 1):
        place = f"record {number} at byte {offset}"
        word = _read_past_space(file)
        if not word.endswith(b" "):
            if not word.strip(b"\n"):
                return
            raise FormatError(f"{path}: {place}: no space after the word: truncated, or not in the binary format")
        data = file.read(4 * dim)
        if len(data) < 4 * dim:
            raise FormatError(f"{path}: {place}: truncated: {len(data)} bytes of a vector of {4 * dim}")
        offset += len(word) + len(data)
        yield place, word[:-1].removeprefix(b"\n"), np.frombuffer(data, dtype="<f4")


def _read_past_space(file: BinaryIO) -> bytes:
    """Read up to and with the next space; without one, to the end of the file or of the longest word."""
    word = b""
    while len(word) < _MAX_WORD_BYTES and (chunk := file.peek(1)):
        space = chunk.find(b" ")
        word += file.read(len(chunk) if space < 0 else space + 1)
        if space >= 0:
            break
    return word


def load_word2vec_format(
    path: PathLike,
    *,
    binary: bool = False,
    limit: int | None = None,
    errors: str = "strict",
    dtype: np.typing.DTypeLike = np.float32,
) -> tuple[list[str], np.ndarray]:
    """Read vectors in the word2vec text or binary format, plain or gzip-compressed.

    Binary records may be followed by a newline (word2vec.c) or not (gensim). A word that comes again is dropped with a
    warning; the first vector stays.

    Args:
        path: the file.
        binary: the binary format instead of the text one.
        limit: read only the first `limit` rows; what follows them is not looked at.
        errors: what to do with words that are not UTF-8: `strict`, `replace`, `ignore`, as in `bytes.decode`.
        dtype: float dtype of the result.

    Returns:
        The words, and a (rows, columns) array of `dtype`.

    Raises:
        FormatError: the header is none or does not agree with the rows, a row has the wrong number of columns, a value
            is not a finite number, a word is not UTF-8, or the file ends early.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if limit is not None and limit < 0:
        raise ValueError(f"limit: expected None or a number >= 0, got {limit}")
    words: list[str] = []
    seen: set[str] = set()
    repeated: list[str] = []
    with _open_reading(path) as file:
        promised, dim = _read_header(path, file)
        wanted = promised if limit is None else min(promised, limit)
        vectors = np.empty((min(wanted, max(1, (1 << 20) // dim)), dim), dtype=dtype)
        records = (_binary_records if binary else _text_records)(path, file, wanted, dim)
        for place, raw, values in records:
            word = _decode_word(path, place, raw, errors)
            if word in seen:
                repeated.append(word)
                continue
            if len(words) == len(vectors):  # grow with the rows that are there, not with the number in the header
                vectors.resize((min(wanted, 2 * len(vectors)), dim), refcheck=False)
            row = vectors[len(words)]
            with np.errstate(over="ignore"):
                row[:] = values
            if not np.isfinite(row).all():
                column = int(np.isfinite(row).argmin()) + 1
                raise FormatError(f"{path}: {place}: the vector of {word!r} is not finite (number {column})")
            del row
            seen.add(word)
            words.append(word)
        got = len(words) + len(repeated)
        if got < wanted:
            raise FormatError(f"{path}: truncated: the header says {promised} rows, the file ends after {got}")
        if limit is None and file.read(_READ_BYTES).strip(b"\r\n "):
            raise FormatError(f"{path}: the header says {promised} rows, but more data follows them")
    if repeated:
        warnings.warn(f"{path}: {len(repeated)} repeated words dropped, first {repeated[0]!r}", stacklevel=2)
    vectors.resize((len(words), dim), refcheck=False)
    return words, vectors


def _decode_word(path: Path, place: str, raw: bytes, errors: str) -> str:
    if not raw:
        raise FormatError(f"{path}: {place}: the word is empty")
    try:
        return raw.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: {place}: the word {raw[:40]!r} is not UTF-8 (byte {error.start} of it); "
            "errors='replace' or 'ignore' goes on"
        ) from error
