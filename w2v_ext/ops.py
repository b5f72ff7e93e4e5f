"""The Python face of every operator.

The schemas stand in ``csrc/ops.cpp``, shape functions and gradient formulas in ``_autograd.py``. All of them check
their arguments and raise ``ValueError`` (``IndexError`` for an index out of range) with the argument, the rule and what
came.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from . import _autograd  # loads the operators and registers their gradients

_ops = torch.ops.w2v_ext
_ARGUMENT_ERROR = re.compile(r"[A-Za-z0-9_]+(, [a-z_]+)*: expected ")


def _call(op: Any, *args: Any) -> Any:
    """Call an operator; its argument errors are ValueErrors on every PyTorch (2.15 hands them on as RuntimeErrors)."""
    if torch.compiler.is_compiling():
        return op(*args)
    try:
        return op(*args)
    except RuntimeError as error:
        if type(error) is RuntimeError and _ARGUMENT_ERROR.match(str(error)):
            raise ValueError(str(error)) from None
        raise


_REDUCTIONS = ("mean", "sum", "none")


def negative_sampling_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    pos: Tensor,
    neg: Tensor,
    *,
    reduction: str = "mean",
    sparse_grad: bool = False,
    check_indices: bool = False,
) -> Tensor:
    r"""Skip-gram negative-sampling loss, fused with its gradient.

    Per example, with v = in_weight[center] and u_x = out_weight[x] (Mikolov et al., NIPS 2013, eq. 4)::

        loss = - sum_p log sigmoid(u_pos . v) - sum_k log sigmoid(-u_neg . v)

    exact and finite for scores up to 1e4 and beyond: no epsilon inside the logarithm.

    Args:
        in_weight: (V, D) word vectors; float32, float64, bfloat16 or float16. Sums are taken in float32 (float64 for
            float64). Any row stride; columns that are not contiguous are copied first.
        out_weight: (V', D) output vectors, dtype and device of ``in_weight``; under autocast, where layers before may
            have made one of them narrower, both are brought to the wider dtype.
        center: (B,) rows of ``in_weight``, int32 or int64.
        pos: (B,) or (B, P) rows of ``out_weight``, int32 or int64.
        neg: (B, K) rows of ``out_weight``, int32 or int64. K may be 0.
        reduction: ``"mean"`` over the B examples, ``"sum"``, or ``"none"``.
        sparse_grad: gradients as coalesced COO tensors of the rows met, for ``torch.optim.SGD`` or ``SparseAdam``;
            otherwise dense (V, D). Not available inside ``torch.compile``.
        check_indices: on CUDA, wait for the device and raise an IndexError where an index is out of range. Otherwise
            a kernel that meets one stops with a message on standard error, and CUDA is lost to the process, as with
            PyTorch's own indexing. On the CPU indices are always checked.

    Returns:
        A scalar, or (B,) with ``reduction="none"``; float64 for float64 weights, otherwise float32. An empty batch
        gives 0 and a zero gradient.

    Raises:
        ValueError: a shape, dtype or device that does not fit, or an unknown ``reduction``.
        IndexError: an index out of range (the argument, the position and the number of rows are named); on CUDA with
            ``check_indices``.

    It has first derivatives by backward only: what forward-mode differentiation (``torch.func.jvp``) gives is zero,
    as of any operator without a formula for it, and ``torch.func.grad`` is refused by PyTorch;
    ``w2v_ext.reference`` has both.

    Where ``in_weight`` needs a gradient on CUDA, the forward keeps that of each example's centre, (B, D), for it.
    Gradients of CUDA tensors are summed in any order: their last bits differ from run to run. Under
    ``torch.use_deterministic_algorithms(True)`` they are summed in a fixed order.

    Equivalent plain PyTorch (:func:`w2v_ext.reference.negative_sampling_loss`)::

        v = in_weight[center]                                                   # (B, D)
        score = torch.einsum("bd,bkd->bk", v, out_weight[torch.cat([pos, neg], 1)])
        loss = -F.logsigmoid(score[:, :P]).sum(1) - F.logsigmoid(-score[:, P:]).sum(1)
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    if check_indices:
        _check_indices(in_weight, out_weight, center, _two_dims(pos), neg)
    if in_weight.dtype != out_weight.dtype and torch.is_autocast_enabled(in_weight.device.type):
        common = torch.promote_types(in_weight.dtype, out_weight.dtype)  # what autocast made of one may be narrower
        in_weight, out_weight = in_weight.to(common), out_weight.to(common)
    with_center_grad = in_weight.is_cuda and in_weight.requires_grad and torch.is_grad_enabled()
    loss, _, _ = _call(
        *(_ops.negative_sampling_loss, in_weight, out_weight, center, _two_dims(pos), neg),
        *(sparse_grad, with_center_grad),
    )
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / max(loss.shape[0], 1)


def sgns_step_(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    pos: Tensor,
    neg: Tensor,
    lr: float,
    *,
    reduction: str = "mean",
    check_indices: bool = False,
) -> Tensor:
    """Forward and SGD update in one call, in place: no gradient is ever stored.

    Exactly one step of plain SGD: both gradients are taken at the weights before the step, and rows that occur several
    times get the sum. The result does not depend on the number of threads. On CUDA float32 and float64 rows are added
    to in any order; 16-bit rows, and all under ``torch.use_deterministic_algorithms(True)``, are summed in
    a fixed order and rounded once.

    Args:
        in_weight, out_weight, center, pos, neg: as in :func:`negative_sampling_loss`; rows must be contiguous, and the
            two weights must not share memory. Any row stride.
        lr: learning rate, a positive number.
        reduction: the loss that is stepped on and returned, ``"mean"`` or ``"sum"`` over the B examples. word2vec's
            own steps are those of ``"sum"``.
        check_indices: as in :func:`negative_sampling_loss`.

    Returns:
        The loss before the step, a scalar.

    Equivalent plain PyTorch (:func:`w2v_ext.reference.sgns_step_`)::

        loss = negative_sampling_loss(in_weight, out_weight, center, pos, neg, reduction=reduction)
        g_in, g_out = torch.autograd.grad(loss, (in_weight, out_weight))
        in_weight -= lr * g_in; out_weight -= lr * g_out
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected mean or sum, got {reduction!r}")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr: expected a positive number, got {lr!r}")
    if check_indices:
        _check_indices(in_weight, out_weight, center, _two_dims(pos), neg)
    examples = max(center.numel(), 1) if reduction == "mean" else 1
    if not torch.compiler.is_compiling():  # a graph that has saved the weights must notice that they changed
        torch.autograd.graph.increment_version((in_weight, out_weight))
    step = _ops.sgns_step_sorted_ if _autograd.must_be_sorted(in_weight) else _ops.sgns_step_
    with torch.no_grad():
        loss = _call(step, in_weight, out_weight, center, _two_dims(pos), neg, lr / examples)
    return loss.sum() / examples


def alias_table(weights: Tensor) -> Tensor:
    """Build an alias table, from which draws cost O(1) (Walker 1977, Vose 1991).

    Args:
        weights: (V,) non-negative numbers with a positive sum; need not be normalised. A word of weight 0 is never
            drawn.

    Returns:
        (V, 2) int32 on the CPU: per column a threshold (the bits of a uint32) and the other word. For
        :func:`sample_negatives` and the trainer.
    """
    return _call(_ops.alias_table, weights.detach().to("cpu", torch.float64).contiguous())


def sample_negatives(alias: Tensor, positive: Tensor, count: int, seed: int) -> Tensor:
    """Draw negatives from the noise distribution, none equal to its row's positive.

    Args:
        alias: from :func:`alias_table`.
        positive: (B,) words to leave out, integers; -1 leaves out none.
        count: K, draws per row.
        seed: the same seed gives the same draws; give every batch its own.

    Returns:
        (B, K) int64 on the CPU.
    """
    if positive.is_floating_point() or positive.is_complex():
        raise ValueError(f"positive: expected integers, got {positive.dtype}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: expected an integer of 64 bits, got {seed}")
    return _call(_ops.sample_negatives, alias, positive.to("cpu", torch.int64).contiguous(), count, seed)


def train_sgns_(
    in_weight: Tensor,
    out_weight: Tensor,
    ids: Tensor,
    alias: Tensor,
    keep: Tensor,
    *,
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
    """Train on the sentences that start in ``ids[begin:end]``, in place: the inside of :class:`w2v_ext.Trainer`.

    Two neighbouring centres and their contexts share their negatives, and a negative that is the centre itself does not
    count, as in word2vec.c; every draw depends on (seed, epoch, place in the corpus) alone. Threads
    share the weights without locks (Hogwild), except the rows of the 192 most frequent words (the first), of which each
    thread has copies that are merged every few thousand words; with one thread the result is the same bits however the
    corpus is cut.

    Args:
        in_weight, out_weight: (V, D) float32, rows 64-byte aligned and padded with zeros to a multiple of 16 floats
            (see :func:`w2v_ext.tables.padded_weight`).
        ids: (N,) int32, sentences of word ids, each closed by -1.
        alias: from :func:`alias_table`, V words.
        keep: (V,) int32 holding the bits of uint32 subsampling thresholds.
        window: largest distance of a context; negative: samples per centre.
        seed, epoch, epochs: of the draws, and for the learning rate, which falls linearly from ``lr`` to a 10,000th.
        begin, end: the part of ``ids``.
        threads: at least 1.

    Returns:
        The loss summed over (centre, context) pairs in float64, the number of pairs, and of words after subsampling.

    Equivalent in NumPy: :func:`w2v_ext.reference.train_sgns_`.
    """
    loss, pairs, words = _call(
        _ops.train_sgns_,
        *(in_weight, out_weight, ids, alias, keep),
        *(window, negative, seed, epoch, epochs, lr, begin, end, threads),
    ).tolist()
    return loss, int(pairs), int(words)


def train_sgns_cuda_(
    in_weight: Tensor,
    out_weight: Tensor,
    sums: Tensor,
    bad: Tensor,
    ids: Tensor,
    alias: Tensor,
    keep: Tensor,
    *,
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
    """Train as :func:`train_sgns_` does, on CUDA: queued on the current stream, without waiting for the device.

    With one sentence in flight the result is the CPU's with one thread, to rounding. With more, sentences see rows that
    lack what the others have not added yet, and the order of additions, so the last bits, differ from run to run.

    Args:
        in_weight, out_weight: (V, D) float32 or bfloat16, rows 16-byte aligned and padded with zeros to a multiple of 4
            numbers. bfloat16 rows are added to with stochastic rounding.
        sums: (3,) float64, grows by loss, pairs and words after subsampling.
        bad: (1,) int64, falls to the first place of a word that is out of range; its sentence ends there.
        ids: (N,) int32, words ``first`` to ``first + N`` of the corpus, whole sentences of word ids, each closed by -1.
        alias, keep: as in :func:`train_sgns_`, on the device.
        num_ids: of the whole corpus, for the learning rate.
        begin, end: the places in the corpus between which the sentences start that are trained on.
        window, negative, seed, epoch, epochs, lr: as in :func:`train_sgns_`.
        sentences_in_flight: warps at work, each on a sentence.
        hot_words: so many of the first words are so frequent that several sentences have each in a window at a time:
            what their rows have moved is added after every two centres, and fetched again, not only when they leave.

    Raises:
        ValueError: an argument that does not fit, or rows of a window that do not fit the device's shared memory.
    """
    _call(
        _ops.train_sgns_cuda_,
        *(in_weight, out_weight, sums, bad, ids, alias, keep, first, num_ids, begin, end),
        *(window, negative, seed, epoch, epochs, lr, sentences_in_flight, hot_words),
    )


def train_glove_(
    table: Tensor,
    bias: Tensor,
    cells: Tensor,
    blocks: Tensor,
    rounds: Tensor,
    *,
    lr: float,
    begin: int,
    end: int,
    threads: int,
) -> tuple[float, int]:
    """Train GloVe on cells of a symmetric matrix by AdaGrad, in place (Pennington et al. 2014, eq. 8).

    A cell (i, j) stands for the nonzeros (i, j) and (j, i), or one on the diagonal. For each,
    ``diff = w_i . c_j + b_i + d_j - log x`` and ``step = lr * weight * diff``; every number z of w_i, c_j, b_i and d_j
    then moves by ``t = step * partner`` (the other vector's number, 1 for a bias): ``z -= t / sqrt(1 + G_z)``, after
    which ``G_z += t ** 2``.

    Args:
        table: (V, 4, P) float32, contiguous, 64-byte aligned, P a multiple of 16: w, G_w, c, G_c of each word, padded
            behind D with zeros.
        bias: (V, 4) float32: b, G_b, d, G_d.
        cells: (N, 4) int32: row, column, and the bits of float32 log count and weight.
        blocks: (B, 2) int64: first cell and number of cells, in the order in which to train them.
        rounds: (R + 1,) int64, from 0 to B: the first block of each round. Blocks of one round run at the same time: if
            they share no word, any number of threads gives the same bits.
        lr: the learning rate.
        begin, end: the part to train of the cells in that order.
        threads: at least 1.

    Returns:
        ``weight * diff ** 2 / 2`` summed over nonzeros in float64, and the number of nonzeros.

    Equivalent in NumPy: :func:`w2v_ext.reference.train_glove_`.
    """
    loss, nonzeros = _call(_ops.train_glove_, table, bias, cells, blocks, rounds, lr, begin, end, threads).tolist()
    return loss, int(nonzeros)


def train_glove_cuda_(
    table: Tensor,
    bias: Tensor,
    sums: Tensor,
    bad: Tensor,
    cells: Tensor,
    firsts: Tensor,
    starts: Tensor,
    *,
    lr: float,
    begin: int,
    end: int,
    cells_in_flight: int,
) -> None:
    """Train as :func:`train_glove_` does, on CUDA: queued on the current stream, without waiting for the device.

    With one cell in flight the result is the CPU's to rounding. With more, cells do not see what the others have not
    added yet, and the order of additions, so the last bits, differ from run to run.

    Args:
        table, bias, cells: as in :func:`train_glove_`, on the device.
        sums: (2,) float64, grows by loss and nonzeros.
        bad: (1,) int64, falls to the first place whose cell has a word that is out of range; such cells are left out.
        firsts, starts: (B,) and (B + 1,) int64: block b begins with cell ``firsts[b]``, and its places in the order of
            training are ``starts[b]`` to ``starts[b + 1]``.
        lr, begin, end: as in :func:`train_glove_`.
        cells_in_flight: warps at work, each on a cell.
    """
    _call(
        _ops.train_glove_cuda_,
        *(table, bias, sums, bad, cells, firsts, starts, lr, begin, end, cells_in_flight),
    )


def has_cuda_kernels() -> bool:
    """Whether the CUDA kernels were built and loaded (a CUDA device may still be missing)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("w2v_ext::train_sgns_cuda_", "CUDA")


def chunk_end(ids: Tensor, begin: int, limit: int) -> int:
    """The last place in ``ids[begin : begin + limit]`` behind a -1, or the end of (N,) int32 ``ids`` if it is nearer.

    Raises:
        ValueError: the sentence at ``begin`` has ``limit`` words or more.
    """
    return _call(_ops.chunk_end, ids, begin, limit)


def cpu_kernels() -> str:
    """The instruction set of the CPU kernels in use: ``avx512``, ``avx2`` or ``portable``.

    Chosen at the first call as the widest that the machine has; the environment variable ``W2V_EXT_CPU`` overrides it.
    """
    return _call(_ops.cpu_kernels)


def _check_indices(in_weight: Tensor, out_weight: Tensor, center: Tensor, pos: Tensor, neg: Tensor) -> None:
    for name, index in (("center", center), ("pos", pos), ("neg", neg)):
        weight_name, weight = ("in_weight", in_weight) if name == "center" else ("out_weight", out_weight)
        outside = (index < 0) | (index >= weight.shape[0])
        if outside.any():
            place = outside.nonzero()[0].tolist()
            raise IndexError(
                f"{name}: index {index[tuple(place)].item()} at position {', '.join(map(str, place))} is out of range "
                f"for {weight_name} with {weight.shape[0]} rows"
            )


def _two_dims(pos: Tensor) -> Tensor:
    return pos.unsqueeze(1) if pos.dim() == 1 else pos
