"""fastText's models in NumPy, as plainly as can be: what tests compare the kernels with."""

from __future__ import annotations

import numpy as np

from .reference import draw, sample_alias, sentence_key
from .subwords import SubwordGroups

_MASK32 = 0xFFFFFFFF


def word_vectors(sums: np.ndarray, groups: SubwordGroups) -> np.ndarray:
    """Return the vectors (V, D): the means of the words' rows, of which ``sums`` (V + C, D) has sums."""
    parts = zip(groups.first, groups.first[1:], groups.word_rows, strict=False)
    return np.stack([sums[groups.entries[a:b]].sum(axis=0) / n for a, b, n in parts])


def train_subwords_(
    sums: np.ndarray,
    out_weight: np.ndarray,
    groups: SubwordGroups,
    ids: np.ndarray,
    alias: np.ndarray,
    keep: np.ndarray,
    *,
    cbow: bool,
    stretch: int,
    **settings: int | float,
) -> tuple[float, int, int]:
    """One epoch in place, draw for draw as ``train_subwords_`` does it with one thread.

    Args:
        sums: (V + C, D) float64, sums of the rows of each group: ``in_weight`` on ``ngram_weight``.
        out_weight: (V, D) float64.
        groups: which words have which rows.
        ids, alias, keep, settings: as :func:`w2v_ext.reference.train_sgns_` takes them.
        cbow, stretch: as in ``train_subwords_``.

    Returns:
        The loss, the number of pairs (``cbow``: centres), and of words after subsampling.
    """
    total = np.zeros(3)
    for begin in range(0, len(ids), stretch):
        vectors = word_vectors(sums, groups)
        start = vectors.copy()
        part = {"begin": begin, "end": begin + stretch, **settings}
        total += _train_stretch(vectors, out_weight, groups.word_rows, ids, alias, keep, cbow=cbow, **part)
        for word, step in enumerate(vectors - start):
            for entry in groups.entries[groups.first[word] : groups.first[word + 1]]:
                sums[entry] += groups.group_rows[entry] * step
    loss, pairs, words = total
    return float(loss), int(pairs), int(words)


def _train_stretch(
    vectors: np.ndarray,
    out: np.ndarray,
    word_rows: np.ndarray,
    ids: np.ndarray,
    alias: np.ndarray,
    keep: np.ndarray,
    *,
    cbow: bool,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    begin: int,
    end: int,
) -> tuple[float, int, int]:
    """The sentences that start in ``ids[begin:end]``, on the words' vectors."""
    loss, pairs, words, start = 0.0, 0, 0, 0
    slots = 1 + negative
    for stop in np.flatnonzero(ids < 0):
        sentence, offset, start = ids[start:stop].tolist(), start, int(stop) + 1
        if not begin <= offset < end:
            continue
        key = sentence_key(seed, epoch, offset)
        at = [i for i, word in enumerate(sentence) if draw(key, i * slots) >> 32 <= keep[word]]
        words += len(at)
        rate = lr * max(1 - (len(ids) * epoch + offset) / (len(ids) * epochs), 1e-4)
        if len(at) < 2:
            continue
        kept = [sentence[i] for i in at]
        reach = [1 + ((draw(key, i * slots) & _MASK32) * window >> 32) for i in at]
        for c, center in enumerate(kept):
            near = [word for i, word in enumerate(kept) if i != c and abs(i - c) <= reach[c]]
            noise = [sample_alias(alias, draw(key, at[c] * slots + k)) for k in range(1, slots)]
            outputs = [center, *noise]
            weight = np.array([-1.0] + [float(word != center) for word in noise])
            before = out[outputs]  # (N, D); a word that is twice there is moved apart, and united at the end
            u = before.copy()
            for bag in [near] if cbow else [[word] for word in near]:  # the words that a vector is the mean of
                v = np.average(vectors[bag], axis=0, weights=word_rows[bag])
                t = np.where(weight < 0, -1, 1) * (u @ v)
                loss += float((np.abs(weight) * np.logaddexp(0, t)).sum())
                pairs += 1
                coef = -rate * weight * np.exp(-np.logaddexp(0, -t))
                np.add.at(vectors, bag, coef @ u)
                u += np.outer(coef, v)
            np.add.at(out, outputs, u - before)
    return loss, pairs, words
