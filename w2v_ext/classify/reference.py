"""The same mathematics in NumPy: what tests compare the kernels with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..reference import draw, sentence_key
from .tree import LabelTree

_MASK64 = 2**64 - 1


def word_hash(word: bytes) -> int:
    """FNV-1a of a word over signed bytes, as fastText computes it: 32 bits."""
    value = 2166136261
    for byte in word:
        value = (value ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * 16777619 & 0xFFFFFFFF
    return value


def ngram_buckets(hashes: Sequence[int], word_ngrams: int, buckets: int) -> list[int]:
    """The buckets of the n-grams, 2 <= n <= ``word_ngrams``, of words with these 32-bit hashes, as in fastText."""
    signed = [value - 2**32 if value >= 2**31 else value for value in hashes]
    found = []
    for i in range(len(signed)):
        value = signed[i]
        for j in range(i + 1, min(len(signed), i + word_ngrams)):
            value = (value * 116049371 + signed[j]) & _MASK64
            found.append(value % buckets)
    return found


def hidden(in_weight: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """The mean (D,) of some rows of (R, D); -1 is a row of zeros."""
    there = [row for row in rows if row >= 0]
    return in_weight[there].sum(axis=0) / len(rows)


def train_lines_(
    in_weight: np.ndarray,
    out_weight: np.ndarray,
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    order: Sequence[int],
    *,
    loss: str,
    lr: float,
    seed: int,
    epoch: int,
    epochs: int,
    tree: LabelTree | None = None,
) -> tuple[float, int]:
    """One epoch in NumPy, in place, draw for draw as the kernels do it with one thread.

    Args:
        in_weight, out_weight: (R, D), and (L, D) or (L - 1, D) for ``hs``, float64.
        rows: of each line, -1 for a row of zeros.
        labels: of each line.
        order: the lines to train on.
        loss, lr, seed, epoch, epochs: as in `ops.train_classifier_`.
        tree: for ``hs``.

    Returns:
        The loss summed over the lines, and their number.
    """
    total, examples = 0.0, 0
    for place, line in enumerate(int(line) for line in order):
        there = [row for row in rows[line] if row >= 0]
        if not there:
            continue
        h = hidden(in_weight, rows[line])
        rate = lr * (1 - (epoch + place / len(order)) / epochs)
        mine = list(labels[line])
        bits = draw(sentence_key(seed, epoch, line), 0) >> 32
        label = mine[bits * len(mine) >> 32]
        outputs, targets = _targets(loss, len(out_weight), mine, label, tree)
        u = out_weight[outputs]  # (N, D)
        scores = u @ h
        if loss == "softmax":
            log_probability = scores - np.logaddexp.reduce(scores)
            total -= float(log_probability[label])
            prediction = np.exp(log_probability)
        else:
            total += float(np.logaddexp(0, np.where(targets > 0, -scores, scores)).sum())
            prediction = np.exp(-np.logaddexp(0, -scores))
        slope = rate * (targets - prediction)  # (N,)
        out_weight[outputs] += np.outer(slope, h)
        np.add.at(in_weight, there, slope @ u / len(rows[line]))
        examples += 1
    return total, examples


def _targets(
    loss: str, num_outputs: int, mine: list[int], label: int, tree: LabelTree | None
) -> tuple[np.ndarray, np.ndarray]:
    if loss == "hs":
        assert tree is not None
        begin = tree.path_ends[label - 1] if label else 0
        path = tree.path[begin : tree.path_ends[label]]
        return path >> 1, (path & 1).astype(float)
    targets = np.zeros(num_outputs)
    targets[mine if loss == "ova" else label] = 1
    return np.arange(num_outputs), targets


def probabilities(
    in_weight: np.ndarray, out_weight: np.ndarray, rows: Sequence[int], loss: str, tree: LabelTree | None = None
) -> np.ndarray:
    """The probability (L,) of each label for a line with these rows."""
    scores = out_weight @ hidden(in_weight, rows)
    if loss == "softmax":
        return np.exp(scores - np.logaddexp.reduce(scores))
    sigmoid = np.exp(-np.logaddexp(0, -scores))
    if loss == "ova":
        return sigmoid
    assert tree is not None
    found, begin = [], 0
    for end in tree.path_ends:
        path = tree.path[begin:end]
        right = sigmoid[path >> 1]
        found.append(np.prod(np.where(path & 1, right, 1 - right)))
        begin = end
    return np.array(found)
