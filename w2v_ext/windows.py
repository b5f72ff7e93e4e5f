"""Subsampling and windows of many sentences at once, in NumPy: the draws of the kernels (``csrc/rng.h``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Windows:
    """The words that subsampling leaves of some sentences, and their contexts.

    Attributes:
        words: (C,) the words left, each a centre; sentences of fewer than two are left out.
        starts: (C,) int64, where the centre's sentence starts in the corpus.
        first: (C + 1,) int64; centre c's contexts are ``contexts[first[c]:first[c + 1]]``.
        contexts: (P,) words.
        kept: words after subsampling, those of sentences that are left out too.
    """

    words: np.ndarray
    starts: np.ndarray
    first: np.ndarray
    contexts: np.ndarray
    kept: int


def draw_windows(
    ids: np.ndarray, keep: np.ndarray, *, begin: int, end: int, window: int, slots: int, seed: int, epoch: int
) -> Windows:
    """Subsample the sentences that start in ``ids[begin:end]`` and draw their windows.

    Args:
        ids: (N,) int32, sentences of word ids, each closed by -1.
        keep: (V,) uint32 thresholds.
        begin, end: places in ``ids``.
        window: largest distance of a context.
        slots: draws per place in a sentence: 1 and the negatives.
        seed, epoch: of the draws.

    Raises:
        IndexError: a word that is not in the vocabulary, with its place.
    """
    if begin > 0:  # the sentence that runs into this part belongs to the one before
        begin = min(_behind_sentence(ids, begin - 1), end)
    stop = _behind_sentence(ids, end - 1) if end > begin else begin
    part = np.asarray(ids[begin:stop]).astype(np.int64)
    bad = np.flatnonzero(part >= len(keep))
    if len(bad):
        raise IndexError(
            f"ids: word {part[bad[0]]} at position {begin + bad[0]} is out of range for in_weight with {len(keep)} rows"
        )
    sentence = np.cumsum(part < 0) - (part < 0)  # (n,) which sentence each place is in
    edges = np.concatenate([[0], np.flatnonzero(part < 0) + 1])
    offset = np.arange(len(part)) - edges[sentence]
    keys = _sentence_keys(seed, epoch, begin + edges)
    bits = _mix64(keys[sentence] + (offset * slots + 1).astype(np.uint64) * _GOLDEN)
    left = (part >= 0) & (bits >> _HALF <= keep[np.maximum(part, 0)])
    kept = int(left.sum())
    sizes = np.bincount(sentence[left], minlength=len(edges))
    left &= sizes[sentence] >= 2
    words, sentence = part[left], sentence[left]
    reach = 1 + ((bits[left] & _LOW) * np.uint64(window) >> _HALF).astype(np.int64)
    centers = np.arange(len(words))
    opens = np.searchsorted(sentence, sentence, "left")  # (C,) the first and behind the last word of its sentence
    closes = np.searchsorted(sentence, sentence, "right")
    low, high = np.maximum(opens, centers - reach), np.minimum(closes, centers + reach + 1)
    first = np.concatenate([[0], np.cumsum(high - low - 1)])
    place = np.arange(first[-1]) - np.repeat(first[:-1] - low, high - low - 1)
    place += place >= np.repeat(centers, high - low - 1)  # past the centre itself
    return Windows(words, begin + edges[sentence], first, words[place], kept)


def batches(windows: Windows, stretch: int, size: int) -> Iterator[slice]:
    """Centres, at most ``size`` at a time, of sentences that start in the same ``stretch`` ids of the corpus."""
    of_center = windows.starts // stretch
    edges = [0, *(np.flatnonzero(np.diff(of_center)) + 1).tolist(), len(of_center)]
    for begin, end in zip(edges, edges[1:], strict=False):
        for start in range(begin, end, size):
            yield slice(start, min(start + size, end))


def _behind_sentence(ids: np.ndarray, place: int) -> int:
    """The place behind the -1 that closes the sentence of ``ids[place]``, or the end."""
    step = 1 << 12
    for start in range(place, len(ids), step):
        ends = np.flatnonzero(ids[start : start + step] < 0)
        if len(ends):
            return start + int(ends[0]) + 1
    return len(ids)


def _sentence_keys(seed: int, epoch: int, offsets: np.ndarray) -> np.ndarray:
    """Philox4x32-10, as :func:`w2v_ext.reference.sentence_key`, of many sentences."""
    offsets = offsets.astype(np.uint64)
    c = [offsets & _LOW, offsets >> _HALF, np.full_like(offsets, epoch), np.zeros_like(offsets)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> _HALF) ^ c[1] ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c[3] ^ np.uint64(k1), p0 & _LOW]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c[1] << _HALF | c[0]


def _mix64(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
