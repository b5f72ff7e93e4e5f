"""Writing fastText's binary models (`.bin`, format version 12), which fastText's program and gensim read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import write_files
from ..subwords import SubwordTable
from .fasttext import LOSSES, MAGIC, MODELS, SETTINGS, FastTextModel
from .table import PathLike, check_table, encode_words

_VERSION = 12
_CODES_OF_MODELS = {name: code for code, name in MODELS.items()}
_CODES_OF_LOSSES = {name: code for code, name in LOSSES.items()}
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
    header: Mapping[str, int | float | str] | None = None,
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
        header: settings under fastText's names, as `FastTextModel.settings` has them, and `num_tokens`; they win over
            `config`, but for what `vectors` and `subwords` say themselves.

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
    shape = {"dim": dim, "bucket": s.buckets if s else 0, "minn": s.min_n if s else 0, "maxn": s.max_n if s else 0}
    settings = {**_settings_of(config), **(header or {}), **shape}
    counted = (header or {}).get("num_tokens", int(table.counts.sum()))
    dictionary = _dictionary([(raw, table.counts.tolist()), ([], [])], counted)

    def write(target: Path) -> None:
        with open(target, "wb") as file:
            file.write(_header(settings) + dictionary)
            _begin_matrix(file, size + (s.buckets if s else 0), dim)
            _write_rows(file, table.vectors if subwords is None else subwords.weight[:size])
            if subwords is not None:
                _write_buckets(file, subwords)
            _begin_matrix(file, size, dim)
            _write_rows(file, np.zeros((size, dim), np.float32) if out_weight is None else out_weight)

    write_files({path: write})


def write_fasttext_model(path: PathLike, model: FastTextModel) -> None:
    """Write what `load_fasttext_bin` read, classifiers too: the same bytes, but that version 11 becomes 12.

    Raises:
        ValueError: the output matrix was not read.
        OSError: the file cannot be written.
    """
    if model.out_weight is None:
        raise ValueError("out_weight: expected a model that was read with its output matrix, got None")
    parts = [(model.words, model.counts.tolist()), (model.labels, model.label_counts.tolist())]
    raw = [([word.encode("utf-8", "surrogateescape") for word in words], counts) for words, counts in parts]
    start = _header(model.settings) + _dictionary(raw, model.num_tokens)

    def write(target: Path) -> None:
        with open(target, "wb") as file:
            file.write(start)
            for matrix in (model.in_weight, model.out_weight):
                _begin_matrix(file, *matrix.shape)
                _write_rows(file, matrix)

    write_files({Path(path): write})


def _header(settings: Mapping[str, int | float | str]) -> bytes:
    """The magic number, the version and the settings, under fastText's names."""
    codes = {**settings, "model": _CODES_OF_MODELS[settings["model"]], "loss": _CODES_OF_LOSSES[settings["loss"]]}
    return MAGIC + struct.pack("<i12id", _VERSION, *(codes[name] for name in SETTINGS), settings["t"])


def _dictionary(parts: Sequence[tuple[list[bytes], list[int]]], num_tokens: int) -> bytes:
    """The sizes, then the words and the labels with their counts."""
    (words, _), (labels, _) = parts
    sizes = struct.pack("<3i2q", len(words) + len(labels), len(words), len(labels), num_tokens, -1)
    return sizes + b"".join(
        entry + b"\0" + struct.pack("<qb", count, kind)
        for kind, (entries, counts) in enumerate(parts)
        for entry, count in zip(entries, counts, strict=True)
    )


def _settings_of(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Settings of this library under fastText's names; its defaults are in the place of what is missing."""
    loss = config.get("loss")
    return {
        "ws": _number(config, "window", 5),
        "epoch": _number(config, "epochs", 5),
        "min_count": _number(config, "min_count", 5),
        "neg": _number(config, "negative", 5),
        "word_ngrams": 1,
        "loss": loss if loss in _CODES_OF_LOSSES else "ns",
        "model": "cbow" if config.get("model") in ("cbow", "fasttext-cbow") else "skipgram",
        "lr_update_rate": 100,
        "t": float(config.get("sample", 1e-4)),
    }


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
