"""The Python face of the classifier's operators; the schemas stand in ``csrc/ops.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import _call
from .lines import Encoded

_ops = torch.ops.w2v_ext


def train_classifier_(
    in_weight: Tensor,
    out_weight: Tensor,
    lines: Encoded,
    labels: Tensor,
    label_ends: Tensor,
    path: Tensor,
    path_ends: Tensor,
    order: Tensor,
    *,
    word_ngrams: int,
    loss: str,
    lr: float,
    seed: int,
    epoch: int,
    epochs: int,
    begin: int,
    end: int,
    threads: int,
) -> tuple[float, int]:
    """Train on lines ``order[begin:end]``, one after the other, in place: the inside of `TextClassifier.fit`.

    h is the mean of the line's rows; the outputs take a step of SGD towards one of the line's labels, drawn by (seed,
    epoch, line) (``softmax``, ``hs``), or towards all of them (``ova``), and so do the rows. Threads share the weights
    without locks (Hogwild); with one, the result is the same bits however the order is cut.

    Args:
        in_weight, out_weight: (R, D), and (L, D) or (L - 1, D) for ``hs``, float32, as `trainer.padded_weight` makes
            them.
        lines: the N lines.
        labels, label_ends: of the lines, int32 and (N,) int64.
        path, path_ends: of the labels in their tree, for ``hs``; see `tree.LabelTree`.
        order: int32, the lines to train on, those of the whole epoch; each has a label.
        word_ngrams: the longest; loss: ``softmax``, ``hs`` or ``ova``.
        lr: at the start; falls linearly to 0 over all epochs.
        seed, epoch, epochs: of the draws, and for the learning rate.
        begin, end: the part of ``order``.
        threads: at least 1.

    Returns:
        The loss summed over the lines in float64, and their number: a line without any row is none.

    Equivalent in NumPy: `reference.train_lines_`.
    """
    total, examples = _call(
        _ops.train_classifier_,
        *(in_weight, out_weight, *lines.arguments, word_ngrams, loss, labels, label_ends, path, path_ends, order),
        *(lr, seed, epoch, epochs, begin, end, threads),
    ).tolist()
    return total, int(examples)


def classify(
    in_weight: Tensor,
    out_weight: Tensor,
    lines: Encoded,
    children: Tensor,
    *,
    word_ngrams: int,
    loss: str,
    k: int,
    threshold: float,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """Find the k most probable labels of each of N lines.

    Args:
        in_weight, out_weight, lines, word_ngrams, loss: as in `train_classifier_`.
        children: of the tree, for ``hs``; see `tree.LabelTree`.
        k: 1 to L.
        threshold: labels below this probability are left out.
        threads: at least 1.

    Returns:
        (N, k) int32 labels, from the most probable on, -1 where there is none; (N, k) float32 probabilities. A line
        without any row has none.

    Equivalent in NumPy: `reference.probabilities`.
    """
    return _call(
        _ops.classify,
        *(in_weight, out_weight, *lines.arguments, word_ngrams, loss, children, k, threshold, threads),
    )


def number_ngrams_(bucket_rows: Tensor, lines: Encoded, used: Tensor, word_ngrams: int, first: int) -> int:
    """Give the buckets that the n-grams of some lines meet, and that are -1, the rows from ``first`` on, as they come.

    Args:
        bucket_rows: (buckets,) int32, changed in place.
        lines: all lines; used: int32, those that count.
        word_ngrams: the longest, at least 2.
        first: the first row that is free.

    Returns:
        The first row that is free then.
    """
    return _call(
        _ops.number_ngrams_, bucket_rows, lines.tokens, lines.ends, lines.hashes, used, word_ngrams, first
    )
