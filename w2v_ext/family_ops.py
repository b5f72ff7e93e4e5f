"""The operators of CBOW, hierarchical softmax and subwords; those of skip-gram stand in ``ops.py``."""

from __future__ import annotations

from torch import Tensor

from . import ops


def train_cbow_(
    in_weight: Tensor,
    out_weight: Tensor,
    ids: Tensor,
    alias: Tensor,
    keep: Tensor,
    *,
    mean: bool,
    divide: bool,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    begin: int,
    end: int,
    threads: int,
) -> tuple[float, int, int]:
    """Train CBOW with negative sampling on the sentences that start in ``ids[begin:end]``, in place.

    What predicts a centre is h, the mean or sum of its contexts' rows of ``in_weight`` (Mikolov et al. 2013); two
    neighbouring centres share their negatives. Draws, threads and the cutting of the corpus are as in
    :func:`w2v_ext.ops.train_sgns_`.

    Args:
        mean: h is the mean of the contexts, or else their sum.
        divide: each context's row gets the gradient of h divided by the number of contexts, or else whole. The
            gradient of the loss is that with ``divide == mean`` (Irsoy et al. 2021); word2vec.c takes the mean and does
            not divide.
        in_weight, out_weight, ids, alias, keep: as in :func:`w2v_ext.ops.train_sgns_`.
        window, negative, seed, epoch, epochs, lr, begin, end, threads: as in :func:`w2v_ext.ops.train_sgns_`.

    Returns:
        The loss summed over centres in float64, the number of centres, and of words after subsampling.

    Equivalent in NumPy: :func:`w2v_ext.reference_epochs.train_cbow_`.
    """
    loss, centers, words = ops._call(
        ops._ops.train_cbow_,
        *(in_weight, out_weight, ids, alias, keep, mean, divide),
        *(window, negative, seed, epoch, epochs, lr, begin, end, threads),
    ).tolist()
    return loss, int(centers), int(words)


def train_hs_(
    in_weight: Tensor,
    out_weight: Tensor,
    ids: Tensor,
    path_start: Tensor,
    path: Tensor,
    keep: Tensor,
    *,
    cbow: bool,
    mean: bool,
    divide: bool,
    window: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    begin: int,
    end: int,
    threads: int,
) -> tuple[float, int, int]:
    """Train with hierarchical softmax on the sentences that start in ``ids[begin:end]``, in place.

    The loss of a centre w and a vector v that predicts it (a context's row; CBOW: h of :func:`train_cbow_`) is, over
    the nodes n of w's path and its codes c (Morin and Bengio 2005)::

        loss = - sum_n log sigmoid((1 - 2 c_n) out_weight[n] . v)

    Args:
        out_weight: (V, D), row n is inner node n; the last is not used. As in word2vec.c the centre's path is what its
            contexts predict, for skip-gram too.
        path_start, path: (V + 1,) int64 and (L,) int32, see :class:`w2v_ext.huffman.HuffmanTree`.
        cbow: CBOW, or else skip-gram, for which ``mean`` and ``divide`` mean nothing; see :func:`train_cbow_`.
        in_weight, ids, keep: as in :func:`w2v_ext.ops.train_sgns_`.
        window, seed, epoch, epochs, lr, begin, end, threads: as in :func:`w2v_ext.ops.train_sgns_`.

    Returns:
        The loss summed over pairs (CBOW: centres) in float64, their number, and that of words after subsampling.

    Equivalent in NumPy: :func:`w2v_ext.reference_epochs.train_hs_`.
    """
    loss, pairs, words = ops._call(
        ops._ops.train_hs_,
        *(in_weight, out_weight, ids, path_start, path, keep, cbow, mean, divide),
        *(window, seed, epoch, epochs, lr, begin, end, threads),
    ).tolist()
    return loss, int(pairs), int(words)


def train_subwords_(
    in_weight: Tensor,
    ngram_weight: Tensor,
    out_weight: Tensor,
    *,
    first: Tensor,
    entries: Tensor,
    word_rows: Tensor,
    group_rows: Tensor,
    ids: Tensor,
    alias: Tensor,
    keep: Tensor,
    cbow: bool,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    begin: int,
    end: int,
    stretch: int,
    threads: int,
) -> tuple[float, int, int]:
    """Train fastText's models in place: as :func:`train_sgns_`, of words whose vectors are means of rows.

    The corpus is cut at multiples of ``stretch``; the stretches that begin in ``ids[begin:end]`` are trained whole
    (sentences belong to where they start). Within one, the words' vectors are trained as rows of their own; at its end
    the rows that they are made of are moved by as much as the vectors were.

    Args:
        in_weight: (V, D) float32, the sums of the rows that a word alone has, laid out as :func:`train_sgns_` wants it.
        ngram_weight: (C, D) the sums of the rows that the same words have.
        out_weight: (V, D).
        first, entries, word_rows, group_rows: see :class:`w2v_ext.subwords.SubwordGroups`.
        cbow: predict the centre from the mean of all rows of the window's words, not the contexts from the centre.
        ids, alias, keep, window, negative, seed, epoch, epochs, lr, begin, end, threads: as in :func:`train_sgns_`.
        stretch: ids, at least 1.

    Returns:
        The loss summed over (centre, context) pairs (``cbow``: centres), their number, and words after subsampling.

    Equivalent in NumPy: :func:`w2v_ext.subword_reference.train_subwords_`.
    """
    loss, pairs, words = ops._call(
        ops._ops.train_subwords_,
        *(in_weight, ngram_weight, out_weight, first, entries, word_rows, group_rows, ids, alias, keep, cbow),
        *(window, negative, seed, epoch, epochs, lr, begin, end, stretch, threads),
    ).tolist()
    return loss, int(pairs), int(words)


def compose_subwords(
    in_weight: Tensor, ngram_weight: Tensor, first: Tensor, entries: Tensor, word_rows: Tensor, group_rows: Tensor
) -> Tensor:
    """Return the vectors (V, D) of the words, from the tables that :func:`train_subwords_` trains."""
    return ops._call(ops._ops.compose_subwords, in_weight, ngram_weight, first, entries, word_rows, group_rows)


def train_cbow_cuda_(
    in_weight: Tensor,
    out_weight: Tensor,
    sums: Tensor,
    bad: Tensor,
    ids: Tensor,
    alias: Tensor,
    keep: Tensor,
    *,
    mean: bool,
    divide: bool,
    first: int,
    num_ids: int,
    begin: int,
    end: int,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    sentences_in_flight: int,
    hot_words: int = 0,
) -> None:
    """Train as :func:`train_cbow_` does, on CUDA: queued on the current stream, without waiting for the device.

    With one sentence in flight the result is the CPU's with one thread, to rounding.

    Args:
        in_weight, out_weight: (V, D) float32, laid out as :func:`w2v_ext.ops.train_sgns_cuda_` wants them.
        mean, divide: as in :func:`train_cbow_`.
        sums, bad, ids, alias, keep, first, num_ids, begin, end, window, negative, seed, epoch, epochs, lr,
            sentences_in_flight, hot_words: as in :func:`w2v_ext.ops.train_sgns_cuda_`; ``sums`` counts
            centres, not pairs.
    """
    ops._call(
        ops._ops.train_cbow_cuda_,
        *(in_weight, out_weight, sums, bad, ids, alias, keep, mean, divide, first, num_ids, begin, end),
        *(window, negative, seed, epoch, epochs, lr, sentences_in_flight, hot_words),
    )


def train_hs_cuda_(
    in_weight: Tensor,
    out_weight: Tensor,
    sums: Tensor,
    bad: Tensor,
    ids: Tensor,
    path_start: Tensor,
    path: Tensor,
    keep: Tensor,
    *,
    longest: int,
    cbow: bool,
    mean: bool,
    divide: bool,
    first: int,
    num_ids: int,
    begin: int,
    end: int,
    window: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    sentences_in_flight: int,
    hot_words: int = 0,
) -> None:
    """Train as :func:`train_hs_` does, on CUDA: queued on the current stream, without waiting for the device.

    With one sentence in flight the result is the CPU's with one thread, to rounding. Every centre moves the root, so
    that many sentences in flight move it by far too much at a time.

    Args:
        in_weight, out_weight: (V, D) float32, laid out as :func:`w2v_ext.ops.train_sgns_cuda_` wants them.
        path_start, path, cbow, mean, divide: as in :func:`train_hs_`, on the device. What they hold is not checked.
        longest: nodes of the longest path; a longer one stops the kernel.
        sums, bad, ids, keep, first, num_ids, begin, end, window, seed, epoch, epochs, lr, sentences_in_flight,
            hot_words: as in :func:`w2v_ext.ops.train_sgns_cuda_`.
    """
    ops._call(
        ops._ops.train_hs_cuda_,
        *(in_weight, out_weight, sums, bad, ids, path_start, path, keep, longest, cbow, mean, divide),
        *(first, num_ids, begin, end, window, seed, epoch, epochs, lr, sentences_in_flight, hot_words),
    )


def train_subwords_cuda_(
    in_weight: Tensor,
    ngram_weight: Tensor,
    out_weight: Tensor,
    sums: Tensor,
    bad: Tensor,
    *,
    first_entry: Tensor,
    entries: Tensor,
    word_rows: Tensor,
    group_rows: Tensor,
    ids: Tensor,
    alias: Tensor,
    keep: Tensor,
    cbow: bool,
    first: int,
    num_ids: int,
    begin: int,
    end: int,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
    sentences_in_flight: int,
) -> None:
    """Train as :func:`train_subwords_` does, on CUDA: queued on the current stream, without waiting for the device.

    A word's vector is made of its rows when the word comes within ``window`` of a centre, and what it has moved is
    added to them when it leaves; the CPU does both once a stretch. With one sentence in flight, and sentences that lie
    in one window, the result is the CPU's with one thread and a ``stretch`` of 1, to rounding.

    Args:
        in_weight, ngram_weight, out_weight: float32, laid out as :func:`w2v_ext.ops.train_sgns_cuda_` wants them.
        first_entry, entries, word_rows, group_rows: ``first`` and the others of
            :class:`w2v_ext.subwords.SubwordGroups`, on the device. What they hold is not checked.
        cbow: as in :func:`train_subwords_`.
        sums, bad, ids, alias, keep, first, num_ids, begin, end, window, negative, seed, epoch, epochs, lr,
            sentences_in_flight: as in :func:`w2v_ext.ops.train_sgns_cuda_`.
    """
    ops._call(
        ops._ops.train_subwords_cuda_,
        *(in_weight, ngram_weight, out_weight, sums, bad, first_entry, entries, word_rows, group_rows),
        *(ids, alias, keep, cbow, first, num_ids, begin, end, window, negative, seed, epoch, epochs, lr),
        sentences_in_flight,
    )
