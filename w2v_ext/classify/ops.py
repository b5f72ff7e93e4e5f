"""The Python face of the classifier's operators; the schemas stand in ``csrc/ops.cpp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops import _call

if TYPE_CHECKING:
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
        in_weight, out_weight: (R, D), and (L, D) or (L - 1, D) for ``hs``, float32, as `tables.padded_weight` makes
            them.
        lines: the N lines.
        labels, label_ends: of the lines, int32 and (N,) int64.
        path, path_ends: of the labels in their tree, for ``hs``; see `tree.LabelTree`.
        order: int32, the lines to train on, those of the whole epoch; each has a label.
        loss: ``softmax``, ``hs`` or ``ova``.
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
        *(in_weight, out_weight, *lines.arguments, loss, labels, label_ends, path, path_ends, order),
        *(lr, seed, epoch, epochs, begin, end, threads),
    ).tolist()
    return total, int(examples)


def train_classifier_cuda_(
    in_weight: Tensor,
    out_weight: Tensor,
    sums: Tensor,
    bad: Tensor,
    lines: Encoded,
    labels: Tensor,
    label_ends: Tensor,
    path: Tensor,
    path_ends: Tensor,
    order: Tensor,
    *,
    longest: int,
    loss: str,
    lr: float,
    seed: int,
    epoch: int,
    epochs: int,
    begin: int,
    end: int,
    lines_in_flight: int,
) -> None:
    """Train as `train_classifier_` does, on CUDA: queued on the current stream, without waiting for the device.

    With one line in flight the result is the CPU's with one thread, to rounding. All tensors are on the device.

    Args:
        in_weight, out_weight: float32, rows 16-byte aligned and padded with zeros to a multiple of 4 numbers.
        sums: (2,) float64, grows by loss and lines.
        bad: (1,) int64, falls to the first place of ``order`` whose line has a number that is out of range. Ends are
            not checked.
        lines, labels, label_ends, path, path_ends, order, loss, lr, seed, epoch, epochs, begin, end: as in
            `train_classifier_`.
        longest: nodes of the longest path, for ``hs``; of a longer one the rest is left out.
        lines_in_flight: warps at work, each on a line.
    """
    _call(
        _ops.train_classifier_cuda_,
        *(in_weight, out_weight, sums, bad, *lines.arguments, loss, labels, label_ends, path, path_ends, order),
        *(longest, lr, seed, epoch, epochs, begin, end, lines_in_flight),
    )


def classify(
    in_weight: Tensor,
    out_weight: Tensor,
    lines: Encoded,
    children: Tensor,
    *,
    loss: str,
    k: int,
    threshold: float,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """Find the k most probable labels of each of N lines.

    Args:
        in_weight, out_weight, lines, loss: as in `train_classifier_`.
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
        *(in_weight, out_weight, *lines.arguments, loss, children, k, threshold, threads),
    )


def ngram_rows_(
    bucket_rows: Tensor,
    tokens: Tensor,
    ends: Tensor,
    hashes: Tensor,
    lines: Tensor,
    word_ngrams: int,
    first: int,
    threads: int,
) -> tuple[Tensor, Tensor, int]:
    """Find the rows of the word n-grams, n >= 2, of some lines, hashed as fastText hashes them.

    Args:
        bucket_rows: (buckets,) int32, the row of each bucket, or -1; changed in place where `first` >= 0.
        tokens, ends: line i has the words ``tokens[ends[i-1]:ends[i]]``; int32, and (N,) int64.
        hashes: (K,) int32, `_text.word_hashes` of the words.
        lines: int32, rising: the lines that are wanted.
        word_ngrams: the longest.
        first: buckets that are -1 get this row and the next, in the order in which they are met; -1: they stay.
        threads: at least 1.

    Returns:
        Rows, int32, and (N,) int64: line i has ``rows[ends[i-1]:ends[i]]``; and the first row that is free.

    Equivalent in Python: `reference.ngram_buckets`.
    """
    return _call(_ops.ngram_rows_, bucket_rows, tokens, ends, hashes, lines, word_ngrams, first, threads)
