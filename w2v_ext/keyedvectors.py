"""Word vectors to look up and compare: gensim's `KeyedVectors` in names and meanings, over one float32 array.

Similarity is always the cosine, u·v / (|u| |v|), and 0 where one of the vectors is zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import formats, model_files

Key = str | int | np.integer
Weighted = Key | np.ndarray | tuple[Key | np.ndarray, float]

# Matrix-vector products round differently from one row to another, by less than this. Whoever may be among the best
# is therefore computed again in float64, row by row, so that equal vectors get equal scores and a fixed order.
_ROUNDING = 1e-5


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return the vector at length 1, in float64; a zero vector stays zero."""
    vector = np.asarray(vector, dtype=np.float64)
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 0 else vector


class KeyedVectors:
    """V words and their vectors of dimension D.

    Attributes:
        vectors: (V, D) float32; row i belongs to `index_to_key[i]`. Call `fill_norms(force=True)` after changing it.
        index_to_key: the V words.
        key_to_index: word -> row.
        counts: (V,) int64, how often each word occurred in the corpus, or None where that is not known.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: np.ndarray,
        counts: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Take over words and vectors; a float32 array is used as it is, without a copy.

        Args:
            words: V distinct words.
            vectors: (V, D) numbers.
            counts: (V,) integers, optional.

        Raises:
            ValueError: shapes that do not match, or a word that comes twice.
        """
        self.vectors = np.asarray(vectors, dtype=np.float32)
        if self.vectors.ndim != 2:
            raise ValueError(f"vectors: expected shape (V, D), got {self.vectors.shape}")
        self.index_to_key = list(words)
        if len(self.index_to_key) != len(self.vectors):
            raise ValueError(f"words: expected {len(self.vectors)} to match vectors, got {len(self.index_to_key)}")
        self.key_to_index = {word: index for index, word in enumerate(self.index_to_key)}
        if len(self.key_to_index) != len(self.index_to_key):
            twice = next(w for i, w in enumerate(self.index_to_key) if self.key_to_index[w] != i)
            raise ValueError(f"words: {twice!r} appears twice")
        self.counts = None if counts is None else np.asarray(counts, dtype=np.int64)
        if self.counts is not None and self.counts.shape != (len(self.vectors),):
            raise ValueError(f"counts: expected shape ({len(self.vectors)},) to match words, got {self.counts.shape}")
        self._norms: np.ndarray | None = None

    # ---- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> KeyedVectors:
        """Load the word vectors (`in_weight`) of a model directory.

        Raises:
            FormatError: a file of the directory is missing or damaged.
        """
        model = model_files.load_model(directory)
        return cls(model.words, model.in_weight.float().numpy(), model.counts)

    @classmethod
    def load_word2vec_format(
        cls,
        fname: str | os.PathLike[str],
        binary: bool = False,
        *,
        encoding: str = "utf8",
        unicode_errors: str = "strict",
        limit: int | None = None,
        datatype: np.typing.DTypeLike = np.float32,
        no_header: bool = False,
    ) -> KeyedVectors:
        """Load a file in the word2vec text or binary format; see `formats.load_word2vec_format`.

        `no_header=True` reads GloVe's text. Numbers are read as `datatype` and kept as float32.

        Raises:
            FormatError: the file is damaged; the message says where.
        """
        words, vectors = formats.load_word2vec_format(
            fname,
            binary=binary,
            limit=limit,
            errors=unicode_errors,
            dtype=datatype,
            encoding=encoding,
            no_header=no_header,
        )
        return cls(words, vectors)

    def save_word2vec_format(self, fname: str | os.PathLike[str], binary: bool = False) -> None:
        """Save in the word2vec text or binary format, most frequent words first where counts are known.

        Raises:
            ValueError: a word contains white space, or a value is not finite.
            OSError: the file cannot be written.
        """
        formats.save_word2vec_format(Path(fname), self.index_to_key, self.vectors, self.counts, binary)

    # ---- looking up ----------------------------------------------------------------------------------------------

    @property
    def vector_size(self) -> int:
        """D, the length of a vector."""
        return self.vectors.shape[1]

    @property
    def norms(self) -> np.ndarray:
        """(V,) float32 Euclidean lengths of the vectors, computed when first asked for."""
        self.fill_norms()
        return self._norms

    def fill_norms(self, force: bool = False) -> None:
        """Compute `norms` unless that is done; `force=True` computes them again, after `vectors` changed."""
        if self._norms is None or force:
            squares = np.einsum("ij,ij->i", self.vectors, self.vectors, dtype=np.float64)
            self._norms = np.sqrt(squares).astype(np.float32)

    def __len__(self) -> int:
        return len(self.index_to_key)

    def __contains__(self, key: object) -> bool:
        return key in self.key_to_index

    def __repr__(self) -> str:
        return f"KeyedVectors({len(self)} words, dim {self.vector_size})"

    def __getitem__(self, key: Key | Iterable[Key]) -> np.ndarray:
        """Return the vector (D,) of a word, or the vectors (n, D) of a list of n words."""
        if isinstance(key, (str, int, np.integer)):
            return self.get_vector(key)
        return self.vectors[[self.get_index(item) for item in key]]

    def get_index(self, key: Key, default: int | None = None) -> int:
        """Return the row of a word; a row number stands for itself.

        Raises:
            KeyError: there is no such word, and no `default`.
        """
        index = self.key_to_index.get(key)
        if index is not None:
            return index
        if isinstance(key, (int, np.integer)) and 0 <= key < len(self):
            return int(key)
        if default is not None:
            return default
        raise KeyError(f"Key '{key}' not present")

    def get_vector(self, key: Key, norm: bool = False) -> np.ndarray:
        """Return the vector (D,) float32 of a word, read-only; with `norm=True` at length 1 (zero stays zero).

        Raises:
            KeyError: there is no such word.
        """
        vector = self.vectors[self.get_index(key)]
        if norm:
            vector = _unit(vector).astype(np.float32)
        vector.flags.writeable = False  # of this view only: writing into a looked-up vector would change the model
        return vector

    # ---- comparing -----------------------------------------------------------------------------------------------

    def most_similar(
        self,
        positive: Weighted | Sequence[Weighted] | None = None,
        negative: Weighted | Sequence[Weighted] | None = None,
        topn: int | None = 10,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]] | np.ndarray:
        """Return the words nearest to the mean of `positive` minus `negative`, by cosine similarity.

        The mean is m = Σ wᵢ xᵢ / Σ |wᵢ|: xᵢ is a word's vector at length 1, or a given vector as it is; wᵢ is +1 for
        positive, -1 for negative, or the number of a (word, weight) pair, which is taken as it is on either side.
        `most_similar(positive=["king", "woman"], negative=["man"])` asks for king - man + woman.

        Args:
            positive: a word, a vector (D,), a (word, weight) pair, or a list of these.
            negative: the same.
            topn: how many words; None gives the similarities of all of them as they stand in `index_to_key`.
            restrict_vocab: look only at the first so many words.

        Returns:
            Up to `topn` pairs (word, similarity), best first, equal ones by their row; words of the query are left
            out. With `topn=None` an array (V,) or (restrict_vocab,) float32, nothing left out.

        Raises:
            KeyError: a word is not in the vocabulary.
            ValueError: there is neither positive nor negative, or a vector or number of the wrong kind.
        """
        if topn is not None and topn < 1:
            return []
        if restrict_vocab is not None and restrict_vocab < 1:
            raise ValueError(f"restrict_vocab: expected None or a positive number, got {restrict_vocab}")
        query, used = self._query(positive, negative)
        rows = self.vectors[:restrict_vocab]
        norms = self.norms[:restrict_vocab]
        norms = np.where(norms > 0, norms, 1)  # a zero vector has dot product 0 with everything: similarity 0, not NaN
        scores = rows @ query.astype(np.float32) / norms  # (V,)
        if topn is None:
            return scores
        scores[np.isnan(scores)] = -np.inf  # rows of a training that diverged are nobody's neighbours
        inside = [index for index in used if index < len(scores)]
        scores[inside] = -np.inf
        topn = min(topn, len(scores) - len(inside))
        if topn == 0:
            return []
        threshold = np.partition(scores, len(scores) - topn)[len(scores) - topn]
        best = np.flatnonzero((scores >= threshold - _ROUNDING) & (scores > -np.inf))  # ascending rows
        exact = (rows[best].astype(np.float64) * query).sum(axis=1) / norms[best]
        order = np.argsort(-exact, kind="stable")[:topn]  # stable: equal scores stay in the order of their rows
        return [(self.index_to_key[best[i]], float(exact[i])) for i in order]

    def _query(self, positive: object, negative: object) -> tuple[np.ndarray, set[int]]:
        """Return the unit mean (D,) float64 of a query, and the rows of its words."""
        total = np.zeros(self.vector_size, dtype=np.float64)
        used: set[int] = set()
        count = 0
        for name, items, sign in (("positive", positive, 1.0), ("negative", negative, -1.0)):
            for item in _as_list(items):
                count += 1
                weight = sign
                if isinstance(item, tuple) and len(item) == 2:
                    item, weight = item
                    if not isinstance(weight, (int, float, np.number)) or not np.isfinite(weight):
                        raise ValueError(f"{name}: expected (word, weight) with a finite number, got weight {weight!r}")
                if isinstance(item, (str, int, np.integer)):
                    index = self.get_index(item, -1)
                    if index < 0:
                        raise KeyError(f"{name}: Key '{item}' not present")
                    used.add(index)
                    total += weight * _unit(self.vectors[index])
                else:
                    total += weight * self._check_vector(name, item)
        if count == 0:
            raise ValueError("positive, negative: expected at least one word or vector")
        return _unit(total), used

    def _check_vector(self, name: str, value: Any) -> np.ndarray:
        try:
            vector = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected words, vectors or (word, weight) pairs, got {value!r}") from error
        if vector.shape != (self.vector_size,):
            raise ValueError(f"{name}: expected a vector of shape ({self.vector_size},), got {vector.shape}")
        if not np.isfinite(vector).all():
            raise ValueError(f"{name}: the vector is not finite")
        return vector

    def similar_by_word(
        self, word: Key, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> list[tuple[str, float]] | np.ndarray:
        """Return the words nearest to one word, which itself is left out; see `most_similar`."""
        return self.most_similar(positive=[word], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_vector(
        self, vector: np.ndarray, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> list[tuple[str, float]] | np.ndarray:
        """Return the words nearest to a vector (D,); see `most_similar`."""
        return self.most_similar(
            positive=[self._check_vector("vector", vector)], topn=topn, restrict_vocab=restrict_vocab
        )

    def similarity(self, w1: Key, w2: Key) -> float:
        """Return the cosine similarity of two words, in [-1, 1].

        Raises:
            KeyError: one of them is not in the vocabulary.
        """
        return float(_unit(self[w1]) @ _unit(self[w2]))

    def distance(self, w1: Key, w2: Key) -> float:
        """Return 1 - `similarity(w1, w2)`."""
        return 1.0 - self.similarity(w1, w2)

    def n_similarity(self, ws1: Key | Sequence[Key], ws2: Key | Sequence[Key]) -> float:
        """Return the cosine similarity of the mean vectors of two lists of words (or lone words).

        Raises:
            KeyError: a word is not in the vocabulary.
            ValueError: a list is empty.
        """
        means = []
        for name, words in (("ws1", ws1), ("ws2", ws2)):
            keys = _as_list(words)
            if not keys:
                raise ValueError(f"{name}: expected at least one word")
            means.append(_unit(self[keys].mean(axis=0, dtype=np.float64)))
        return float(means[0] @ means[1])

    def doesnt_match(self, words: Sequence[Key]) -> Key:
        """Return the word least similar to the mean of the unit vectors of all of them; of equals the first by name.

        Words that are not in the vocabulary are passed over.

        Raises:
            ValueError: none of the words is in the vocabulary.
        """
        known = [word for word in words if word in self]
        if not known:
            raise ValueError(f"words: none of {list(words)!r} is in the vocabulary")
        units = np.stack([_unit(self[word]) for word in known])  # (n, D)
        similarities = (units * _unit(units.mean(axis=0))).sum(axis=1)
        return min(zip(similarities.tolist(), known, strict=True))[1]


def _as_list(items: object) -> list[Any]:
    """Wrap a lone word, vector or (word, weight) pair in a list."""
    if items is None:
        return []
    if isinstance(items, (str, int, np.integer)):
        return [items]
    if isinstance(items, np.ndarray):
        return [items] if items.ndim == 1 else list(items)
    if isinstance(items, tuple) and len(items) == 2 and isinstance(items[0], (str, np.ndarray)):
        return [items] if isinstance(items[1], (int, float, np.number)) else list(items)
    return list(items)
