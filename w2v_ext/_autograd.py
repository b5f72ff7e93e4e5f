"""What PyTorch must know of the operators beyond their kernels: shapes for tracing, and gradient formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from ._library import load_kernels

load_kernels()
_ops = torch.ops.w2v_ext


def _accumulator(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


@torch.library.register_fake("w2v_ext::negative_sampling_loss")
def _loss_shapes(in_weight, out_weight, center, pos, neg, sparse_grad, with_center_grad=False):
    for name, tensor in (("out_weight", out_weight), ("center", center), ("pos", pos), ("neg", neg)):
        if tensor.device != in_weight.device:
            raise ValueError(
                f"{name}: expected to be on the device of in_weight, {in_weight.device}, got {tensor.device}"
            )
    batch, targets = center.shape[0], pos.shape[1] + neg.shape[1]
    return (
        in_weight.new_empty((batch,), dtype=_accumulator(in_weight)),
        in_weight.new_empty((batch, targets), dtype=_accumulator(in_weight)),
        in_weight.new_empty(
            (batch, in_weight.shape[1] if with_center_grad and in_weight.is_cuda else 0),
            dtype=_accumulator(in_weight),
        ),
    )


@torch.library.register_fake("w2v_ext::negative_sampling_loss_backward_sorted")
@torch.library.register_fake("w2v_ext::negative_sampling_loss_backward")
def _backward_shapes(grad_loss, coef, in_weight, out_weight, center, pos, neg, center_grad=None):
    return in_weight.new_empty(in_weight.shape), out_weight.new_empty(out_weight.shape)


@torch.library.register_fake("w2v_ext::sgns_step_sorted_")
@torch.library.register_fake("w2v_ext::sgns_step_")
def _step_shapes(in_weight, out_weight, center, pos, neg, step):
    return in_weight.new_empty((center.shape[0],), dtype=_accumulator(in_weight))


@torch.library.register_fake("w2v_ext::train_classifier_cuda_")
@torch.library.register_fake("w2v_ext::train_subwords_cuda_")
@torch.library.register_fake("w2v_ext::train_hs_cuda_")
@torch.library.register_fake("w2v_ext::train_cbow_cuda_")
@torch.library.register_fake("w2v_ext::train_sgns_cuda_")
@torch.library.register_fake("w2v_ext::softmax_slopes_cuda_")
@torch.library.register_fake("w2v_ext::give_rows_")
@torch.library.register_fake("w2v_ext::take_rows_")
def _train_shapes(*_):
    return None


def must_be_sorted(weight: Tensor) -> bool:
    """Whether rows have to be summed in a fixed order: CUDA's other ways have none."""
    return weight.is_cuda and torch.are_deterministic_algorithms_enabled()


def _dense_gradients(grad_loss, coef, in_weight, *rest):
    sort = must_be_sorted(in_weight)
    backward = _ops.negative_sampling_loss_backward_sorted if sort else _ops.negative_sampling_loss_backward
    return backward(grad_loss, coef, in_weight, *rest)


def _save_for_backward(ctx, inputs, output):
    in_weight, out_weight, center, pos, neg, sparse_grad, _ = inputs
    _, coef, center_grad = output
    ctx.save_for_backward(in_weight, out_weight, center, pos, neg, coef, center_grad)
    ctx.mark_non_differentiable(coef, center_grad)
    ctx.sparse_grad = sparse_grad


def _loss_backward(ctx, grad_loss, *_):
    in_weight, out_weight, center, pos, neg, coef, center_grad = ctx.saved_tensors
    if not ctx.sparse_grad:
        grads = _dense_gradients(grad_loss, coef, in_weight, out_weight, center, pos, neg, center_grad)
        return *grads, None, None, None, None, None
    in_rows, in_values, out_rows, out_values = _ops.negative_sampling_loss_backward_sparse(
        grad_loss, coef, in_weight, out_weight, center, pos, neg, center_grad
    )
    grads = _coo(in_rows, in_values, in_weight), _coo(out_rows, out_values, out_weight)
    return *grads, None, None, None, None, None


@torch.library.register_kernel("w2v_ext::negative_sampling_loss_backward_sparse", "cuda")
def _sparse_backward_cuda(grad_loss, coef, in_weight, out_weight, center, pos, neg, center_grad=None):
    # The dense gradients of the rows met, renumbered; unique waits for the device, as the number of rows must be known.
    in_rows, center = torch.unique(center.long(), return_inverse=True)  # (R,), (B,)
    out_rows, targets = torch.unique(torch.cat([pos.long(), neg.long()], 1), return_inverse=True)  # (S,), (B, P + K)
    pos, neg = targets.split([pos.shape[1], neg.shape[1]], 1)
    in_values, out_values = _dense_gradients(
        grad_loss, coef, in_weight[in_rows], out_weight[out_rows], center, pos, neg, center_grad
    )
    return in_rows, in_values, out_rows, out_values


def _coo(rows: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, weight.shape, is_coalesced=True, check_invariants=False)


torch.library.register_autograd("w2v_ext::negative_sampling_loss", _loss_backward, setup_context=_save_for_backward)


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "w2v_ext.negative_sampling_loss has no second derivative; use w2v_ext.reference.negative_sampling_loss for it"
    )


torch.library.register_autograd("w2v_ext::negative_sampling_loss_backward", _no_second_derivative)
torch.library.register_autograd("w2v_ext::negative_sampling_loss_backward_sorted", _no_second_derivative)
torch.library.register_autograd("w2v_ext::negative_sampling_loss_backward_sparse", _no_second_derivative)
