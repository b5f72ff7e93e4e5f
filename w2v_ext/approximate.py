"""An approximate index of nearest words (HNSW, by usearch): far faster than looking at every word, nearly as good."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .files import FormatError, parse_json, write_files
from .keyedvectors import KeyedVectors
from .nearest import exact_scores
from .queries import Similar

_VERSION = 1
_MORE = 2  # candidates for each word wanted: the graph knows them in 16 or 8 bits only, the best are chosen in float64
_INDEX, _META = "index.usearch", "index.json"


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise ImportError("ApproximateIndex needs the package usearch: pip install 'w2v_ext[ann]'") from None
    return Index


class ApproximateIndex:
    """A graph over the words of `KeyedVectors` that leads to a query's neighbours without looking at all of them.

        index = ApproximateIndex(kv)
        kv.most_similar("king", indexer=index)
        kv.most_similar_batch(queries, indexer=index)

    Hierarchical navigable small worlds (Malkov and Yashunin 2018). Which words are found is approximate; their scores
    are not: they are computed from the vectors. The index does not follow later changes of the vectors.

    Attributes:
        vectors: the `KeyedVectors` it was built from.
        expansion_search: how many candidates a search follows: more finds more, and takes longer.
    """

    def __init__(
        self,
        vectors: KeyedVectors,
        *,
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 128,
        dtype: str = "f16",
        threads: int = 0,
    ) -> None:
        """Build the index.

        Args:
            vectors: the words; rows of length 0, or not finite, are left out.
            connectivity: neighbours of each word in the graph.
            expansion_add: candidates looked at when a word is added: more makes a better graph, more slowly.
            expansion_search: candidates looked at in a search.
            dtype: how vectors are kept inside: "f32", "f16" or "i8" (V x D x 4, 2 or 1 bytes).
            threads: that build and search; 0 is all. With 1 the graph is the same every time.

        Raises:
            ImportError: the package usearch is not installed.
            ValueError: an option that makes no sense.
        """
        if dtype not in ("f32", "f16", "i8"):
            raise ValueError(f"dtype: expected f32, f16 or i8, got {dtype!r}")
        options = {"connectivity": connectivity, "expansion_add": expansion_add, "expansion_search": expansion_search}
        for name, value in {**options, "threads": threads}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < (0 if name == "threads" else 1):
                raise ValueError(f"{name}: expected a positive whole number, got {value!r}")
        self.vectors, self._threads = vectors, threads
        self._index = _usearch()(ndim=vectors.vector_size, metric="cos", dtype=dtype, **options)
        rows = np.flatnonzero(np.isfinite(vectors.norms) & (vectors.norms > 0))
        step = max(1, (1 << 24) // vectors.vector_size)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            units = vectors.vectors[part] / vectors.norms[part, None]
            self._index.add(part.astype(np.uint64), units, threads=threads)

    @property
    def expansion_search(self) -> int:
        """How many candidates a search follows."""
        return self._index.expansion_search

    @expansion_search.setter
    def expansion_search(self, value: int) -> None:
        self._index.expansion_search = value

    def __len__(self) -> int:
        return len(self._index)

    def most_similar(self, vector: np.ndarray, num_neighbors: int) -> Similar:
        """Return up to `num_neighbors` (word, similarity) near a vector (D,), best first."""
        rows, scores = self.nearest_rows(np.asarray(vector)[None], num_neighbors)
        pairs = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.vectors.index_to_key[row], score) for row, score in pairs if row >= 0]

    def nearest_rows(self, queries: np.ndarray, topn: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, topn) and cosines (Q, topn) near queries (Q, D), best first; -1 and NaN where none is."""
        queries = np.asarray(queries, dtype=np.float64)
        if queries.ndim != 2 or queries.shape[1] != self.vectors.vector_size:
            raise ValueError(f"queries: expected shape (Q, {self.vectors.vector_size}), got {queries.shape}")
        rows = np.full((len(queries), topn), -1, dtype=np.int64)
        scores = np.full((len(queries), topn), np.nan)
        if not len(self._index) or topn < 1 or not len(queries):
            return rows, scores
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        units = queries / np.where(norms > 0, norms, 1)
        count = min(_MORE * topn, len(self._index))
        matches = self._index.search(units.astype(np.float32), count, threads=self._threads)
        keys, counts = np.atleast_2d(matches.keys), np.atleast_1d(getattr(matches, "counts", len(matches.keys)))
        for i, (found, count) in enumerate(zip(keys, counts, strict=True)):
            found = np.sort(found[:count].astype(np.int64))
            exact = exact_scores(self.vectors.vectors[found], units[i])
            order = np.argsort(-exact, kind="stable")[:topn]
            rows[i, : len(order)], scores[i, : len(order)] = found[order], exact[order]
        return rows, scores

    # ---- files ---------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the graph to a directory, for `load` with the same vectors, which it does not contain."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        graph = self._index.save()
        meta = {
            "version": _VERSION,
            "expansion_search": self.expansion_search,
            "graph_crc32": zlib.crc32(graph),
            "vectors_crc32": _checksum(self.vectors),
        }
        contents = {_INDEX: bytes(graph), _META: (json.dumps(meta) + "\n").encode()}
        write_files({directory / name: lambda path, data=d: path.write_bytes(data) for name, d in contents.items()})

    @classmethod
    def load(cls, directory: str | os.PathLike[str], vectors: KeyedVectors, *, threads: int = 0) -> ApproximateIndex:
        """Read what `save` wrote.

        Raises:
            FormatError: a file is missing or damaged, or the index is of other vectors.
            ImportError: the package usearch is not installed.
        """
        index_class, directory = _usearch(), Path(directory)
        try:
            graph, meta = (directory / _INDEX).read_bytes(), parse_json((directory / _META).read_bytes())
        except OSError as error:
            raise FormatError(f"{error.filename}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise FormatError(f"{directory / _META}: not valid JSON: {error}") from error
        if not isinstance(meta, dict) or meta.get("version") != _VERSION:
            raise FormatError(f"{directory / _META}: expected version {_VERSION}, as this library writes it")
        expansion = meta.get("expansion_search")
        if type(expansion) is not int or not 1 <= expansion <= 1 << 20:
            raise FormatError(f"{directory / _META}: expansion_search: expected 1 to 1048576, got {expansion!r:.80}")
        if meta.get("graph_crc32") != zlib.crc32(graph):
            raise FormatError(f"{directory / _INDEX}: damaged: its checksum is not the one in {_META}")
        if meta.get("vectors_crc32") != _checksum(vectors):
            raise FormatError(f"{directory}: the index was built from other vectors")
        self = cls.__new__(cls)
        self.vectors, self._threads = vectors, threads
        self._index = index_class.restore(graph)
        self.expansion_search = expansion
        return self


def _checksum(vectors: KeyedVectors) -> int:
    return zlib.crc32(np.ascontiguousarray(vectors.vectors), zlib.crc32(repr(vectors.vectors.shape).encode()))
