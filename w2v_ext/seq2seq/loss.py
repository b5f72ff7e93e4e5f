"""Cross-entropy over a large vocabulary without ever holding all logits, and negative sampling instead of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from .encoder import PAD_ID

_CHUNK_NUMBERS = 3 << 20  # logits of one chunk: 12 MiB in float32, which caches hold
_ROUND = 64
# Rows whose slopes are multiplied at a time. The (V, F) gradient is read and written for each of them, which on a CPU,
# for V 50,000, took longer than the rest together with 128.
_BLOCK_ROWS = 512


def chunk_rows(vocab_size: int) -> tuple[int, int]:
    """Rows of slopes, and of float32 logits, that are held at a time, by default."""
    logits = max(_ROUND, _CHUNK_NUMBERS // max(vocab_size, 1) // _ROUND * _ROUND)
    return max(_BLOCK_ROWS, logits), logits


def _has_kernel(weight: Tensor) -> bool:
    """Whether `_slopes_by_kernel` can take the logits of these."""
    return weight.is_cuda and ops.has_cuda_kernels()


@dataclass(frozen=True)
class _Block:
    """Rows of logits that become slopes, in place.

    Attributes:
        logits: (N, V) without bias; slopes afterwards.
        target: (M,) int64 of the first M rows; the others, with which a block is filled up, do not count.
        losses: (M,) float32 (float64 for float64), to fill in.
    """

    logits: Tensor
    target: Tensor
    losses: Tensor


def _slopes_by_kernel(
    block: _Block, bias: Tensor | None, smoothing: float, grad_b: Tensor | None, wanted: bool
) -> None:
    """Fill in the losses, write slopes in the place of logits if they are `wanted`, and add them to `grad_b`."""
    real, rest = block.logits.tensor_split([len(block.target)])
    ops._call(ops._ops.softmax_slopes_cuda_, real, bias, block.target, smoothing, block.losses, wanted)
    rest.zero_()
    if grad_b is not None:
        grad_b += real.sum(0, dtype=grad_b.dtype)


def _slopes(
    block: _Block, bias: Tensor | None, smoothing: float, grad_b: Tensor | None, wanted: bool, *, chunk: Tensor
) -> None:
    """The same by PyTorch's operators, as many rows at a time as `chunk` has, which is written over."""
    vocab_size = block.logits.shape[1]
    for at in range(0, len(block.logits), len(chunk)):
        rows, goal, loss = (x[at : at + len(chunk)] for x in (block.logits, block.target, block.losses))
        log_p = rows if rows.dtype == chunk.dtype else chunk[: len(rows)].copy_(rows)  # (chunk, V)
        if bias is not None:
            log_p += bias
        torch.log_softmax(log_p, 1, out=log_p)
        real, goal = log_p[: len(goal)], goal[:, None]
        loss.copy_((smoothing - 1) * real.gather(1, goal)[:, 0])
        if smoothing:
            loss -= smoothing / vocab_size * real.sum(1)
        if not wanted:
            continue
        slope = log_p.exp_()
        if smoothing:
            slope -= smoothing / vocab_size
        slope[: len(goal)].scatter_add_(1, goal, slope.new_full(goal.shape, smoothing - 1))
        slope[len(goal) :] = 0
        if grad_b is not None:
            grad_b += slope.sum(0)
        if slope is not rows:
            rows.copy_(slope)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, chunk by chunk, and only scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        smoothing: float,
        chunk: int | None,
    ) -> Tensor:
        needs = ctx.needs_input_grad
        device = features.device.type
        compute = features.dtype  # of the matrix products
        if torch.is_autocast_enabled(device) and compute != torch.float64:  # which autocast leaves alone
            compute = torch.get_autocast_dtype(device)
        total = torch.float64 if features.dtype == torch.float64 else torch.float32
        with torch.autocast(device, enabled=False):
            x, w = features.to(compute), weight.to(compute)
            b = None if bias is None else bias.to(total).contiguous()
            vocab_size = weight.shape[0]
            grad_w = torch.zeros(weight.shape, dtype=total, device=weight.device) if needs[1] else None
            grad_b = torch.zeros(vocab_size, dtype=total, device=weight.device) if b is not None and needs[2] else None
            # Rows of zeros fill the last block to a multiple of 64: oneDNN builds a kernel for every new shape (13 ms).
            count = len(x)
            block, chunk = (chunk, chunk) if chunk else chunk_rows(vocab_size)
            block = max(1, min(block, -(-count // _ROUND) * _ROUND))
            padded = -(-count // _ROUND) * _ROUND if block % _ROUND == 0 else count
            x = F.pad(x, (0, 0, 0, padded - count))
            grad_x = torch.empty_like(x) if needs[0] else None
            losses = torch.zeros(count, dtype=total, device=x.device)
            # These are all that exists of the logits and of their gradient: rows of a block in the products' precision,
            # and without the kernel of a chunk in the sum's.
            products = torch.empty(block, vocab_size, dtype=compute, device=x.device)
            slopes = _slopes_by_kernel
            if not _has_kernel(weight):
                chunk = min(chunk, block)
                held = products[:chunk] if compute == total else products.new_empty(chunk, vocab_size, dtype=total)
                slopes = partial(_slopes, chunk=held)
            piece = None if compute == total or grad_w is None else torch.empty_like(w)
            for start in range(0, padded, block):
                part = x[start : start + block]
                product = torch.mm(part, w.T, out=products[: len(part)])  # (block, V)
                rows = _Block(product, target[start : start + block], losses[start : start + block])
                slopes(rows, b, smoothing, grad_b, any(needs[:3]))
                if grad_x is not None:
                    torch.mm(product, w, out=grad_x[start : start + block])
                if grad_w is not None:
                    if piece is None:
                        grad_w.addmm_(product.T, part)
                    else:
                        grad_w += torch.mm(product.T, part, out=piece)
            grad_x = None if grad_x is None else grad_x[:count]
        ctx.save_for_backward(grad_x, grad_w, grad_b)
        ctx.types = features.dtype, weight.dtype, None if bias is None else bias.dtype
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple:
        with torch.no_grad():
            grads = [
                None if grad is None else (grad * slope).to(dtype)
                for grad, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
            ]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph
            grads = _NoSecondDerivative.apply(torch.zeros((), requires_grad=True), *grads)
        return (*grads, None, None, None)


class _NoSecondDerivative(torch.autograd.Function):
    """Gradients as they are, but whoever asks for theirs gets an error and not zero."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, *grads: Tensor | None) -> tuple:
        return tuple(None if grad is None else grad.view_as(grad) for grad in grads)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple:
        raise RuntimeError("chunked_cross_entropy has no second derivative; use F.cross_entropy for it")


def chunked_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = PAD_ID,
    reduction: str = "mean",
    chunk: int | None = None,
) -> Tensor:
    """Cross-entropy of ``features @ weight.T + bias`` in chunks of rows; exact.

    Memory: one block of slopes (512 rows, more where V is small), one chunk of logits (12 MiB, or 64 rows; none on CUDA
    with the library's kernels), and the gradients of the arguments; not the (N, V) logits, nor their gradient. Rows
    whose target is `ignore_index` cost nothing. The result has first derivatives only.

    Args:
        features: (N, F) or (B, T, F), any float dtype.
        weight: (V, F).
        bias: (V,) or None.
        target: (N,) or (B, T) int64 words.
        label_smoothing: share of the probability spread over all V words (Szegedy et al. 2016), in [0, 1).
        ignore_index: targets that do not count.
        reduction: "mean" over the targets that count (0 where none does), or "sum".
        chunk: rows at a time; by default blocks and chunks as above.

    Returns:
        A scalar, float32 (float64 for float64). Under autocast the matrix products are taken in its dtype, those of
        float64 in float64.

    Raises:
        ValueError: shapes that do not fit, an option out of range, or a target outside the vocabulary.

    Equivalent plain PyTorch::

        logits = F.linear(features, weight, bias)
        F.cross_entropy(logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing)
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected mean or sum, got {reduction!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), got {label_smoothing}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: expected an integer >= 1, got {chunk}")
    if weight.dim() != 2 or features.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"weight: expected shape (V, {features.shape[-1]}) to match features, got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape ({weight.shape[0]},) to match weight, got {tuple(bias.shape)}")
    rows, goals = _counted_rows(features, target, ignore_index)
    if len(goals):
        low, high = torch.stack(goals.aminmax()).tolist()  # at once: on CUDA each question waits for the device
        if not 0 <= low <= high < len(weight):
            raise ValueError(f"target: expected words in [0, {len(weight)}) or {ignore_index}, got {low} to {high}")
    if not torch.is_grad_enabled():  # of which needs_input_grad knows nothing
        rows, weight, bias = rows.detach(), weight.detach(), None if bias is None else bias.detach()
    loss = _ChunkedCrossEntropy.apply(rows, weight, bias, goals, label_smoothing, chunk)
    return loss / max(len(goals), 1) if reduction == "mean" else loss


def _counted_rows(features: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The rows (N', F) and targets (N',) that count."""
    if features.shape[:-1] != target.shape:
        raise ValueError(
            f"target: expected shape {tuple(features.shape[:-1])} to match features, got {tuple(target.shape)}"
        )
    rows, goals = features.reshape(-1, features.shape[-1]), target.reshape(-1)
    counted = (goals != ignore_index).nonzero()[:, 0]
    return rows[counted], goals[counted].long()


def sampled_loss(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    alias: Tensor,
    *,
    negative: int,
    seed: int,
    ignore_index: int = PAD_ID,
    reduction: str = "mean",
) -> Tensor:
    """Negative sampling in place of the softmax: time and memory do not grow with the vocabulary.

    Each target is told from `negative` words drawn from the noise distribution by the library's fused loss. At its
    optimum a score is log(p(word | features) / (negative x noise(word))), so with log(noise) for a bias the logits
    are those of the softmax up to a constant (Mnih and Teh 2012): `set_noise_bias` sets it for decoding.

    Args:
        features: (N, F) or (B, T, F).
        weight: (V, F) output weight; there is no bias in this loss.
        target: (N,) or (B, T) words.
        alias: from :func:`w2v_ext.alias_table`, of the noise distribution over V words.
        negative: words drawn per target; seed: of the draws, another for every batch.
        ignore_index, reduction: as in :func:`chunked_cross_entropy`.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected mean or sum, got {reduction!r}")
    rows, goals = _counted_rows(features, target, ignore_index)
    drawn = ops.sample_negatives(alias, goals, negative, seed).to(goals.device)
    center = torch.arange(len(goals), device=goals.device)
    loss = ops.negative_sampling_loss(rows.to(weight.dtype), weight, center, goals, drawn, reduction="sum")
    return loss / max(len(goals), 1) if reduction == "mean" else loss


def set_noise_bias(output_bias: Tensor, noise: Tensor) -> None:
    """Set the output bias (V,) to log(noise), and words without noise (<PAD>, <SOS>) out of reach, in place."""
    with torch.no_grad():
        output_bias.copy_(noise.to(output_bias.device).log().clamp(min=-1e4))
