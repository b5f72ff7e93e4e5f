"""Huffman codes of a vocabulary: what hierarchical softmax descends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_WORDS = 1 << 14  # whose paths are added up at a time
_COLUMNS = 16  # of vectors at a time


@dataclass(frozen=True)
class HuffmanTree:
    """The paths from the root to every word.

    Attributes:
        start: (V + 1,) int64; word w's path is ``steps[start[w]:start[w + 1]]``, root first.
        steps: (L,) int32, each ``node << 1 | code``. Nodes are numbered 0 to V - 2 from the root by falling count, so
            that those on the most paths come first; they are rows of ``out_weight``, whose last row is not used.
    """

    start: np.ndarray
    steps: np.ndarray

    def nodes(self, word: int) -> np.ndarray:
        """The inner nodes on a word's path, root first."""
        return self.steps[self.start[word] : self.start[word + 1]] >> 1

    def codes(self, word: int) -> np.ndarray:
        """0 or 1 for each node of :meth:`nodes`: which way the path goes on."""
        return self.steps[self.start[word] : self.start[word + 1]] & 1


def huffman_tree(counts: np.ndarray) -> HuffmanTree:
    """Build the tree (Huffman 1952) in which frequent words have short paths, from word counts alone.

    The same counts give the same tree, so a model directory need not hold it. The lighter of two nodes that are joined
    gets code 0, as in word2vec.c.

    Args:
        counts: (V,) non-negative integers, at least two.

    Raises:
        ValueError: fewer than two counts, or a negative one.
    """
    counts = np.asarray(counts, np.int64)
    if counts.ndim != 1 or len(counts) < 2 or counts.min() < 0:
        raise ValueError(f"counts: expected at least two non-negative integers, got shape {counts.shape}")
    size = len(counts)
    order = np.argsort(counts, kind="stable")  # leaves, lightest first: one queue; joined nodes come up sorted: another
    weights = counts[order].tolist()
    parent, code = np.zeros(2 * size - 1, np.int64), np.zeros(2 * size - 1, np.int64)
    leaf, node = 0, size
    for new in range(size, 2 * size - 1):
        weights.append(0)
        for turn in (0, 1):
            if leaf < size and (node >= new or weights[leaf] < weights[node]):
                child, leaf = leaf, leaf + 1
            else:
                child, node = node, node + 1
            parent[child], code[child] = new, turn
            weights[new] += weights[child]

    depth = np.zeros(2 * size - 1, np.int64)
    for child in range(2 * size - 3, -1, -1):  # a parent has a higher number than its children
        depth[child] = depth[parent[child]] + 1
    start = np.zeros(size + 1, np.int64)
    lengths = np.empty(size, np.int64)
    lengths[order] = depth[:size]
    np.cumsum(lengths, out=start[1:])
    steps = np.empty(start[-1], np.int32)
    at = np.arange(size)
    end = start[order + 1] - 1
    while len(at):  # all words climb at once
        steps[end] = (2 * size - 2 - parent[at]) << 1 | code[at]
        at, end = parent[at], end - 1
        going = at < 2 * size - 2
        at, end = at[going], end[going]
    return HuffmanTree(start, steps)


def equal_splits(
    tree: HuffmanTree, other: HuffmanTree, words: np.ndarray, other_words: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the inner nodes of two trees that divide the words which both trees have in the same way.

    A node takes part if there is a common word in each of its two branches; then no other node of its tree divides
    them as it does. A branch is known by the sum of random 64-bit keys of its words, so that each path is gone once.

    Args:
        tree, other: of V and W words.
        words, other_words: (S,) integers, the common words by their numbers in each tree, each once.

    Returns:
        ``nodes`` and ``other_nodes`` (N,) int64, and ``mirrored`` (N,) bool: whether the branch of code 0 in ``tree``
        has the words of the branch of code 1 in ``other``, so that a node's vector has to be negated.
    """
    keys = np.random.default_rng(0).integers(1, 2**64, len(words), dtype=np.uint64)
    sums = np.concatenate(
        [_branch_keys(other, other_words, keys), _branch_keys(tree, words, keys)]
    )  # (W - 1 + V - 1, 2)
    divides = np.flatnonzero(sums.all(axis=1))
    low, high = sums[divides].min(axis=1), sums[divides].max(axis=1)
    order = np.lexsort((high, low))  # stable: the other tree's node first
    low, high = low[order], high[order]
    same = np.flatnonzero((low[1:] == low[:-1]) & (high[1:] == high[:-1]))
    other_nodes, nodes = divides[order[same]], divides[order[same + 1]]
    mirrored = (sums[other_nodes, 0] > sums[other_nodes, 1]) != (sums[nodes, 0] > sums[nodes, 1])
    return nodes - (len(other.start) - 2), other_nodes, mirrored


def _branch_keys(tree: HuffmanTree, words: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(V - 1, 2) uint64: the sums of the keys of the words below each node, by their code; 0 where there are none."""
    size = len(tree.start) - 1
    of_word = np.zeros(size, np.uint64)
    of_word[words] = keys
    sums = np.zeros(2 * (size - 1), np.uint64)
    for begin in range(0, size, _WORDS):
        start = tree.start[begin : begin + _WORDS + 1]
        steps = tree.steps[start[0] : start[-1]].astype(np.int64)  # node << 1 | code: the place of a sum
        np.add.at(sums, steps, np.repeat(of_word[begin : begin + _WORDS], np.diff(start)))
    return sums.reshape(-1, 2)


def nodes_by_odds(
    tree: HuffmanTree, other: HuffmanTree, words: np.ndarray, other_words: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Make vectors of a tree's inner nodes from those of another tree, so that they predict nearly what it does.

    The other tree gives word w the probability ``prod_n sigmoid(s_n u_n h)`` over its path, s = 1 - 2 code. To the
    first order in h that is ``2**-depth * (1 + g_w h)`` with ``g_w = sum_n s_n u_n / 2``, and so the logarithm of the
    odds of two branches A and B is that at h = 0 plus ``(E_A[g] - E_B[g]) h``, means weighted by ``2**-depth``. That
    difference is the node's vector: u_n again where the branches are those of node n.

    Args:
        tree, other, words, other_words: as :func:`equal_splits` takes them.
        vectors: (W, D) floats, row n of inner node n of ``other``.

    Returns:
        (V, D) float32; zero for a node with a branch that has no common word, and in the last row.
    """
    size, other_size = len(tree.start) - 1, len(other.start) - 1
    slots, levels = _levels(tree)
    other_slots, other_levels = _levels(other)
    share = np.zeros(size)
    share[words] = 0.5 ** np.diff(other.start)[other_words]
    weight = _branch_sums(tree, slots, levels, share[:, None])  # (2 V - 2, 1)
    weight[weight == 0] = np.inf
    found = np.zeros((size, vectors.shape[1]), np.float32)
    for begin in range(0, vectors.shape[1], _COLUMNS):
        half = vectors[: other_size - 1, begin : begin + _COLUMNS].astype(np.float64) / 2
        above = np.stack([half, -half], 1).reshape(-1, half.shape[1])  # (2 W - 2, D), by node << 1 | code: g so far
        for nodes in other_levels[1:]:
            for code in (0, 1):
                above[nodes << 1 | code] += above[other_slots[nodes]]
        of_word = np.zeros((size, half.shape[1]))
        of_word[words] = share[words, None] * above[other.steps[other.start[other_words + 1] - 1]]
        means = _branch_sums(tree, slots, levels, of_word) / weight
        found[:-1, begin : begin + _COLUMNS] = means[0::2] - means[1::2]
    found[:-1][np.isinf(weight).reshape(-1, 2).any(axis=1)] = 0
    return found


def _levels(tree: HuffmanTree) -> tuple[np.ndarray, list[np.ndarray]]:
    """Of each inner node the ``node << 1 | code`` above it (V - 1,), but for the root; and the nodes by depth."""
    size = len(tree.start) - 1
    nodes = tree.steps >> 1
    depth = np.zeros(size - 1, np.int32)
    depth[nodes] = np.arange(len(nodes)) - np.repeat(tree.start[:-1], np.diff(tree.start))
    below = np.ones(len(nodes), bool)
    below[tree.start[:-1]] = False
    slots = np.zeros(size - 1, np.int64)
    slots[nodes[below]] = tree.steps[np.flatnonzero(below) - 1]
    order = np.argsort(depth, kind="stable")
    return slots, np.split(order, np.flatnonzero(np.diff(depth[order])) + 1)


def _branch_sums(tree: HuffmanTree, slots: np.ndarray, levels: list[np.ndarray], of_word: np.ndarray) -> np.ndarray:
    """(2 V - 2, D): the sums of (V, D) over the words of each branch, by ``node << 1 | code``."""
    sums = np.empty((2 * len(slots), of_word.shape[1]))
    sums[tree.steps[tree.start[1:] - 1]] = of_word
    for nodes in reversed(levels[1:]):
        sums[slots[nodes]] = sums[nodes << 1] + sums[nodes << 1 | 1]
    return sums
