"""What every format holds: words, their vectors and, in some, their counts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

PathLike = str | os.PathLike[str]

BREAKS = frozenset(" \t\n\r\v\f")  # what readers of text rows split at


class VectorTable(NamedTuple):
    """V words and their vectors of dimension D; ``KeyedVectors(*table)`` takes it over.

    Attributes:
        words: V distinct words.
        vectors: (V, D) float32, unless another dtype was asked for.
        counts: (V,) int64, how often each word occurred, or None where the format does not say.
    """

    words: list[str]
    vectors: np.ndarray
    counts: np.ndarray | None = None


def check_table(
    words: Sequence[str], vectors: np.ndarray, counts: Sequence[int] | np.ndarray | None = None
) -> VectorTable:
    """Return the arguments as a table of contiguous float32, ready to be written.

    Raises:
        ValueError: shapes that do not match, a word that comes twice, a value that is not finite as float32, a count
            that is not a whole number >= 0.
    """
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf, which is reported below
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(f"vectors: expected shape (V, D) with D >= 1, got {rows.shape}")
    words = list(words)
    if len(words) != len(rows):
        raise ValueError(f"words: expected {len(rows)} to match vectors, got {len(words)}")
    if len(set(words)) != len(words):
        raise ValueError(f"words: {first_repeated(words)!r} appears twice")
    bad = first_not_finite(rows)
    if bad is not None:
        raise ValueError(f"vectors: the vector of {words[bad]!r} is not finite as float32")
    if counts is None:
        return VectorTable(words, rows)
    numbers = np.asarray(counts)
    if numbers.shape != (len(rows),):
        raise ValueError(f"counts: expected shape ({len(rows)},) to match vectors, got {numbers.shape}")
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0):
        raise ValueError(f"counts: expected whole numbers >= 0, got {numbers.dtype} with minimum {numbers.min()}")
    return VectorTable(words, rows, numbers.astype(np.int64))


def first_repeated(words: Iterable[str]) -> str:
    """Return the first word that was there before."""
    seen: set[str] = set()
    return next(word for word in words if word in seen or seen.add(word))


def first_not_finite(vectors: np.ndarray) -> int | None:
    """Return the first row with nan or inf in it, or None. Looks at some rows at a time, to save memory."""
    step = max(1, (1 << 22) // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        finite = np.isfinite(vectors[start : start + step]).all(axis=1)
        if not finite.all():
            return start + int(finite.argmin())
    return None


def encode_words(words: Sequence[str], breaks: frozenset[str] = BREAKS, where: str = "the word2vec format") -> list:
    """Return the UTF-8 bytes of words that hold no character of `breaks`.

    Raises:
        ValueError: a word that no reader would get back whole.
    """
    every = "".join(words)
    if not (breaks.isdisjoint(every) and all(words)):
        word = next(word for word in words if not word or not breaks.isdisjoint(word))
        kind = "white space" if " " in breaks else "a tab or line break"
        raise ValueError(f"words: {word!r} is empty or contains {kind}, which {where} cannot hold")
    try:
        return [word.encode("utf-8") for word in words]
    except UnicodeEncodeError as error:
        raise ValueError(f"words: {error.object!r} cannot be written as UTF-8: {error.reason}") from error
