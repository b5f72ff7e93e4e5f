"""Writing files of one row a word: word2vec's text and binary formats, GloVe's text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .. import _text
from ..files import write_files
from .streams import Progress, open_writing, ordered_map, thread_count
from .table import PathLike, VectorTable, check_table, encode_words

_BLOCK_NUMBERS = 1 << 17  # numbers formatted at a time: about 1.3 MB of text


def _text_block(rows: tuple[int, int], words: list[bytes], vectors: np.ndarray, separator: str) -> bytes:
    first, last = rows
    return _text.format_text_rows(words[first:last], vectors[first:last], separator)


def _binary_block(rows: tuple[int, int], words: list[bytes], vectors: np.ndarray, end: bytes) -> bytes:
    first, last = rows
    values = vectors[first:last].astype("<f4", copy=False)
    return b"".join(word + b" " + row.tobytes() + end for word, row in zip(words[first:last], values, strict=True))


def _row_blocks(rows: int, dim: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK_NUMBERS // dim)
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def write_rows(
    target: Path,
    name: Path,
    words: list[bytes],
    vectors: np.ndarray,
    *,
    binary: bool = False,
    header: bool = True,
    separator: str = " ",
    record_newline: bool = True,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write rows to `target`, compressed as the suffix of `name` says; see `save_word2vec_format`.

    Args:
        target: the file to write.
        name: the name it will have.
        words: V encoded words, or none: the numbers alone (text only).
        vectors: (V, D) float32, contiguous.
        binary: the binary format.
        header: begin with a line `rows columns`.
        separator: between the fields of a line of text.
        record_newline: end binary records with a newline, as word2vec.c does and gensim does not.
        threads: for formatting text; 0 takes all cores.
        progress: called with the rows written so far, and of how many.
    """
    if binary:
        block = partial(_binary_block, words=words, vectors=vectors, end=b"\n" if record_newline else b"")
    else:
        block = partial(_text_block, words=words, vectors=vectors, separator=separator)
    rows, dim = vectors.shape
    with open_writing(target, name) as file:
        if header:
            file.write(b"%d %d\n" % (rows, dim))
        done = 0
        blocks = _row_blocks(rows, dim)
        for data in ordered_map(block, blocks, 1 if binary else thread_count(threads)):
            file.write(data)
            done = min(rows, done + max(1, _BLOCK_NUMBERS // dim))
            if progress:
                progress(done, rows)


def write_row_file(path: Path, table: VectorTable, **settings: object) -> None:
    """Write a checked table with `write_rows`, under a temporary name until it is complete."""
    words = encode_words(table.words)
    write_files({path: lambda target: write_rows(target, path, words, table.vectors, **settings)})


def save_word2vec_format(
    path: PathLike,
    words: Sequence[str],
    vectors: np.ndarray,
    counts: Sequence[int] | np.ndarray | None = None,
    binary: bool = False,
    *,
    record_newline: bool = True,
    header: bool = True,
    threads: int = 0,
) -> None:
    """Write vectors as word2vec does: a line `rows columns`, then one record per word.

    Text records are `word number number ...` with the fewest digits that give back the same float32; binary ones are
    `word `, the little-endian float32 values, and a newline. A float32 array survives either bit by bit.

    Args:
        path: the file to write, replaced only when the new one is complete; `.gz`, `.xz` or `.zst` at the end
            compresses it.
        words: V distinct words.
        vectors: (V, D), D >= 1, written as float32.
        counts: (V,) how often each word occurred; given, the rows are written in order of falling count (ties as they
            come), which is what readers with a `limit` expect.
        binary: the binary format instead of the text one.
        record_newline: end binary records with a newline, as word2vec.c does; gensim does not, and reads both.
        header: False leaves out the first line of the text format, as GloVe does.
        threads: for formatting text; 0 takes all cores.

    Raises:
        ValueError: shapes that do not match, a word that is empty, repeated or contains white space, a value that is
            not finite.
        OSError: `path` cannot be written.
    """
    if binary and not header:
        raise ValueError("header: the binary format always has one")
    table = check_table(words, vectors, counts)
    if table.counts is not None:
        order = np.argsort(-table.counts, kind="stable")
        if (np.diff(order) != 1).any():  # a copy only where rows move
            table = VectorTable([table.words[i] for i in order.tolist()], table.vectors[order])
    write_row_file(Path(path), table, binary=binary, header=header, record_newline=record_newline, threads=threads)
