"""One step of an optimiser on the rows of a weight that a gradient touched, in place: the inside of ``w2v_ext.optim``.

For training loops that keep their own state; modules and parameter groups are ``optim``'s business. All three do the
same to each touched row, in this order:

1. the row's gradient is summed, if it comes several times;
2. it is shortened to ``clip_row_norm``, then multiplied by ``grad_scale``;
3. weight decay: ``weight_decay * weight`` joins the gradient, or, ``decoupled``, the weight shrinks by
   ``lr * weight_decay``;
4. the optimiser's rule, which updates the row's state, and the step;
5. the row is shortened to ``max_norm``.

Rows that the gradient does not touch keep their weight and their state, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import _call

_ops = torch.ops.w2v_ext


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
    """Step the touched rows by SGD: ``weight -= lr * g``, with momentum ``b = momentum * b + g; weight -= lr * b``.

    Args:
        weight: (V, D) float32, float64, bfloat16 or float16, rows contiguous; any row stride.
        rows: (N,) int64; None: row i of ``values`` is for row i, N = V. On the CPU in any order, and a row may come
            several times; on CUDA each at most once (unchecked: otherwise its steps race).
        values: (N, D), dtype and device of ``weight``.
        lr: learning rate, >= 0.
        momentum_buffer: (V, D) float32 (float64 for a float64 weight), contiguous; needed where ``momentum`` > 0.
        momentum: in [0, 1). nesterov: step by ``g + momentum * b``.
        **common: for all optimisers:

            - ``weight_decay`` (0), ``decoupled`` (False): see the head of this module;
            - ``clip_row_norm`` (None), ``max_norm`` (None): Euclidean lengths > 0;
            - ``grad_scale`` (None): one float64 number on the weight's device, such as :func:`scale_to` gives;
            - ``seed`` (None): round to bfloat16 stochastically, with random numbers that depend on this integer in
              [0, 2^63) and the place; steps below half a unit of the weight are then right on average, and otherwise
              lost. Give every step its own.

    Raises:
        ValueError: an argument that does not fit. IndexError: a row out of range (CPU).

    Equivalent in plain PyTorch: :func:`w2v_ext.reference.sparse_sgd_`.
    """
    _call(_ops.sparse_sgd_, weight, momentum_buffer, rows, values, momentum, nesterov, lr, *_common(**common))


def sparse_adagrad_(
    weight: Tensor, rows: Tensor | None, values: Tensor, *, lr: float, sum: Tensor, eps: float = 1e-10, **common: Any
) -> None:
    """Step the touched rows by AdaGrad (Duchi et al. 2011): ``sum += g * g; weight -= lr * g / (sqrt(sum) + eps)``.

    Args:
        weight, rows, values, lr, **common: as in :func:`sparse_sgd_`.
        sum: (V, D), or (V,) for the row-wise form, in which the mean of g * g over the row takes the place of g * g;
            float32 (float64 for a float64 weight), contiguous.
        eps: added to the root.

    Equivalent in plain PyTorch: :func:`w2v_ext.reference.sparse_adagrad_`.
    """
    _call(_ops.sparse_adagrad_, weight, sum, rows, values, eps, lr, *_common(**common))


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
    """Step the touched rows by Adam (Kingma and Ba 2015), the moments of the other rows standing still.

    Args:
        weight, rows, values, lr, **common: as in :func:`sparse_sgd_`.
        exp_avg, exp_avg_sq: (V, D) float32 (float64 for a float64 weight), contiguous.
        step: the number of this step, from 1, for the correction of the bias.
        row_steps: (V,) int32; the steps of each row, which then take the place of ``step`` and are counted here.
        betas, eps: as in ``torch.optim.Adam``.

    Equivalent in plain PyTorch: :func:`w2v_ext.reference.sparse_adam_`.
    """
    moments = (exp_avg, exp_avg_sq, row_steps)
    _call(_ops.sparse_adam_, weight, *moments, rows, values, *betas, eps, step, lr, *_common(**common))


def square_norm(weight: Tensor, rows: Tensor | None, values: Tensor, clip_row_norm: float | None = None) -> Tensor:
    """The sum of all squares of a gradient, whose rows are at most ``clip_row_norm`` long.

    Args:
        weight, rows, values: as in :func:`sparse_sgd_`.
        clip_row_norm: of the summed row.

    Returns:
        One float64 number on the weight's device, which is not waited for.
    """
    return _call(_ops.row_square_norms, rows, values, len(weight), clip_row_norm or 0.0).sum(dtype=torch.float64)


def scale_to(square: Tensor, clip_norm: float) -> Tensor:
    """The ``grad_scale`` that shortens gradients to ``clip_norm``.

    Args:
        square: their :func:`square_norm`, or the sum of several.
        clip_norm: the Euclidean norm that is allowed.

    Returns:
        ``min(1, clip_norm / (norm + 1e-6))``, as ``torch.nn.utils.clip_grad_norm_`` has it.
    """
    return (clip_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)


def _common(
    *,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    clip_row_norm: float | None = None,
    grad_scale: Tensor | None = None,
    max_norm: float | None = None,
    seed: int | None = None,
) -> tuple:
    return weight_decay, decoupled, clip_row_norm or 0.0, grad_scale, max_norm or 0.0, -1 if seed is None else seed


@torch.library.register_fake("w2v_ext::sparse_sgd_")
@torch.library.register_fake("w2v_ext::sparse_adagrad_")
@torch.library.register_fake("w2v_ext::sparse_adam_")
def _step_shapes(*_: Any) -> None:
    return None
