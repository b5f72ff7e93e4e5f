"""Reading files of one row a word: word2vec's text and binary formats, GloVe's text, numbers separated by tabs.

Nothing believes a header: memory grows with the rows that are there, so a file that claims 10^12 rows costs an error,
not an allocation. Blocks of text are parsed by several threads (csrc/text/rows.h); beside the result a few blocks are
held.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from .. import _text
from ..files import FormatError
from .collect import ReadOptions, RowCollector
from .streams import Progress, line_blocks, open_chunks, ordered_map, thread_count
from .table import PathLike, VectorTable

_MAX_DIM = 1 << 20  # more columns than any embedding has: a larger number in a header is a damaged header
_MAX_WORD_BYTES = 1 << 20
_MAX_NUMBER_CHARS = 64  # on average over a row; the shortest text of a float64 has up to 24
_MANY = 1 << 62


def parse_header(path: Path, line: bytes) -> tuple[int, int]:
    """Return rows and columns of a line 'rows columns'. FormatError naming the file where it is none."""
    fields = line.split()
    if len(fields) != 2 or not all(f.isdigit() and len(f) < 100 for f in fields) or not line.endswith(b"\n"):
        shown = line[:60].decode("utf-8", "replace").rstrip("\n")
        raise FormatError(f"{path}: line 1: expected a header 'rows columns', got {shown!r}")
    rows, dim = int(fields[0]), int(fields[1])
    if not 1 <= dim <= _MAX_DIM:
        raise FormatError(f"{path}: line 1: the header says {dim} columns, expected 1 to {_MAX_DIM}")
    return rows, dim


def _wanted(promised: int | None, limit: int | None) -> int:
    return min(_MANY if promised is None else promised, _MANY if limit is None else limit)


# ---- text --------------------------------------------------------------------------------------------------------


@dataclass
class _Parsed:
    """A block's rows: words, values, the line of each (from 0), faults as (line, message), and what was there."""

    words: list[bytes]
    values: list[np.ndarray]
    lines: list[int]
    faults: list[tuple[int, str]]
    line_count: int
    blank_from: int | None = None  # the first of the blank lines that the block ends with


def _parse_block(block: bytes, *, dim: int, limit: int, wide: bool, skip: bool, has_word: bool) -> _Parsed:
    parsed = _Parsed([], [], [], [], 0)
    rest: bytes | memoryview = block
    while True:
        words, values, used, fault, detail, text = _text.parse_text_rows(
            rest, dim, limit=limit, has_word=has_word, wide=wide
        )
        parsed.words += words[: len(values)]
        parsed.values.append(values)
        parsed.lines += range(parsed.line_count, parsed.line_count + len(values))
        parsed.line_count += len(values)
        if not fault:
            return parsed
        tail = bytes(rest[used:])
        if fault == "fields" and detail == 0 and not tail.strip():
            parsed.blank_from = parsed.line_count
            parsed.line_count += tail.count(b"\n") + (not tail.endswith(b"\n"))
            return parsed
        end = tail.find(b"\n") + 1 or len(tail)
        message = _describe_fault(fault, detail, text, words[-1:], tail, dim, has_word, end)
        parsed.faults.append((parsed.line_count, message))
        parsed.line_count += 1
        if not skip or end == len(tail):
            return parsed
        rest = tail[end:]


def _describe_fault(
    fault: str, detail: int, text: bytes, last: list[bytes], tail: bytes, dim: int, has_word: bool, end: int
) -> str:
    if end > _longest_line(dim):
        return f"longer than a word and {dim} numbers can be"
    if fault == "fields":
        expected = f"a word and {dim} numbers" if has_word else f"{dim} numbers"
        return f"expected {expected}, got {detail} fields"
    if fault == "number":
        return f"not a number: {text.decode('utf-8', 'replace')!r}"
    if fault == "no word":
        return "the word is empty"
    whose = f"the vector of {last[0].decode('utf-8', 'replace')!r}" if last else "the vector"
    return f"{whose} is not finite (number {detail})"


def _longest_line(dim: int) -> int:
    return _MAX_WORD_BYTES + dim * _MAX_NUMBER_CHARS


def read_text(path: Path, options: ReadOptions, *, header: bool, has_word: bool = True) -> VectorTable:
    """Read rows of text: `word number number ...`, after a line `rows columns` or (GloVe) without.

    Columns may be separated by any number of spaces and tabs. Without a header, the numbers that the first line ends
    in tell the dimension. A word may contain spaces where that leaves no doubt (see csrc/text/rows.h).

    Raises:
        FormatError: naming file and line; see `ReadOptions.bad_rows`.
        OSError: the file cannot be read.
    """
    threads = thread_count(options.threads)
    dim = _MAX_DIM
    with open_chunks(path, options.progress) as chunks:
        blocks = line_blocks(chunks, lambda: _longest_line(dim))
        first = next(blocks, b"")
        end = first.find(b"\n") + 1 or len(first)
        promised = None
        if header:
            promised, dim = parse_header(path, first[:end])
            line = 1
            first = first[end:]
        else:
            line = 0
            dim = _text.count_numbers(first[:end]) if has_word else len(first[:end].split())
            if not 1 <= dim <= _MAX_DIM:
                shown = first[:60].decode("utf-8", "replace").partition("\n")[0]
                raise FormatError(f"{path}: line 1: expected a word and numbers, got {shown!r}")
        collector = RowCollector(path, options, dim, _wanted(promised, options.limit))
        parse = partial(
            _parse_block,
            dim=dim,
            limit=collector.wanted + 1,  # one more, to see whether there is one
            wide=np.dtype(options.dtype).itemsize > 4,
            skip=options.bad_rows == "skip",
            has_word=has_word,
        )
        more = _take_blocks(collector, ordered_map(parse, _chain(first, blocks), threads), line, has_word)
        _check_count(collector, promised, more)
    return collector.finish()


def _chain(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from blocks


def _take_blocks(collector: RowCollector, blocks: Iterator[_Parsed], before: int, has_word: bool) -> bool:
    """Take parsed blocks until there are enough rows; tell whether more data follow. `before`: lines before them."""
    blank: int | None = None  # the first blank line at the end of what was read so far
    for block in blocks:
        content = block.line_count if block.blank_from is None else block.blank_from
        if content and collector.full:
            return True
        if content and blank is not None:
            collector.fail(f"line {blank}: the line is blank, but more lines follow")
        lines = min(content, collector.wanted - collector.rows)  # every line is a row, or a fault instead of one
        taken = bisect_left(block.lines, lines)
        values = np.concatenate(block.values)[:taken]
        words = block.words[:taken] if has_word else [b"%d" % (collector.rows + i) for i in range(taken)]
        collector.add(words, values, lambda i, block=block: f"line {before + 1 + block.lines[i]}")  # noqa: B023
        for number, message in block.faults:
            if number < lines:
                collector.fail(f"line {before + 1 + number}: {message}")
                collector.rows += 1
        if collector.full and collector.options.limit is not None:
            return True
        if lines < content:
            return True
        if block.blank_from is not None and blank is None:
            blank = before + block.blank_from + 1
        before += block.line_count
    return False


def _check_count(collector: RowCollector, promised: int | None, more: bool) -> None:
    if promised is None:
        return
    if collector.rows < collector.wanted:
        collector.fail(f"truncated: the header says {promised} rows, the file ends after {collector.rows}")
    elif more and collector.options.limit is None:
        collector.fail(f"the header says {promised} rows, but more data follows them")


# ---- binary ------------------------------------------------------------------------------------------------------


def read_binary(path: Path, options: ReadOptions) -> VectorTable:
    """Read the word2vec binary format, with a newline after each record (word2vec.c) or without (gensim).

    Raises:
        FormatError: naming file, record and byte; see `ReadOptions.bad_rows`.
        OSError: the file cannot be read.
    """
    with open_chunks(path, options.progress) as chunks:
        data = b""
        while b"\n" not in data[:256] and len(data) < 256 and (chunk := next(chunks, b"")):
            data += chunk
        end = data.find(b"\n", 0, 256) + 1 or min(len(data), 256)
        promised, dim = parse_header(path, data[:end])
        collector = RowCollector(path, options, dim, _wanted(promised, options.limit))
        data, offset = data[end:], end
        ended = False
        while not collector.full:
            data, offset, starved = _take_records(collector, data, offset)
            if not starved:
                continue
            chunk = next(chunks, b"")
            if not chunk:
                ended = True
                break
            data += chunk
        if ended and data.strip(b"\n"):
            collector.fail(f"{_record(collector.rows, offset)}: {_describe_partial(data, dim)}")
        more = collector.full and options.limit is None and _any_left(data, chunks)
        _check_count(collector, promised, more)
    return collector.finish()


def _record(index: int, offset: int) -> str:
    return f"record {index + 1} at byte {offset}"


def _take_records(collector: RowCollector, data: bytes, offset: int) -> tuple[bytes, int, bool]:
    """Take the whole records at the start of `data`: the rest, its offset, and whether it needs more data."""
    left = collector.wanted - collector.rows
    dim = collector.dim
    words, values, used, fault, detail, _ = _text.parse_binary_rows(data, dim, limit=left)
    first = collector.rows

    def place(i: int) -> str:
        return _record(first + i, offset + _text.parse_binary_rows(data, dim, limit=i)[2])

    collector.add(words[: len(values)], values, place)
    here = _record(collector.rows, offset + used)
    rest = data[used:]
    if fault == "partial":
        if len(rest) > _MAX_WORD_BYTES and rest.find(b" ", 0, _MAX_WORD_BYTES) < 0:
            raise FormatError(f"{collector.path}: {here}: no space after the word: not in the binary format")
        return rest, offset + used, True
    if fault:
        message = "the word is empty" if fault == "no word" else ""
        collector.fail(f"{here}: {message or _describe_fault(fault, detail, b'', words[-1:], b'', dim, True, 0)}")
        step = rest.find(b" ") + 1 + 4 * dim
        rest, used = rest[step:], used + step
        collector.rows += 1
    return rest, offset + used, False


def _describe_partial(data: bytes, dim: int) -> str:
    begin = len(data) - len(data.lstrip(b"\n"))
    space = data.find(b" ", begin)
    if space < 0:
        return "no space after the word: truncated, or not in the binary format"
    return f"truncated: {len(data) - space - 1} bytes of a vector of {4 * dim}"


def _any_left(data: bytes, chunks: Iterator[bytes]) -> bool:
    return bool(data.strip(b"\r\n ")) or bool(next(chunks, b"").strip(b"\r\n "))


# ---- gensim's names ----------------------------------------------------------------------------------------------


def load_word2vec_format(
    path: PathLike,
    *,
    binary: bool = False,
    limit: int | None = None,
    errors: str = "strict",
    dtype: np.typing.DTypeLike = np.float32,
    encoding: str = "utf-8",
    no_header: bool = False,
    bad_rows: Literal["error", "skip"] = "error",
    threads: int = 0,
    progress: Progress | None = None,
) -> tuple[list[str], np.ndarray]:
    """Read vectors in the word2vec text or binary format, plain or compressed (.gz, .xz, .zst).

    Numbers become the float nearest to the decimal. Binary records may be followed by a newline (word2vec.c) or not
    (gensim). A word that comes again is dropped with a warning; the first vector stays.

    Args:
        path: the file.
        binary: the binary format instead of the text one.
        limit: read only the first `limit` rows; what follows them is not looked at.
        errors: words that cannot be decoded: `strict`, `replace`, `ignore`, as in `bytes.decode` (gensim:
            `unicode_errors`).
        dtype: float dtype of the result (gensim: `datatype`).
        encoding: of the words.
        no_header: a text file without the line `rows columns`, as GloVe writes.
        bad_rows: `skip` leaves damaged rows out, with a warning.
        threads: for parsing text; 0 takes all cores.
        progress: called now and then with the bytes read so far, and of how many.

    Returns:
        The words, and a (rows, columns) array of `dtype`.

    Raises:
        FormatError: the header is none or does not agree with the rows, a row has the wrong number of columns, a value
            is not a finite number, a word is not UTF-8, or the file ends early.
        OSError: the file cannot be read.
    """
    options = ReadOptions(limit, errors, encoding, bad_rows, dtype, threads, progress)
    if binary and no_header:
        raise ValueError("no_header: the binary format always has a header")
    table = read_binary(Path(path), options) if binary else read_text(Path(path), options, header=not no_header)
    return table.words, table.vectors
