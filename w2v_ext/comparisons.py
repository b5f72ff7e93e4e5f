"""Comparing words with each other, and with people's judgments: gensim's `KeyedVectors` without the search."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .nearest import ROUNDING, cosines, exact_scores
from .queries import Key, Queries, as_list, unit


class Comparisons(Queries):
    """Similarities and distances of given words; see `queries` for what similarity is."""

    def similarity(self, w1: Key, w2: Key) -> float:
        """Return the cosine similarity of two words, in [-1, 1].

        Raises:
            KeyError: one of them is not in the vocabulary.
        """
        return float(unit(self[w1]) @ unit(self[w2]))

    def distance(self, w1: Key, w2: Key) -> float:
        """Return 1 - `similarity(w1, w2)`."""
        return 1.0 - self.similarity(w1, w2)

    def distances(self, word_or_vector: Key | np.ndarray, other_words: Collection[Key] | None = ()) -> np.ndarray:
        """Return 1 - cosine of a word or vector (D,) with each of `other_words`, or with all words: float32.

        Raises:
            KeyError: a word is not in the vocabulary.
        """
        query = self._as_unit(word_or_vector)
        if other_words is None or len(other_words) == 0:
            return 1 - cosines(self.vectors, self.norms, query)
        rows = np.stack([self.get_vector(word) for word in other_words])
        return (1 - exact_scores(rows, query)).astype(np.float32)

    @staticmethod
    def cosine_similarities(vector_1: np.ndarray, vectors_all: np.ndarray) -> np.ndarray:
        """Return the cosines (n,) float32 of a vector (D,) with vectors (n, D); 0 where one of them is zero."""
        return exact_scores(np.asarray(vectors_all), unit(vector_1)).astype(np.float32)

    def n_similarity(self, ws1: Key | Sequence[Key], ws2: Key | Sequence[Key]) -> float:
        """Return the cosine similarity of the mean vectors of two lists of words (or lone words).

        Words that are not in the vocabulary are passed over; where all of a list are, the similarity is 0.

        Raises:
            ValueError: a list is empty.
        """
        means = []
        for name, words in (("ws1", ws1), ("ws2", ws2)):
            keys = as_list(words)
            if not keys:
                raise ValueError(f"{name}: expected at least one word")
            known = [self.get_vector(key) for key in keys if key in self]
            means.append(unit(np.mean(known, axis=0, dtype=np.float64)) if known else np.zeros(self.vectors.shape[1]))
        return float(means[0] @ means[1])

    def most_similar_to_given(self, key1: Key, keys_list: Sequence[Key]) -> Key:
        """Return the word of a list that is most similar to `key1`; of equals the first.

        Raises:
            KeyError: a word is not in the vocabulary.
            ValueError: the list is empty.
        """
        if len(keys_list) == 0:
            raise ValueError("keys_list: expected at least one word")
        scores = exact_scores(np.stack([self.get_vector(key) for key in keys_list]), self._as_unit(key1))
        return keys_list[int(scores.argmax())]

    def closer_than(self, key1: Key, key2: Key) -> list[Any]:
        """Return the words that are nearer to `key1` than `key2` is, in the order of `index_to_key`.

        Raises:
            KeyError: one of them is not in the vocabulary.
        """
        query = self._as_unit(key1)
        limit = float(exact_scores(self.vectors[[self.get_index(key2)]], query)[0])
        scores = cosines(self.vectors, self.norms, query)
        closer = scores > limit
        near = np.flatnonzero(np.abs(scores - limit) <= ROUNDING)  # too near to tell in float32
        closer[near] = exact_scores(self.vectors[near], query) > limit
        own = self.get_index(key1)
        return [self.index_to_key[row] for row in np.flatnonzero(closer).tolist() if row != own]

    def rank(self, key1: Key, key2: Key) -> int:
        """Return the place of `key2` among the words by distance from `key1`; the nearest has 1."""
        return len(self.closer_than(key1, key2)) + 1

    def relative_cosine_similarity(self, wa: Key, wb: Key, topn: int = 10) -> float:
        """Return the similarity of two words over the sum of those of `wa`'s `topn` nearest words.

        Equation (1) of Leeuwenberg et al. 2016, "A Minimally Supervised Approach for Synonym Extraction with Word
        Embeddings", who take values above 0.10 (topn 10) for a sign of synonyms.

        Raises:
            KeyError: a word is not in the vocabulary.
            ValueError: `topn` is less than 1, or there is no other word.
        """
        near = self.similar_by_word(wa, topn)
        if not near:
            raise ValueError(f"topn: expected at least one word near {wa!r}, got none with topn = {topn}")
        return self.similarity(wa, wb) / sum(score for _, score in near)

    def rank_by_centrality(self, words: Sequence[Key], use_norm: bool = True) -> list[tuple[float, Any]]:
        """Return (similarity to the mean, word) of the words, most central first.

        The mean is that of the unit vectors, or of the vectors as they are with `use_norm=False`, when the number is
        the dot product of the word's vector and the mean at length 1. Words not in the vocabulary are passed over.

        Raises:
            ValueError: none of the words is in the vocabulary.
        """
        known = [word for word in words if word in self]
        if not known:
            raise ValueError(f"words: none of {list(words)!r} is in the vocabulary")
        rows = np.stack([unit(self.get_vector(word)) if use_norm else self.get_vector(word) for word in known])
        rows = rows.astype(np.float64)
        scores = (rows * unit(rows.mean(axis=0))).sum(axis=1)
        return sorted(zip(scores.tolist(), known, strict=True), reverse=True)

    def doesnt_match(self, words: Sequence[Key]) -> Key:
        """Return the word least similar to the mean of the unit vectors of all of them; of equals the first by name.

        Words that are not in the vocabulary are passed over.

        Raises:
            ValueError: none of the words is in the vocabulary.
        """
        return self.rank_by_centrality(words)[-1][1]

    def wmdistance(self, document1: Sequence[str], document2: Sequence[str], norm: bool = True) -> float:
        """Return the Word Mover's Distance of two lists of words: the least cost of moving one's words to the other's.

        Kusner et al. 2015, "From Word Embeddings To Document Distances": each document is spread over its distinct
        words by their frequency, and moving costs the Euclidean distance of two vectors (at length 1 with `norm`).
        Words not in the vocabulary are passed over; a document without any other is at distance infinity.

        Raises:
            ImportError: the package POT is not installed.
        """
        try:
            from ot import emd2
        except ImportError:
            raise ImportError("wmdistance needs the package POT: pip install 'w2v_ext[wmd]'") from None
        sides = []
        for document in (document1, document2):
            known = [word for word in document if word in self]
            if not known:
                return float("inf")
            counts = {word: known.count(word) for word in dict.fromkeys(known)}
            rows = np.stack([unit(self.get_vector(w)) if norm else self.get_vector(w) for w in counts])
            sides.append((np.array(list(counts.values())) / len(known), rows.astype(np.float64)))
        (weights1, rows1), (weights2, rows2) = sides
        cost = np.linalg.norm(rows1[:, None] - rows2[None], axis=2)  # (n1, n2)
        return float(emd2(weights1, weights2, cost))

    # ---- judging -------------------------------------------------------------------------------------------------

    def evaluate_word_pairs(
        self,
        pairs: str | os.PathLike[str],
        delimiter: str = "\t",
        encoding: str = "utf8",
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> tuple[Any, Any, float]:
        """Return (Pearson, Spearman, out-of-vocabulary percent) against people's judgments, as gensim does.

        Both are (statistic, p-value); see `evaluate.evaluate_word_pairs`, which also gives the confidence intervals.
        """
        from .evaluate import evaluate_word_pairs

        options = {"restrict_vocab": restrict_vocab, "case_insensitive": case_insensitive}
        found = evaluate_word_pairs(
            self, pairs, delimiter=delimiter, encoding=encoding, dummy4unknown=dummy4unknown, **options
        )
        return found.pearson, found.spearman, found.oov_percent

    def evaluate_word_analogies(
        self,
        analogies: str | os.PathLike[str],
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
        similarity_function: str = "most_similar",
    ) -> tuple[float, list[dict[str, Any]]]:
        """Return (accuracy, sections) on analogy questions, as gensim does.

        Each section is `{"section": name, "correct": [(a, b, c, d), ...], "incorrect": [...]}`, and the last one,
        "Total accuracy", is all of them; see `evaluate.evaluate_word_analogies`.
        """
        from .evaluate import evaluate_word_analogies

        options = {"restrict_vocab": restrict_vocab, "case_insensitive": case_insensitive}
        found = evaluate_word_analogies(
            self, analogies, dummy4unknown=dummy4unknown, similarity_function=similarity_function, **options
        )
        return found.accuracy, [
            {"section": s.name, "correct": list(s.correct), "incorrect": list(s.incorrect)}
            for s in (*found.sections, found.total)
        ]

    def _as_unit(self, word_or_vector: Key | np.ndarray) -> np.ndarray:
        if isinstance(word_or_vector, (str, int, np.integer)):
            return unit(self.get_vector(word_or_vector))
        return unit(self._check_vector("word_or_vector", word_or_vector))
