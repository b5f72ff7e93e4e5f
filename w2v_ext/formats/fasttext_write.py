"""Writing fastText's binary models (`.bin`, format version 12), which fastText's program and gensim read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import write_files
from ..subwords import SubwordTable
from .fasttext import MAGIC
from .table import PathLike, check_table, encode_words

_VERSION = 12
_MODELS = {"cbow": 1, "fasttext-cbow": 1}  # all others: skip-gram, 2
_NEGATIVE_SAMPLING = 2
_BLOCK_ROWS = 1 << 15  # written at a time


def write_fasttext_bin(
    path: PathLike,
    words: Sequence[str],
    vectors: np.ndarray,
    counts: Sequence[int] | np.ndarray | None = None,
    *,
    subwords: SubwordTable | None = None,
    out_weight: np.ndarray | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a model that fastText gives the same vectors of.

    Args:
        path: the file, whole or not there.
        words: V distinct words without white space.
        vectors: (V, D); what a word's row is where there are no `subwords`.
        counts: (V,) how often each word occurred; where that is not known, 1 is written.
        subwords: the rows of words and n-grams; None writes a model without n-grams (maxn 0).
        out_weight: (V, D) output vectors; zeros where they are not known. (Only training on would use them.)
        config: training settings under this library's names; defaults stand in for those that are missing.

    Raises:
        ValueError: shapes that do not match, a value that is not finite, a word that the file cannot hold.
        OSError: the file cannot be written.
    """
    path, config = Path(path), dict(config or {})
    table = check_table(words, vectors, np.ones(len(words), np.int64) if counts is None else counts)
    raw = encode_words(table.words, frozenset(" \t\n\r\v\f\0"), "fastText's .bin")
    size, dim = table.vectors.shape
    if out_weight is not None and out_weight.shape != (size, dim):
        raise ValueError(f"out_weight: expected shape ({size}, {dim}) to match vectors, got {out_weight.shape}")
    if subwords is not None and (subwords.num_words != size or subwords.weight.shape[1] != dim):
        raise ValueError(f"subwords: expected those of {size} words x {dim}, got {subwords.num_words} words")
    s = subwords.settings if subwords is not None else None
    header = MAGIC + struct.pack(
        "<i12id",
        *(_VERSION, dim, _number(config, "window", 5), _number(config, "epochs", 5)),
        *(_number(config, "min_count", 5), _number(config, "negative", 5), 1, _NEGATIVE_SAMPLING),
        *(_MODELS.get(str(config.get("model")), 2), s.buckets if s else 0, s.min_n if s else 0, s.max_n if s else 0),
        *(100, float(config.get("sample", 1e-4))),
    )
    entries = b"".join(
        word + b"\0" + struct.pack("<qb", count, 0) for word, count in zip(raw, table.counts.tolist(), strict=True)
    )
    dictionary = struct.pack("<3i2q", size, size, 0, int(table.counts.sum()), -1) + entries

    def write(target: Path) -> None:
        with open(target, "wb") as file:
            file.write(header + dictionary)
            _begin_matrix(file, size + (s.buckets if s else 0), dim)
            _write_rows(file, table.vectors if subwords is None else subwords.weight[:size])
            if subwords is not None:
                _write_buckets(file, subwords)
            _begin_matrix(file, size, dim)
            _write_rows(file, np.zeros((size, dim), np.float32) if out_weight is None else out_weight)

    write_files({path: write})


def _number(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else default


def _begin_matrix(file: BinaryIO, rows: int, dim: int) -> None:
    file.write(struct.pack("<b2q", 0, rows, dim))


def _write_rows(file: BinaryIO, matrix: np.ndarray) -> None:
    for first in range(0, len(matrix), _BLOCK_ROWS):
        file.write(np.ascontiguousarray(matrix[first : first + _BLOCK_ROWS], "<f4").data)


def _write_buckets(file: BinaryIO, subwords: SubwordTable) -> None:
    buckets, dim = subwords.settings.buckets, subwords.weight.shape[1]
    for first in range(0, buckets, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, buckets)
        begin, end = np.searchsorted(subwords.buckets, [first, last])
        block = np.zeros((last - first, dim), "<f4")
        block[subwords.buckets[begin:end] - first] = subwords.weight[subwords.rows[begin:end]]
        file.write(block.data)
