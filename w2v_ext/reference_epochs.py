"""Epochs of CBOW, hierarchical softmax and full softmax in NumPy, draw for draw as the kernels train them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .huffman import HuffmanTree
from .reference import BLOCK, draw, sample_alias, sentence_key


@dataclass(frozen=True)
class _Sentence:
    """What subsampling leaves of a sentence, and its windows.

    Attributes:
        words: the words left; ``at`` are their places in the sentence, ``reach`` the windows drawn for them.
        key: of the sentence's draws.
        rate: the learning rate.
    """

    words: list[int]
    at: list[int]
    reach: list[int]
    key: int
    rate: float

    def contexts(self, center: int) -> list[int]:
        """The positions in ``words`` that are in the window of position ``center``."""
        low, high = max(0, center - self.reach[center]), min(len(self.words), center + self.reach[center] + 1)
        return [i for i in range(low, high) if i != center]


def sentences(
    ids: np.ndarray, keep: np.ndarray, *, window: int, slots: int, seed: int, epoch: int, epochs: int, lr: float
) -> Iterator[_Sentence]:
    """Subsample every sentence and draw its windows; those with fewer than two words left are given too.

    Args:
        ids: (N,) sentences of word ids, each closed by -1; keep: (V,) uint32 thresholds.
        window, seed, epoch, epochs, lr: as in ``train_sgns_``.
        slots: draws per place in a sentence: 1 and the negatives.
    """
    start = 0
    for end in np.flatnonzero(ids < 0):
        sentence, offset, start = ids[start:end].tolist(), start, int(end) + 1
        key = sentence_key(seed, epoch, offset)
        bits = [draw(key, i * slots) for i in range(len(sentence))]
        at = [i for i, word in enumerate(sentence) if bits[i] >> 32 <= keep[word]]
        reach = [1 + ((bits[i] & (2**32 - 1)) * window >> 32) for i in at]
        rate = lr * max(1 - (len(ids) * epoch + offset) / (len(ids) * epochs), 1e-4)
        yield _Sentence([sentence[i] for i in at], at, reach, key, rate)


def train_cbow_(
    in_weight: np.ndarray,
    out_weight: np.ndarray,
    ids: np.ndarray,
    alias: np.ndarray,
    keep: np.ndarray,
    *,
    mean: bool,
    divide: bool,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
) -> tuple[float, int, int]:
    """As :func:`w2v_ext.ops.train_cbow_` with one thread, for the whole of ``ids``.

    Args:
        in_weight, out_weight: (V, D) float64, updated in place.
        ids: (N,) sentences of word ids, each closed by -1.
        alias: (V, 2) uint32; keep: (V,) uint32 thresholds.
        mean, divide, window, negative, seed, epoch, epochs, lr: as there.

    Returns:
        The loss summed over centres, the number of centres, and of words after subsampling.
    """
    loss, count, words, slots = 0.0, 0, 0, 1 + negative
    draws = {"window": window, "slots": slots, "seed": seed, "epoch": epoch, "epochs": epochs, "lr": lr}
    for sentence in sentences(ids, keep, **draws):
        words += len(sentence.words)
        if len(sentence.words) < 2:
            continue
        for j in range(0, len(sentence.words), BLOCK):
            centers = range(j, min(j + BLOCK, len(sentence.words)))
            contexts = [[sentence.words[i] for i in sentence.contexts(c)] for c in centers]
            hidden = [in_weight[c].sum(axis=0) / (len(c) if mean else 1) for c in contexts]  # (D,) each
            steps = []
            for center, h in zip(centers, hidden, strict=True):  # one after the other
                place = sentence.at[center] * slots
                noise = [sample_alias(alias, draw(sentence.key, place + k)) for k in range(1, slots)]
                outputs = [sentence.words[center], *noise]
                u = out_weight[outputs]  # (1 + K, D)
                weight = np.array([-1.0, *(word != outputs[0] for word in noise)])
                t = np.where(weight < 0, -1, 1) * (u @ h)
                loss += float((np.abs(weight) * np.logaddexp(0, t)).sum())
                coef = -sentence.rate * weight * np.exp(-np.logaddexp(0, -t))
                np.add.at(out_weight, outputs, np.outer(coef, h))
                steps.append(coef @ u)
                count += 1
            for c, step in zip(contexts, steps, strict=True):
                np.add.at(in_weight, c, step / (len(c) if divide else 1))
    return loss, count, words


def train_hs_(
    in_weight: np.ndarray,
    out_weight: np.ndarray,
    ids: np.ndarray,
    tree: HuffmanTree,
    keep: np.ndarray,
    *,
    cbow: bool,
    mean: bool,
    divide: bool,
    window: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
) -> tuple[float, int, int]:
    """As :func:`w2v_ext.ops.train_hs_` with one thread, for the whole of ``ids``.

    Args:
        in_weight, out_weight: (V, D) float64, updated in place; row n of ``out_weight`` is inner node n.
        ids: (N,) sentences of word ids, each closed by -1.
        tree: the words' paths; keep: (V,) uint32 thresholds.
        cbow, mean, divide, window, seed, epoch, epochs, lr: as there.

    Returns:
        The loss summed over pairs (CBOW: centres), their number, and that of words after subsampling.
    """
    loss, count, words = 0.0, 0, 0
    draws = {"window": window, "slots": 1, "seed": seed, "epoch": epoch, "epochs": epochs, "lr": lr}
    for sentence in sentences(ids, keep, **draws):
        words += len(sentence.words)
        if len(sentence.words) < 2:
            continue
        for j in range(0, len(sentence.words), BLOCK):
            centers = range(j, min(j + BLOCK, len(sentence.words)))
            contexts = [[sentence.words[i] for i in sentence.contexts(c)] for c in centers]
            if cbow:  # both centres' h before either path is trained, both steps after
                hidden = [in_weight[c].sum(axis=0, keepdims=True) / (len(c) if mean else 1) for c in contexts]
            for g, center in enumerate(centers):
                word = sentence.words[center]
                nodes, sign = tree.nodes(word), 1.0 - 2 * tree.codes(word)  # (N,)
                u = out_weight[nodes]
                v = hidden[g] if cbow else in_weight[contexts[g]]  # (M, D)
                t = -sign * (v @ u.T)  # (M, N)
                loss += float(np.logaddexp(0, t).sum())
                count += len(v)
                coef = sentence.rate * sign * np.exp(-np.logaddexp(0, -t))
                for m, row in enumerate(contexts[g] if not cbow else [None]):
                    x = hidden[g][0] if cbow else in_weight[row].copy()
                    step = coef[m] @ u
                    u = u + np.outer(coef[m], x)
                    if cbow:
                        hidden[g] = step
                    else:
                        in_weight[row] += step
                out_weight[nodes] = u
            if cbow:
                for g in range(len(centers)):
                    step = hidden[g] / (len(contexts[g]) if divide else 1)
                    np.add.at(in_weight, contexts[g], step)
    return loss, count, words


def train_softmax_(
    in_weight: np.ndarray,
    out_weight: np.ndarray,
    ids: np.ndarray,
    keep: np.ndarray,
    *,
    cbow: bool,
    mean: bool,
    divide: bool,
    window: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    stretch: int,
    batch: int,
) -> tuple[float, int, int]:
    """As :class:`w2v_ext.methods.softmax.FullSoftmax`, for the whole of ``ids``.

    Args:
        in_weight, out_weight: (V, D) float64, updated in place.
        ids: (N,) sentences of word ids, each closed by -1; keep: (V,) uint32 thresholds.
        cbow, mean, divide, window, seed, epoch, epochs, lr: as in :func:`train_hs_`.
        stretch: ids whose sentences are cut into batches together; batch: centres at a time.

    Returns:
        The loss summed over pairs (CBOW: centres), their number, and that of words after subsampling.
    """
    draws = {"window": window, "slots": 1, "seed": seed, "epoch": epoch, "epochs": epochs, "lr": lr}
    starts = np.concatenate([[0], np.flatnonzero(ids < 0)[:-1] + 1])
    groups: dict[int, list] = {}  # stretch: (rate, centre, contexts)
    loss, count, words = 0.0, 0, 0
    for start, sentence in zip(starts.tolist(), sentences(ids, keep, **draws), strict=True):
        words += len(sentence.words)
        if len(sentence.words) >= 2:
            examples = [(sentence.rate, w, sentence.contexts(c)) for c, w in enumerate(sentence.words)]
            examples = [(rate, w, [sentence.words[i] for i in places]) for rate, w, places in examples]
            groups.setdefault(start // stretch, []).extend(examples)
    for group in groups.values():
        for i in range(0, len(group), batch):
            part = group[i : i + batch]
            rate = part[0][0]
            grad_in, grad_out = np.zeros_like(in_weight), np.zeros_like(out_weight)
            for _, center, contexts in part:
                source, targets = (contexts, [center]) if cbow else ([center], contexts)
                h = in_weight[source].sum(axis=0) / (len(source) if cbow and mean else 1)  # (D,)
                scores = out_weight @ h
                log_probability = scores - np.logaddexp.reduce(scores)
                slope = np.exp(log_probability) * len(targets)
                np.add.at(slope, targets, -1)
                loss -= float(log_probability[targets].sum())
                count += len(targets)
                np.add.at(grad_in, source, slope @ out_weight / (len(source) if cbow and divide else 1))
                grad_out += np.outer(slope, h)
            in_weight -= rate * grad_in
            out_weight -= rate * grad_out
    return loss, count, words
