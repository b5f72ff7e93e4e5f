"""Cross-entropy over a large vocabulary without ever holding all logits, and negative sampling instead of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from .encoder import PAD_ID

_CHUNK_NUMBERS = 3 << 20  # logits of one chunk: 12 MiB in float32, which caches hold
_ROUND = 64
_CHUNK_ROWS = 128  # at least: below, the (V, F) gradient is read and written too often


def chunk_rows(vocab_size: int) -> int:
    """Rows of logits that are held at a time, by default."""
    return max(_CHUNK_ROWS, _CHUNK_NUMBERS // max(vocab_size, 1) // _ROUND * _ROUND)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, chunk by chunk, and only scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, chunk: int
    ) -> Tensor:
        needs = ctx.needs_input_grad
        device = features.device.type
        compute = features.dtype  # of the matrix products
        if torch.is_autocast_enabled(device):
            compute = torch.get_autocast_dtype(device)
        total = torch.float64 if features.dtype == torch.float64 else torch.float32
        with torch.autocast(device, enabled=False):
            x, w = features.to(compute), weight.to(compute)
            vocab_size = weight.shape[0]
            grad_w = torch.zeros(weight.shape, dtype=total, device=weight.device) if needs[1] else None
            grad_b = (
                torch.zeros(vocab_size, dtype=total, device=weight.device) if bias is not None and needs[2] else None
            )
            loss = torch.zeros((), dtype=total, device=x.device)
            # All chunks share these two, which are all that exists of the logits and of their gradient.
            # Rows of zeros fill the last chunk to a multiple of 64: oneDNN builds a kernel for every new shape (13 ms).
            count, chunk = len(x), max(1, min(chunk, -(-len(x) // _ROUND) * _ROUND))
            padded = -(-count // _ROUND) * _ROUND if chunk % _ROUND == 0 else count
            x, target = (F.pad(x, (0, 0, 0, padded - count)), F.pad(target, (0, padded - count)))
            grad_x = torch.empty_like(x) if needs[0] else None
            products = torch.empty(chunk, vocab_size, dtype=compute, device=x.device)
            logits = products if compute == total else torch.empty_like(products, dtype=total)
            for start in range(0, padded, chunk):
                part, goal = x[start : start + chunk], target[start : start + chunk, None]
                real = min(chunk, count - start)
                product, log_p = products[: len(part)], logits[: len(part)]  # (chunk, V)
                torch.mm(part, w.T, out=product)
                if bias is not None:
                    torch.add(product, bias.to(total), out=log_p)
                elif compute != total:
                    log_p.copy_(product)
                torch.log_softmax(log_p, 1, out=log_p)
                loss -= (1 - smoothing) * log_p[:real].gather(1, goal[:real]).sum()
                if smoothing:
                    loss -= smoothing / vocab_size * log_p[:real].sum()
                if not any(needs[:3]):
                    continue
                slope = log_p.exp_()
                if smoothing:
                    slope -= smoothing / vocab_size
                slope.scatter_add_(1, goal, slope.new_full(goal.shape, smoothing - 1))
                slope[real:] = 0
                if grad_b is not None:
                    grad_b += slope.sum(0)
                slope = slope if compute == total else product.copy_(slope)
                if grad_x is not None:
                    torch.mm(slope, w, out=grad_x[start : start + chunk])
                if grad_w is not None:
                    if compute == total:
                        grad_w.addmm_(slope.T, part)
                    else:
                        grad_w += slope.T @ part
            grad_x = None if grad_x is None else grad_x[:count]
        ctx.save_for_backward(grad_x, grad_w, grad_b)
        ctx.types = features.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple:
        grads = [
            None if grad is None else (grad * slope).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*grads, None, None, None)


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

    Memory: one chunk of logits (12 MiB, or 128 rows), and the gradients of the arguments; not the (N, V) logits, nor
    their gradient. Rows whose target is `ignore_index` cost nothing. The result has first derivatives only.

    Args:
        features: (N, F) or (B, T, F), any float dtype.
        weight: (V, F).
        bias: (V,) or None.
        target: (N,) or (B, T) int64 words.
        label_smoothing: share of the probability spread over all V words (Szegedy et al. 2016), in [0, 1).
        ignore_index: targets that do not count.
        reduction: "mean" over the targets that count (0 where none does), or "sum".
        chunk: rows at a time; by default as many as fit 12 MiB of logits, and at least 128.

    Returns:
        A scalar, float32 (float64 for float64). Under autocast the matrix products are taken in its dtype.

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
    if len(goals) and not 0 <= int(goals.min()) <= int(goals.max()) < len(weight):
        raise ValueError(
            f"target: expected words in [0, {len(weight)}) or {ignore_index}, got {int(goals.min())} to "
            f"{int(goals.max())}"
        )
    loss = _ChunkedCrossEntropy.apply(rows, weight, bias, goals, label_smoothing, chunk or chunk_rows(len(weight)))
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
