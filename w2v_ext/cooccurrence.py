"""How often words stand near each other, which GloVe learns from: counted in C++ (`csrc/text/cooccurrence.h`)."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from . import _text
from .corpus import Corpus

CELL = np.dtype([("row", "<i4"), ("column", "<i4"), ("count", "<f4")])
"""A cell of the matrix, of its half with row >= column."""

_CHUNK = 1 << 20  # cells given at a time


class Cooccurrences:
    """A symmetric (V, V) matrix of co-occurrence counts, sparse, in files; :func:`count_cooccurrences` makes it.

    ``for row, column, count in counts`` goes through all its nonzeros, row by row of the half that is kept.

    Attributes:
        vocab_size: V.
        window: the largest distance that was counted.
        num_cells: nonzeros with row >= column, which is what is kept.
        nnz: nonzeros of the whole matrix.
        runs, spilled_bytes: how often, and how much, did not fit into memory and went through the disk.
        parts: (path, first row, first cell of each row) of each file of cells, in the order of rows.
    """

    def __init__(self, found: dict, vocab_size: int, window: int, directory: Path) -> None:
        self.vocab_size, self.window = vocab_size, window
        self.num_cells: int = found["cells"]
        self.nnz: int = 2 * found["cells"] - found["diagonal"]
        self.runs: int = found["runs"]
        self.spilled_bytes: int = found["spilled_bytes"]
        self.parts: list[tuple[str, int, np.ndarray]] = found["parts"]
        self._remove = weakref.finalize(self, shutil.rmtree, directory, True)

    def row_starts(self) -> np.ndarray:
        """(V + 1,) int64: how many cells stand before each row."""
        ends, before = [np.zeros(1, np.int64)], 0
        for _, _, starts in self.parts:
            ends.append(starts[1:] + before)
            before += int(starts[-1])
        return np.concatenate(ends)

    def cells(self) -> Iterator[np.ndarray]:
        """Yield the cells with row >= column, sorted by (row, column), as arrays of the dtype ``CELL``."""
        for path, _, starts in self.parts:
            if starts[-1]:
                part = np.memmap(path, dtype=CELL, mode="r")
                for begin in range(0, len(part), _CHUNK):
                    yield np.asarray(part[begin : begin + _CHUNK])

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        for block in self.cells():
            for row, column, count in block.tolist():
                yield row, column, count
                if row != column:
                    yield column, row, count

    def __len__(self) -> int:
        return self.nnz

    def to_coo(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All nonzeros in memory: rows (nnz,) int32, columns (nnz,) int32, counts (nnz,) float32.

        In the order of cells with row >= column, then those with row < column, as ``scipy.sparse.coo_matrix`` takes it.
        """
        blocks = list(self.cells()) or [np.empty(0, CELL)]
        half = np.concatenate(blocks)
        other = half[half["row"] != half["column"]]
        return (
            np.concatenate([half["row"], other["column"]]),
            np.concatenate([half["column"], other["row"]]),
            np.concatenate([half["count"], other["count"]]),
        )

    def close(self) -> None:
        """Remove the files."""
        self._remove()

    def __enter__(self) -> Cooccurrences:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Cooccurrences({self.vocab_size} words, window {self.window}, {self.nnz} nonzeros)"


def count_cooccurrences(
    corpus: Corpus | np.ndarray,
    *,
    window: int = 10,
    vocab_size: int | None = None,
    memory: int = 1 << 30,
    threads: int | None = None,
    directory: str | os.PathLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> Cooccurrences:
    """Count how often words stand near each other: X[i, j] = sum of 1 / distance (Pennington et al. 2014, section 4.2).

    The sum goes over all places of word i and all of word j at most ``window`` words apart in the same sentence, in
    both directions, so X is symmetric and X[i, i] counts every pair twice. The counts are exact to window 22 (sums of
    fractions, rounded once to float32; beyond, 1 / distance is rounded to 32 binary places), and equal for any number
    of threads and any memory.

    Args:
        corpus: from :func:`w2v_ext.prepare_corpus`; or its ids, (N,) int32, sentences each closed by -1.
        window: the largest distance, 1 to 10,000.
        vocab_size: V, for ids; a corpus knows it.
        memory: bytes for counting, at least 1 MiB. What does not fit goes through the disk as sorted runs. Beside it
            goes what a vocabulary takes: 16 bytes a word, and 9 for each thread.
        threads: default one for each CPU this process may use. Each reads all ids.
        directory: where to make the folder for the result, 12 bytes a cell, and for runs (default: the system's
            temporary folder). It is removed with the result.
        progress: called with the ids read, several times a second.

    Raises:
        ValueError: an argument out of its range.
        IndexError: an id that is not in the vocabulary, with its position.
        OSError: the files cannot be written.

    Plain equivalent: :func:`w2v_ext.reference.cooccurrences`.
    """
    ids = corpus.ids if isinstance(corpus, Corpus) else np.asarray(corpus)
    if isinstance(corpus, Corpus):
        vocab_size = len(corpus.vocab)
    if ids.ndim != 1 or ids.dtype != np.int32:
        raise ValueError(f"corpus: expected ids of shape (N,) and dtype int32, got {ids.shape} and {ids.dtype}")
    if vocab_size is None:
        raise ValueError("vocab_size: expected the number of words beside ids, got None")
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name, value, low, high in (
        ("window", window, 1, 10_000),
        ("vocab_size", vocab_size, 1, 2**31 - 1),
        ("memory", memory, 1 << 20, 1 << 62),
        ("threads", threads, 1, 1024),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
    folder = Path(tempfile.mkdtemp(prefix="w2v_ext-counts-", dir=directory))
    try:
        found = _text.count_cooccurrences(
            np.ascontiguousarray(ids),
            vocab_size=vocab_size,
            window=window,
            threads=min(threads, vocab_size),
            memory=memory,
            directory=str(folder),
            progress=progress,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Cooccurrences(found, vocab_size, window, folder)
