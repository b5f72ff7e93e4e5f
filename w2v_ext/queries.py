"""What can be asked of word vectors: gensim's `KeyedVectors` in names and meanings.

Similarity is always the cosine, u·v / (|u| |v|), and 0 where one of the vectors is zero. Everything is computed in
float64 or, over the whole vocabulary, chosen in float32 and settled in float64 (see `nearest`): equal vectors get equal
scores, and of equal ones the earlier row comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .nearest import ROUNDING, as_device, cosines, exact_scores, nearest, nearest_one, unit_rows

Key = str | int | np.integer
Weighted = Key | np.ndarray | tuple[Key | np.ndarray, float]
Similar = list[tuple[Any, float]]


class Indexer(Protocol):
    """Something that finds near words for a vector, approximately: `ApproximateIndex`, or one of gensim's indexers."""

    def most_similar(self, vector: np.ndarray, num_neighbors: int) -> Similar:
        """Return (word, similarity) of about the nearest words, best first."""


def unit(vector: np.ndarray) -> np.ndarray:
    """Return the vector at length 1, in float64; a zero vector stays zero."""
    vector = np.asarray(vector, dtype=np.float64)
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 0 else vector


def as_list(items: object) -> list[Any]:
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


class Queries:
    """The questions; `KeyedVectors` adds the words, the vectors and the files."""

    vectors: np.ndarray
    norms: np.ndarray
    index_to_key: list[Any]
    _on_device: tuple[str, torch.Tensor] | None

    # ---- nearest words -------------------------------------------------------------------------------------------

    def most_similar(
        self,
        positive: Weighted | Sequence[Weighted] | None = None,
        negative: Weighted | Sequence[Weighted] | None = None,
        topn: int | None = 10,
        clip_start: int = 0,
        clip_end: int | None = None,
        restrict_vocab: int | None = None,
        indexer: Indexer | None = None,
    ) -> Similar | np.ndarray:
        """Return the words nearest to the mean of `positive` minus `negative`, by cosine similarity.

        The mean is m = Σ wᵢ xᵢ / Σ |wᵢ|: xᵢ is a word's vector at length 1, or a given vector as it is; wᵢ is +1 for
        positive, -1 for negative, or the number of a (word, weight) pair, which is taken as it is on either side.
        `most_similar(positive=["king", "woman"], negative=["man"])` asks for king - man + woman.

        Args:
            positive: a word, a vector (D,), a (word, weight) pair, or a list of these.
            negative: the same.
            topn: how many words; None gives the similarities of all of them as they stand in `index_to_key`.
            clip_start: look only at rows from here on, ...
            clip_end: ... up to this one; None (or 0) is the end. Negative numbers count from the end.
            restrict_vocab: look only at the first so many words; given, it stands in for both clips.
            indexer: an approximate index to ask instead of looking at every word.

        Returns:
            Up to `topn` pairs (word, similarity), best first, equal ones by their row; words of the query are left
            out. With `topn=None` an array (V,) float32, or as long as the clip, nothing left out.

        Raises:
            KeyError: a word is not in the vocabulary.
            ValueError: there is neither positive nor negative, a vector or number of the wrong kind, or an `indexer`
                together with a clip.
        """
        if topn is not None and topn < 1:
            return []
        start, stop = self._range(clip_start, clip_end, restrict_vocab)
        query, used = self._query(positive, negative)
        if indexer is not None and topn is not None:
            self._check_indexer(start, stop)
            return self._ask_indexer(indexer, query[None], [used], topn)[0]
        rows, norms = self.vectors[start:stop], self.norms[start:stop]
        if topn is None:
            return cosines(rows, norms, query)
        best, scores = nearest_one(rows, norms, query, topn, [row - start for row in used if start <= row < stop])
        return [
            (self.index_to_key[row], score) for row, score in zip((best + start).tolist(), scores.tolist(), strict=True)
        ]

    def most_similar_batch(
        self,
        queries: np.ndarray | Iterable[Weighted | Sequence[Weighted] | Mapping[str, Any]],
        topn: int = 10,
        clip_start: int = 0,
        clip_end: int | None = None,
        restrict_vocab: int | None = None,
        indexer: Indexer | None = None,
        device: str | torch.device = "cpu",
    ) -> list[Similar]:
        """Return what `most_similar` returns for each of many queries, computed together: the same words and scores.

        The scores of all words are computed tile by tile as matrix products, in about 100 MB beyond the vectors.

        Args:
            queries: vectors (Q, D); or a list whose items are what `most_similar` takes as `positive` (a word, a
                vector, a list of these), or `{"positive": ..., "negative": ...}`.
            topn: how many words for each query.
            clip_start, clip_end, restrict_vocab: as in `most_similar`.
            indexer: an approximate index, such as `ApproximateIndex`.
            device: where the products are computed. A copy of the vectors (V x D x 4 bytes) stays on a CUDA device
                for the next call, until `fill_norms(force=True)` or a change of the vocabulary.

        Raises:
            KeyError, ValueError: as `most_similar`.
        """
        pairs = [self._query(*_parts(query)) for query in queries]
        if topn < 1 or not pairs:
            return [[] for _ in pairs]
        start, stop = self._range(clip_start, clip_end, restrict_vocab)
        means = np.stack([query for query, _ in pairs])  # (Q, D)
        exclude = [[row - start for row in used if start <= row < stop] for _, used in pairs]
        if indexer is not None:
            self._check_indexer(start, stop)
            return self._ask_indexer(indexer, means, exclude, topn)
        return self._named(*self._nearest_rows(means, topn, start, stop, exclude, device))

    def nearest_rows(
        self,
        queries: np.ndarray,
        topn: int = 10,
        start: int = 0,
        stop: int | None = None,
        *,
        exclude: Sequence[Sequence[int]] | None = None,
        device: str | torch.device = "cpu",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows nearest to query vectors as arrays; `most_similar_batch` without words.

        Args:
            queries: (Q, D), of any length; scaled to 1.
            topn: how many.
            start, stop: look only at these rows.
            exclude: for each query the rows to leave out, counted from `start`.
            device: as in `most_similar_batch`.

        Returns:
            (Q, topn) int64 rows and (Q, topn) float64 cosines, best first; -1 and NaN where there are fewer rows.
        """
        queries = np.asarray(queries, dtype=np.float64)
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries: expected shape (Q, {self.vectors.shape[1]}), got {queries.shape}")
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise ValueError(f"queries: query {int(np.isfinite(norms).argmin())} is not finite")
        start, stop, _ = slice(start, stop).indices(len(self.vectors))
        units = queries / np.where(norms > 0, norms, 1)
        return self._nearest_rows(units, topn, start, max(start, stop), exclude, device)

    def _nearest_rows(
        self,
        queries: np.ndarray,
        topn: int,
        start: int,
        stop: int,
        exclude: Sequence[Sequence[int]] | None,
        device: str | torch.device,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `nearest_rows` returns, for queries (Q, D) of length 1."""
        device, units = as_device(device), None
        if device.type != "cpu":
            if self._on_device is None or self._on_device[0] != str(device):
                self._on_device = (str(device), unit_rows(self.vectors, self.norms, device))
            units = self._on_device[1][start:stop]
        rows, lengths = self.vectors[start:stop], self.norms[start:stop]
        found, scores = nearest(rows, lengths, queries, topn, exclude=exclude, device=device, units=units)
        return np.where(found >= 0, found + start, -1), scores

    def _ask_indexer(
        self, indexer: Any, means: np.ndarray, exclude: Sequence[Sequence[int]], topn: int
    ) -> list[Similar]:
        wanted = topn + max(map(len, exclude))
        if hasattr(indexer, "nearest_rows"):
            answers = self._named(*indexer.nearest_rows(means, wanted))
        else:
            answers = [indexer.most_similar(mean.astype(np.float32), wanted) for mean in means]
        result = []
        for answer, used in zip(answers, exclude, strict=True):
            left_out = {self.index_to_key[row] for row in used}
            result.append([(word, score) for word, score in answer if word not in left_out][:topn])
        return result

    def _named(self, found: np.ndarray, scores: np.ndarray) -> list[Similar]:
        return [
            [(self.index_to_key[row], score) for row, score in zip(*pair, strict=True) if row >= 0]
            for pair in zip(found.tolist(), scores.tolist(), strict=True)
        ]

    def _range(self, clip_start: int, clip_end: int | None, restrict_vocab: int | None) -> tuple[int, int]:
        if restrict_vocab is not None:
            if restrict_vocab < 1:
                raise ValueError(f"restrict_vocab: expected None or a positive number, got {restrict_vocab}")
            clip_start, clip_end = 0, restrict_vocab
        start, stop, _ = slice(clip_start, clip_end or None).indices(len(self.vectors))
        return start, max(start, stop)

    def _check_indexer(self, start: int, stop: int) -> None:
        if (start, stop) != (0, len(self.vectors)):
            raise ValueError("indexer: expected none together with restrict_vocab, clip_start or clip_end")

    def _query(self, positive: object, negative: object) -> tuple[np.ndarray, list[int]]:
        """Return the unit mean (D,) float64 of a query, and the rows of its words."""
        items = [("positive", item, 1.0) for item in as_list(positive)]
        items += [("negative", item, -1.0) for item in as_list(negative)]
        if not items:
            raise ValueError("positive, negative: expected at least one word or vector")
        total = np.zeros(self.vectors.shape[1], dtype=np.float64)
        used: dict[int, None] = {}
        for name, item, weight in items:
            if isinstance(item, tuple) and len(item) == 2:
                item, weight = item
                if not isinstance(weight, (int, float, np.number)) or not np.isfinite(weight):
                    raise ValueError(f"{name}: expected (word, weight) with a finite number, got weight {weight!r}")
            if isinstance(item, (str, int, np.integer)):
                row = self.get_index(item, -1)
                if row >= 0:
                    used[row] = None
                elif item not in self:  # a subclass may make vectors for words it has not seen
                    raise KeyError(f"{name}: Key '{item}' not present")
                total += weight * unit(self.get_vector(item))
            else:
                total += weight * self._check_vector(name, item)
        return unit(total), list(used)

    def _check_vector(self, name: str, value: Any) -> np.ndarray:
        dim = self.vectors.shape[1]
        try:
            vector = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected words, vectors or (word, weight) pairs, got {value!r}") from error
        if vector.shape != (dim,):
            raise ValueError(f"{name}: expected a vector of shape ({dim},), got {vector.shape}")
        if not np.isfinite(vector).all():
            raise ValueError(f"{name}: the vector is not finite")
        return vector

    def similar_by_word(
        self, word: Key, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Similar | np.ndarray:
        """Return the words nearest to one word, which itself is left out; see `most_similar`."""
        return self.most_similar(positive=[word], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_key(
        self, key: Key, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Similar | np.ndarray:
        """Return what `similar_by_word` returns: gensim's other name for it."""
        return self.similar_by_word(key, topn, restrict_vocab)

    def similar_by_vector(
        self, vector: np.ndarray, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> Similar | np.ndarray:
        """Return the words nearest to a vector (D,); see `most_similar`."""
        return self.most_similar([self._check_vector("vector", vector)], topn=topn, restrict_vocab=restrict_vocab)

    def most_similar_cosmul(
        self,
        positive: Key | np.ndarray | Sequence[Key | np.ndarray] | None = None,
        negative: Key | np.ndarray | Sequence[Key | np.ndarray] | None = None,
        topn: int | None = 10,
        restrict_vocab: int | None = None,
    ) -> Similar | np.ndarray:
        """Return the words with the highest 3CosMul: Π (1 + cos⁺) / 2 over Π (1 + cos⁻) / 2 + 1e-6.

        Equation (4) of Levy and Goldberg 2014, "Linguistic Regularities in Sparse and Explicit Word Representations",
        for any number of words on either side. A given vector is taken as it is, not scaled to length 1 (as gensim
        takes it). Arguments and result otherwise as `most_similar`.

        Raises:
            KeyError: a word is not in the vocabulary.
            ValueError: there is no positive word or vector.
        """
        if topn is not None and topn < 1:
            return []
        start, stop = self._range(0, None, restrict_vocab)
        terms: dict[str, list[np.ndarray]] = {"positive": [], "negative": []}
        used = []
        for (name, vectors), items in zip(terms.items(), (positive, negative), strict=True):
            for item in as_list(items):
                if isinstance(item, (str, int, np.integer)):
                    vectors.append(unit(self.get_vector(item)))
                    used.append(self.get_index(item, -1))
                else:
                    vectors.append(self._check_vector(name, item))
        if not terms["positive"]:
            raise ValueError("positive: expected at least one word or vector")
        rows, norms = self.vectors[start:stop], self.norms[start:stop]

        def factors(cosine: Callable[[np.ndarray], np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
            above, below = ([(1 + cosine(vector)) / 2 for vector in terms[name]] for name in terms)
            return above, below

        above, below = factors(lambda vector: cosines(rows, norms, vector))
        scores = _cosmul(above, below)
        if topn is None:
            return scores.astype(np.float32)
        scores[~np.isfinite(norms)] = -np.inf
        scores[[row for row in used if 0 <= row < len(scores)]] = -np.inf
        topn = min(topn, int(np.count_nonzero(scores > -np.inf)))
        if topn == 0:
            return []
        possible = scores > -np.inf
        finite = np.where(possible, scores, 0)
        # Each factor is off by ROUNDING / 2 at most, which matters the more the smaller it is.
        doubt = np.abs(finite) * sum(ROUNDING / (np.abs(factor) + 1e-6) for factor in (*above, *below))
        least = np.where(possible, finite - doubt, -np.inf)
        threshold = np.partition(least, len(scores) - topn)[len(scores) - topn]
        best = np.flatnonzero(possible & (finite + doubt >= threshold))
        exact = _cosmul(*factors(lambda vector: exact_scores(rows[best], vector)))
        order = np.argsort(-exact, kind="stable")[:topn]
        return [(self.index_to_key[best[i]], float(exact[i])) for i in order]

    # ---- comparing words -----------------------------------------------------------------------------------------

    def get_mean_vector(
        self,
        keys: Key | Sequence[Key | np.ndarray],
        weights: Sequence[float] | np.ndarray | None = None,
        pre_normalize: bool = True,
        post_normalize: bool = False,
        ignore_missing: bool = True,
    ) -> np.ndarray:
        """Return the weighted mean (D,) float32 of words and vectors, Σ wᵢ xᵢ / Σ |wᵢ|.

        Args:
            keys: words, and vectors (D,), which are taken as they are.
            weights: as many numbers; None: 1 each.
            pre_normalize: scale each word's vector to length 1 first.
            post_normalize: scale the mean to length 1.
            ignore_missing: pass over words that are not in the vocabulary; the mean of none is zero.

        Raises:
            KeyError: a word is not in the vocabulary, with `ignore_missing=False`.
            ValueError: there are no keys, or not as many weights.
        """
        keys = as_list(keys)
        if not keys:
            raise ValueError("keys: expected at least one word or vector")
        factors = np.ones(len(keys)) if weights is None else np.asarray(weights, dtype=np.float64)
        if factors.shape != (len(keys),):
            raise ValueError(f"weights: expected shape ({len(keys)},) to match keys, got {factors.shape}")
        total, weight = np.zeros(self.vectors.shape[1], dtype=np.float64), 0.0
        for key, factor in zip(keys, factors.tolist(), strict=True):
            if not isinstance(key, (str, int, np.integer)):
                vector = self._check_vector("keys", key)
            elif key in self:
                vector = self.get_vector(key)
                vector = unit(vector) if pre_normalize else vector
            elif ignore_missing:
                continue
            else:
                raise KeyError(f"Key '{key}' not present in vocabulary")
            total += factor * vector
            weight += abs(factor)
        mean = total / weight if weight > 0 else total
        return (unit(mean) if post_normalize else mean).astype(np.float32)


def _cosmul(above: list[np.ndarray], below: list[np.ndarray]) -> np.ndarray:
    return np.prod(above, axis=0, dtype=np.float64) / (np.prod(below, axis=0, dtype=np.float64) + 1e-6)


def _parts(query: object) -> tuple[object, object]:
    if isinstance(query, Mapping):
        if unknown := set(query) - {"positive", "negative"}:
            raise ValueError(f"queries: expected positive and negative in a query, got {sorted(unknown)[0]!r}")
        return query.get("positive"), query.get("negative")
    return query, None
