"""fastText's models in NumPy, as plainly as can be: what tests compare the kernels with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .reference import draw, sample_alias, sentence_key
from .subwords import SubwordGroups

_MASK32, _MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


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


def examples_of(
    c: int,
    kept: list[int],
    at: list[int],
    reach: list[int],
    key: int,
    alias: np.ndarray,
    cbow: bool,
    window: int,
    negative: int,
) -> Iterator[tuple[list[int], list[int]]]:
    """What one centre of a sentence learns, in order: words whose mean predicts, and what it meets.

    Args:
        c: the centre, among the words ``kept`` of the sentence; they are at its places ``at``.
        reach: the words' windows.
        key: of the sentence's draws; ``alias`` gives words for them.
        cbow, window, negative: the settings.

    Yields:
        The words that predict and the outputs: the word that is to be predicted, then its negatives.
    """
    near = [i for i in range(len(kept)) if i != c and abs(i - c) <= reach[c]]
    if cbow:
        first = at[c] * (1 + negative) + 1
        noise = [sample_alias(alias, draw(key, first + k)) for k in range(negative)]
        yield [kept[i] for i in near], [kept[c], *noise]
        return
    for m, i in enumerate(near):
        n = 2 * window * at[c] + m
        noise = [sample_alias(alias, draw(key, _MASK64 - n * negative - k)) for k in range(negative)]
        yield [kept[c]], [kept[i], *noise]


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
        for c in range(len(kept)):
            for bag, outputs in examples_of(c, kept, at, reach, key, alias, cbow, window, negative):
                weight = np.array([-1.0] + [float(word != outputs[0]) for word in outputs[1:]])
                u = out[outputs]  # (N, D); a word that is twice there is moved apart, and united at the end
                v = np.average(vectors[bag], axis=0, weights=word_rows[bag])
                t = np.where(weight < 0, -1, 1) * (u @ v)
                loss += float((np.abs(weight) * np.logaddexp(0, t)).sum())
                pairs += 1
                coef = -rate * weight * np.exp(-np.logaddexp(0, -t))
                np.add.at(vectors, bag, coef @ u)
                np.add.at(out, outputs, np.outer(coef, v))
    return loss, pairs, words
