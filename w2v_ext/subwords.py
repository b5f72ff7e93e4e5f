"""N-grams of characters: which rows a word's vector is the mean of, as fastText counts them.

N-grams are hashed into buckets (csrc/text/subwords.h). Only buckets that some word of the vocabulary uses are ever
trained, and those that the same words use are always moved together: they stay equal if they start equal. So a table
has one row for each such group, and its first V groups are those of one word alone: the word's own row, and the n-grams
that no other word has. Of 49,000 words of English with n-grams of 3 to 6 characters, 2,000,000 buckets shrink to
123,000 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import _text

LONGEST_N = 64
TENSORS = ("subword_weight", "subword_buckets", "subword_groups")  # of a model directory: what a SubwordTable is of


@dataclass(frozen=True)
class SubwordSettings:
    """How words are cut into n-grams: of ``min_n`` to ``max_n`` characters of "<word>", hashed into ``buckets``.

    Raises:
        ValueError: a setting out of range; the message names it, the rule and the value.
    """

    min_n: int = 3
    max_n: int = 6
    buckets: int = 2_000_000

    def __post_init__(self) -> None:
        """Check every setting."""
        for name, low, high in (("min_n", 1, LONGEST_N), ("max_n", 1, LONGEST_N), ("buckets", 1, 2**31 - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
        if self.min_n > self.max_n:
            raise ValueError(f"min_n: expected at most max_n = {self.max_n}, got {self.min_n}")

    def buckets_of(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the buckets of the words' n-grams, as often as they occur.

        Returns:
            ``ids`` (N,) int64, and ``ends`` (len(words),) int64: word i has ids[ends[i-1] : ends[i]].
        """
        raw = [word.encode("utf-8", "surrogateescape") for word in words]
        return _text.subwords(raw, min_n=self.min_n, max_n=self.max_n, buckets=self.buckets)


@dataclass(frozen=True)
class SubwordGroups:
    """The rows of a vocabulary's words and n-grams, in groups that always move together.

    Attributes:
        first: (V + 1,) int64; word w has the groups ``entries[first[w]:first[w + 1]]``, its own, w, first. One that
            the word has twice stands there twice.
        entries: (E,) int32.
        word_rows: (V,) float32: how many rows (itself and its n-grams) the vector of a word is the mean of.
        group_rows: (V + C,) float32: how many rows a group has.
        buckets: (U,) int32, ascending: the buckets that the words use.
        bucket_groups: (U,) int32: the group of each.
    """

    first: np.ndarray
    entries: np.ndarray
    word_rows: np.ndarray
    group_rows: np.ndarray
    buckets: np.ndarray
    bucket_groups: np.ndarray

    @classmethod
    def of(cls, words: Sequence[str], settings: SubwordSettings) -> SubwordGroups:
        """Find the groups of some words, the most used groups first (by the number of words)."""
        size = len(words)
        ids, ends = settings.buckets_of(words)
        counts = np.diff(ends, prepend=0)
        owners = np.repeat(np.arange(size), counts)
        order = np.argsort(ids, kind="stable")
        starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
        uses = np.diff(starts, append=len(ids))  # of each bucket in use
        # Buckets of the same words have the same sum of the words' keys: 128 random bits each, so that no two other
        # sums are ever equal.
        keys = np.random.default_rng(0).integers(0, 2**64, (size, 2), dtype=np.uint64)
        sums = np.add.reduceat(keys[owners[order]], starts) if len(ids) else np.empty((0, 2), np.uint64)
        both = np.ascontiguousarray(np.concatenate([keys, sums])).view([("a", "u8"), ("b", "u8")]).ravel()
        _, seen, group = np.unique(both, return_index=True, return_inverse=True)
        # Groups in this order: of word 0, of word 1, ...; then the shared ones, the most used first.
        rank = np.where(seen < size, seen, 0)
        shared = np.flatnonzero(seen >= size)
        rank[shared[np.lexsort((seen[shared], -uses[seen[shared] - size]))]] = size + np.arange(len(shared))
        bucket_groups = rank[group[size:]]
        group_rows = np.bincount(np.concatenate([np.arange(size), bucket_groups]), minlength=size + len(shared))

        of_use = np.empty(len(ids), np.int64)
        of_use[order] = np.repeat(bucket_groups, uses)
        pairs = np.concatenate([np.arange(size) * (len(group_rows) + 1), owners * len(group_rows) + of_use])
        pairs, times = np.unique(pairs, return_counts=True)
        word, entry = np.divmod(pairs, len(group_rows))
        times //= group_rows[entry]  # a word that has one row of a group twice has all of them twice
        first = np.zeros(size + 1, np.int64)
        np.cumsum(np.bincount(word, weights=times, minlength=size).astype(np.int64), out=first[1:])
        return cls(
            first,
            np.repeat(entry, times).astype(np.int32),
            (counts + 1).astype(np.float32),
            group_rows.astype(np.float32),
            ids[order][starts].astype(np.int32),
            bucket_groups.astype(np.int32),
        )

    def rows_in(
        self, table: SubwordTable, words: np.ndarray, table_words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find which rows of a trained table the rows of these groups are.

        Args:
            table: with n-grams hashed as here; otherwise nothing it says is of use.
            words, table_words: (S,) integers, the words that both have by their numbers here and in the table.

        Returns:
            ``groups``, ``rows`` and ``times`` (P,) int64, groups ascending: so many rows of a group are this row of
            ``table.weight``. The table has none for what is missing from a group's ``group_rows``.
        """
        place = np.searchsorted(table.buckets, self.buckets)
        found = np.flatnonzero(place < len(table.buckets))
        found = found[table.buckets[place[found]] == self.buckets[found]]
        groups = np.concatenate([words, self.bucket_groups[found]]).astype(np.int64)
        rows = np.concatenate([table_words, table.rows[place[found]]]).astype(np.int64)
        pairs, times = np.unique(groups * len(table.weight) + rows, return_counts=True)
        return *np.divmod(pairs, len(table.weight)), times


@dataclass(frozen=True)
class SubwordTable:
    """The rows of words and n-grams after training: what makes a vector of any word.

    Attributes:
        settings: how words are cut into n-grams.
        num_words: V; row w < V of ``weight`` is word w's own.
        weight: (R, D) float32.
        buckets: (U,) integers, ascending: the buckets that have a row; all others are zero.
        rows: (U,) the row of each.
    """

    settings: SubwordSettings
    num_words: int
    weight: np.ndarray
    buckets: np.ndarray
    rows: np.ndarray

    def __post_init__(self) -> None:
        """Check that the parts belong together; ValueError naming the one that does not."""
        if self.weight.ndim != 2 or len(self.weight) < self.num_words:
            raise ValueError(f"weight: expected at least {self.num_words} rows, got shape {self.weight.shape}")
        if self.buckets.dtype.kind not in "iu" or self.rows.dtype.kind not in "iu":
            raise ValueError(f"buckets, rows: expected integers, got {self.buckets.dtype} and {self.rows.dtype}")
        if self.buckets.ndim != 1 or self.rows.shape != self.buckets.shape:
            raise ValueError(f"rows: expected the shape of buckets, {self.buckets.shape}, got {self.rows.shape}")
        if len(self.buckets):
            if self.buckets[0] < 0 or self.buckets[-1] >= self.settings.buckets or (np.diff(self.buckets) <= 0).any():
                raise ValueError(f"buckets: expected ascending numbers below {self.settings.buckets}")
            if self.rows.min() < 0 or self.rows.max() >= len(self.weight):
                raise ValueError(f"rows: expected numbers from 0 to {len(self.weight) - 1}")

    def vectors(self, words: Sequence[str]) -> np.ndarray:
        """Return the vectors (n, D) float32 of words as their n-grams alone make them; zero where there is none."""
        ids, ends = self.settings.buckets_of(words)
        place = np.searchsorted(self.buckets, ids)
        found = np.flatnonzero(place < len(self.buckets))
        found = found[self.buckets[place[found]] == ids[found]]
        gathered = np.zeros((len(ids), self.weight.shape[1]), np.float32)
        gathered[found] = self.weight[self.rows[place[found]]]
        return _text.mean_rows(gathered, np.arange(len(ids)), ends)

    def has_ngrams(self, word: str) -> bool:
        """Tell whether a word is long enough to have n-grams."""
        return len(self.settings.buckets_of([word])[0]) > 0
