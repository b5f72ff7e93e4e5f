"""The same mathematics in a few lines of plain PyTorch and NumPy: what tests and benches compare the kernels with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def negative_sampling_loss(
    in_weight: Tensor, out_weight: Tensor, center: Tensor, pos: Tensor, neg: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """As :func:`w2v_ext.negative_sampling_loss`; materialises the (B, P + K, D) rows. Differentiable twice."""
    pos = pos.unsqueeze(1) if pos.dim() == 1 else pos
    compute = torch.float64 if in_weight.dtype == torch.float64 else torch.float32
    v = in_weight[center].to(compute)  # (B, D)
    u = out_weight[torch.cat([pos.long(), neg.long()], dim=1)].to(compute)  # (B, P + K, D)
    scores = torch.einsum("bd,bkd->bk", v, u)  # (B, P + K)
    positives = pos.shape[1]
    loss = -F.logsigmoid(scores[:, :positives]).sum(1) - F.logsigmoid(-scores[:, positives:]).sum(1)  # (B,)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / max(len(loss), 1)


def sgns_step_(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    pos: Tensor,
    neg: Tensor,
    lr: float,
    *,
    reduction: str = "mean",
) -> Tensor:
    """As :func:`w2v_ext.sgns_step_`: autograd's gradient, then one step of plain SGD, in place."""
    leaves = [w.detach().clone().requires_grad_() for w in (in_weight, out_weight)]
    loss = negative_sampling_loss(*leaves, center, pos, neg, reduction=reduction)
    grads = torch.autograd.grad(loss, leaves)
    with torch.no_grad():
        for weight, grad in zip((in_weight, out_weight), grads, strict=True):
            weight -= lr * grad
    return loss.detach()


# ---- the optimisers of sparse gradients ----------------------------------------------------------------------------


def _step_rows_(
    weight: Tensor,
    rows: Tensor | None,
    values: Tensor,
    rule: Callable[[Tensor, Tensor], Tensor],
    *,
    lr: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    clip_row_norm: float | None = None,
    grad_scale: Tensor | float | None = None,
    max_norm: float | None = None,
) -> None:
    """Step the touched rows, in place; rule(rows, g) updates their state and gives what is taken off the weight."""
    compute = torch.float64 if weight.dtype == torch.float64 else torch.float32
    rows = torch.arange(len(weight), device=weight.device) if rows is None else rows
    rows, place = rows.unique(return_inverse=True)
    g = values.new_zeros(len(rows), weight.shape[1], dtype=compute).index_add_(0, place, values.to(compute))
    if clip_row_norm is not None:
        g *= (clip_row_norm / g.norm(dim=1, keepdim=True)).clamp(max=1)
    g *= 1 if grad_scale is None else grad_scale
    w = weight[rows].to(compute)
    w, g = (w * (1 - lr * weight_decay), g) if decoupled else (w, g + weight_decay * w)
    w = w - rule(rows, g)
    if max_norm is not None:
        w *= (max_norm / w.norm(dim=1, keepdim=True)).clamp(max=1)
    weight[rows] = w.to(weight.dtype)


def sparse_sgd_(
    weight: Tensor,
    rows: Tensor | None,
    values: Tensor,
    *,
    lr: float,
    momentum_buffer: Tensor | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    **common: Any,
) -> None:
    """As :func:`w2v_ext.row_steps.sparse_sgd_`; no stochastic rounding."""

    def rule(rows: Tensor, g: Tensor) -> Tensor:
        if momentum_buffer is None:
            return lr * g
        momentum_buffer[rows] = momentum * momentum_buffer[rows] + g
        return lr * (g + momentum * momentum_buffer[rows] if nesterov else momentum_buffer[rows])

    _step_rows_(weight, rows, values, rule, lr=lr, **common)


def sparse_adagrad_(
    weight: Tensor, rows: Tensor | None, values: Tensor, *, lr: float, sum: Tensor, eps: float = 1e-10, **common: Any
) -> None:
    """As :func:`w2v_ext.row_steps.sparse_adagrad_`."""

    def rule(rows: Tensor, g: Tensor) -> Tensor:
        sum[rows] += g.square().mean(1) if sum.dim() == 1 else g.square()
        root = sum[rows].sqrt() + eps
        return lr * g / (root[:, None] if sum.dim() == 1 else root)

    _step_rows_(weight, rows, values, rule, lr=lr, **common)


def sparse_adam_(
    weight: Tensor,
    rows: Tensor | None,
    values: Tensor,
    *,
    lr: float,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int = 1,
    row_steps: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    **common: Any,
) -> None:
    """As :func:`w2v_ext.row_steps.sparse_adam_`."""

    def rule(rows: Tensor, g: Tensor) -> Tensor:
        time = torch.tensor(float(step), dtype=torch.float64, device=g.device)
        if row_steps is not None:
            row_steps[rows] += 1
            time = row_steps[rows].double()[:, None]
        exp_avg[rows] = betas[0] * exp_avg[rows] + (1 - betas[0]) * g
        exp_avg_sq[rows] = betas[1] * exp_avg_sq[rows] + (1 - betas[1]) * g.square()
        first, second = (1 - betas[0] ** time).to(g.dtype), (1 - betas[1] ** time).to(g.dtype)
        return lr / first * exp_avg[rows] / ((exp_avg_sq[rows] / second).sqrt() + eps)

    _step_rows_(weight, rows, values, rule, lr=lr, **common)


def skipgram_softmax_loss(
    in_weight: np.ndarray, out_weight: np.ndarray, center: np.ndarray, context: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Skip-gram with the full softmax over the vocabulary (Mikolov et al., NIPS 2013, eq. 2), in NumPy.

    Args:
        in_weight, out_weight: (V, D) and (V', D), float64 recommended.
        center, context: (B,) integers, rows of ``in_weight`` and ``out_weight``.

    Returns:
        The mean of ``-log softmax(out_weight @ v)[context]`` and its gradients (V, D) and (V', D).
    """
    v = in_weight[center]  # (B, D)
    scores = v @ out_weight.T  # (B, V')
    scores = scores - scores.max(axis=1, keepdims=True)
    log_probability = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(center))
    slope = np.exp(log_probability)
    slope[rows, context] -= 1
    slope /= len(center)
    grad_in = np.zeros_like(in_weight)
    np.add.at(grad_in, center, slope @ out_weight)
    return float(-log_probability[rows, context].mean()), grad_in, slope.T @ v


# ---- an epoch of the trainer, draw for draw ------------------------------------------------------------------------

_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
BLOCK = 2  # neighbouring centres that share their negatives


def sentence_key(seed: int, epoch: int, offset: int) -> int:
    """Philox4x32-10 of counter (offset, epoch, 0) and key seed: the 64-bit key of the sentence at ``ids[offset]``."""
    c = [offset & _MASK32, offset >> 32, epoch, 0]
    k0, k1 = seed & _MASK32, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & _MASK32, (p0 >> 32) ^ c[3] ^ k1, p0 & _MASK32]
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return c[1] << 32 | c[0]


def mix64(x: int) -> int:
    """SplitMix64's finaliser."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def draw(key: int, i: int) -> int:
    """Draw i of a sentence: 64 random bits."""
    return mix64((key + (i + 1) * _GOLDEN) & _MASK64)


def sample_alias(alias: np.ndarray, bits: int) -> int:
    """A word from the alias table (V, 2) uint32."""
    column = (bits >> 32) * len(alias) >> 32
    return column if bits & _MASK32 < alias[column, 0] else int(alias[column, 1])


def sample_negative(alias: np.ndarray, bits: int, positive: int) -> int:
    """A word from the alias table (V, 2) uint32, redrawn until it differs from ``positive``."""
    vocab_size = len(alias)
    word = sample_alias(alias, bits)
    for _ in range(31):
        if word != positive:
            return word
        bits = mix64((bits + _GOLDEN) & _MASK64)
        word = sample_alias(alias, bits)
    if word != positive:
        return word
    start = (mix64((bits + _GOLDEN) & _MASK64) >> 32) * vocab_size >> 32
    others = [(start + i) % vocab_size for i in range(vocab_size)]
    weighty = (word for word in others if word != positive and alias[word, 0] > 0)
    return next(weighty, (positive + 1) % vocab_size)


def train_sgns_(
    in_weight: np.ndarray,
    out_weight: np.ndarray,
    ids: np.ndarray,
    alias: np.ndarray,
    keep: np.ndarray,
    *,
    window: int,
    negative: int,
    seed: int,
    epoch: int,
    epochs: int,
    lr: float,
) -> tuple[float, int, int]:
    """One epoch of the trainer in NumPy, in place, draw for draw as the kernels do it with one thread.

    Args:
        in_weight, out_weight: (V, D) float64.
        ids: (N,) sentences of word ids, each closed by -1.
        alias: (V, 2) uint32; keep: (V,) uint32 thresholds.
        window, negative, seed, epoch, epochs, lr: as in ``train_sgns_``.

    Returns:
        The loss summed over pairs, the number of pairs, and of words after subsampling.
    """
    loss, pairs, words, start = 0.0, 0, 0, 0
    slots = 1 + negative
    for end in np.flatnonzero(ids < 0):
        sentence, offset, start = ids[start:end].tolist(), start, int(end) + 1
        key = sentence_key(seed, epoch, offset)
        at = [i for i, word in enumerate(sentence) if draw(key, i * slots) >> 32 <= keep[word]]
        words += len(at)
        rate = lr * max(1 - (len(ids) * epoch + offset) / (len(ids) * epochs), 1e-4)
        if len(at) < 2:
            continue
        reach = [1 + ((draw(key, i * slots) & _MASK32) * window >> 32) for i in at]
        for j in range(0, len(at), BLOCK):
            centers = range(j, min(j + BLOCK, len(at)))
            first, last = min(c - reach[c] for c in centers), max(c + reach[c] for c in centers)
            places = range(max(0, first), min(len(at), last + 1))
            context = [sentence[at[i]] for i in places]  # M words
            noise = [sample_alias(alias, draw(key, at[j] * slots + k)) for k in range(1, slots)]
            inside = np.array([[c != i and abs(c - i) <= reach[c] for c in centers] for i in places], dtype=float)
            center_words = [sentence[at[c]] for c in centers]
            differs = np.array([[word != center for word in noise] for center in center_words], dtype=float)
            weight = np.concatenate([-inside, inside @ differs], axis=1)  # (M, N)
            outputs = center_words + noise
            u = out_weight[outputs]  # (N, D)
            t = np.where(weight < 0, -1, 1) * (in_weight[context] @ u.T)
            loss += float((np.abs(weight) * np.logaddexp(0, t)).sum())
            pairs += int(inside.sum())
            coef = -rate * weight * np.exp(-np.logaddexp(0, -t))  # the slope in t is sigmoid(t)
            before = u.copy()
            for m, word in enumerate(context):  # one context after the other, from coefficients of before the block
                v = in_weight[word].copy()
                in_weight[word] += coef[m] @ u
                u += np.outer(coef[m], v)
            np.add.at(out_weight, outputs, u - before)
    return loss, pairs, words


def cooccurrences(ids: np.ndarray, vocab_size: int, window: int) -> np.ndarray:
    """As :func:`w2v_ext.cooccurrence.count_cooccurrences`: the (V, V) matrix in float64, by looking at every pair."""
    counts = np.zeros((vocab_size, vocab_size))
    for i, center in enumerate(ids):
        for j in range(i + 1, min(i + window + 1, len(ids))):
            if center < 0 or ids[j] < 0:
                break
            counts[center, ids[j]] += 1 / (j - i)
            counts[ids[j], center] += 1 / (j - i)
    return counts


def train_glove_(
    table: np.ndarray, bias: np.ndarray, cells: np.ndarray, *, x_max: float, alpha: float, lr: float
) -> tuple[float, int]:
    """As :func:`w2v_ext.ops.train_glove_` over cells in this order, in float64.

    Args:
        table: (4, V, D): w, G_w, c, G_c, updated in place.
        bias: (4, V): b, G_b, d, G_d, updated in place.
        cells: rows (row, column, count).
        x_max, alpha: the weight of a count x is ``min(1, (x / x_max) ** alpha)``.
        lr: the learning rate.

    Returns:
        ``weight * diff ** 2 / 2`` summed over nonzeros, and the number of nonzeros.
    """
    (w, w_squares, c, c_squares), (b, b_squares, d, d_squares) = table, bias
    loss, nonzeros = 0.0, 0

    def adagrad(value: np.ndarray, squares: np.ndarray, i: int, step: np.ndarray | float) -> None:
        value[i] -= step / np.sqrt(1 + squares[i])
        squares[i] += step**2

    for row, column, count in cells:
        for i, j in ((row, column), (column, row))[: 1 + (row != column)]:
            diff = w[i] @ c[j] + b[i] + d[j] - np.log(count)
            weight = min(1.0, (count / x_max) ** alpha)
            loss += weight * diff**2 / 2
            nonzeros += 1
            step = lr * weight * diff
            to_w, to_c = step * c[j], step * w[i]
            adagrad(w, w_squares, i, to_w)
            adagrad(c, c_squares, j, to_c)
            adagrad(b, b_squares, i, step)
            adagrad(d, d_squares, j, step)
    return loss, nonzeros
