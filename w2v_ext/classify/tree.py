"""The Huffman tree of hierarchical softmax: labels that are frequent have short paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelTree:
    """A binary tree over L labels, with L - 1 inner nodes; the last one is the root.

    Attributes:
        children: (2 (L - 1),) int32, left and right child of each inner node: label l is l, inner node n is L + n.
        path: int32, for each label the inner nodes above it, from the lowest to the root, each times 2, plus 1 if the
            label is to the right of it; label l has `path[path_ends[l-1]:path_ends[l]]`.
        path_ends: (L,) int64.
    """

    children: np.ndarray
    path: np.ndarray
    path_ends: np.ndarray


def label_tree(counts: np.ndarray) -> LabelTree:
    """Build the tree of labels with falling counts (L,), L >= 2, as fastText does (the same ties, the same codes).

    Two queues, the labels from the rarest on and the nodes made so far, give the two least frequent at each step; a
    label goes before a node only if it is rarer.
    """
    num_labels = len(counts)
    weight = [int(count) for count in counts]
    parent, is_right = [0] * (2 * num_labels - 1), [0] * (2 * num_labels - 1)
    children = []
    leaf, node = num_labels - 1, num_labels
    for made in range(num_labels, 2 * num_labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and (node >= made or weight[leaf] < weight[node]):
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        weight.append(weight[pair[0]] + weight[pair[1]])
        children += pair
        parent[pair[0]] = parent[pair[1]] = made
        is_right[pair[1]] = 1
    path, ends = [], []
    for label in range(num_labels):
        at = label
        while at != 2 * num_labels - 2:
            path.append((parent[at] - num_labels) * 2 + is_right[at])
            at = parent[at]
        ends.append(len(path))
    return LabelTree(np.array(children, np.int32), np.array(path, np.int32), np.array(ends, np.int64))
