// The negative-sampling loss of a batch, its dense gradients and its SGD step, on CUDA (the twin of cpu/loss_kernel.h).
//
// One warp per example. Lane t reads the row number of target t, so that a warp asks for all of them at once, and for
// those of its next example before the rows of this one. Forward reads v and the P + K rows u once, 16 (8 of 16-bit
// types) bytes a lane, 16 targets at a time, all of them in flight together. Their 16 scores are summed across lanes in
// 16 exchanges, each of which halves what a lane holds, so that lane t ends with score t; losses and coefficients are
// computed for 16 targets at once. For the step it also writes the centre's gradient (B, D), from the rows it still
// holds (D <= 128) or finds in the L1 cache.
//
// All of it is bound by the traffic of rows, which are scattered. In rows of D numbers per example, with T = P + K:
//   forward                T + 1 read, and for gradients 1 written, the centre's, which need not read the T rows again
//   gradients, by atomics  2 read (v and the centre's), T + 1 read and written, and 2 V D numbers set to zero
//   step, by atomics       T + 1 read, 1 written; 1 read, T read and written; 1 read, 1 read and written: 3 T + 6
// against the 2 T + 2 that any step must move whose gradients are all taken before it. Less what hits the L2 cache.
// Where a batch meets many of the rows of out, what is added to one of them is summed first: occurrences.h says how and
// what that takes; the gradient of out is then not set to zero before. Sums of one row come in any order in either
// case, so the last bits differ from run to run; sorted.cu has an order, and is used for 16-bit steps, which have to be
// summed before they are rounded.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "../checks.h"
#include "batch.h"
#include "loss_kernels.h"
#include "occurrences.h"

namespace w2v {
namespace {

// coef, center_grad, step (of float32, wide): as of loss_forward.
template <typename T>
void start_forward(const Batch<T>& batch, const Tensor& loss, Accumulator<T>* coef, Accumulator<T>* center_grad,
                   const ListedStep* step = nullptr) {
  using A = Accumulator<T>;
  const bool wide = rows_are_wide(batch), held = batch.dim <= kPiece && sizeof(T) <= 4;
  const auto start = [&](auto kernel) {
    launch_resident<kWarp>("loss_forward", loss, batch.batch, kForwardBlocks, kernel, batch,
                           step == nullptr ? ListedStep{} : *step, mutable_data<A>(loss), coef, center_grad);
  };
  if constexpr (std::is_same_v<T, float>) {
    if (step != nullptr)
      return held ? start(loss_forward<T, true, true, true>) : start(loss_forward<T, true, false, true>);
  }
  if constexpr (sizeof(T) <= 4) {
    if (wide && held) return start(loss_forward<T, true, true, false>);
    if (wide) return start(loss_forward<T, true, false, false>);
    if (held) return start(loss_forward<T, false, true, false>);
  }
  start(loss_forward<T, false, false, false>);
}

// Calls start(add_targets, add_centers) with the kernels for 4 columns at once where rows allow it.
template <typename T, typename Start>
void with_row_width(const Batch<T>& batch, const Start& start) {
  if constexpr (sizeof(T) <= 4) {
    if (rows_are_wide(batch)) return start(add_targets<T, true>, add_centers<T, true>);
  }
  start(add_targets<T, false>, add_centers<T, false>);
}

// A tensor without columns where center_grad is not asked for.
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                                           const Tensor& pos, const Tensor& neg, bool /*sparse_grad*/,
                                           bool with_center_grad) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  const Tensor in = with_contiguous_rows(in_weight), out = with_contiguous_rows(out_weight);
  Tensor loss = new_losses(in, shape.batch);
  Tensor coef = new_matrix(in, shape.batch, shape.positives + shape.negatives);
  Tensor center_grad = new_matrix(in, shape.batch, with_center_grad ? shape.dim : 0);
  with_weight_type(in, [&](auto zero) {
    using T = decltype(zero);
    start_forward<T>(make_batch<T>(shape, in, out, center, pos, neg), loss, mutable_data<Accumulator<T>>(coef),
                     with_center_grad ? mutable_data<Accumulator<T>>(center_grad) : nullptr);
  });
  return {loss, coef, center_grad};
}

// What both ways to the gradients need, checked: coef, grad_loss and center_grad come from outside again.
struct Backward {
  LossShape shape;
  Tensor in, out, grad_loss, coef;
  Tensor center_grad;  // (B, D)

  Backward(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight, const Tensor& out_weight,
           const Tensor& center, const Tensor& pos, const Tensor& neg, const std::optional<Tensor>& saved)
      : shape(check_loss_arguments(in_weight, out_weight, center, pos, neg)),
        in(with_contiguous_rows(in_weight)),
        out(with_contiguous_rows(out_weight)),
        grad_loss(grad),
        coef(slopes),
        center_grad(saved.has_value() ? *saved : grad) {
    check_gradient_arguments(grad, slopes, in_weight, shape);
    if (saved.has_value()) check_center_grad(*saved, in_weight, shape);
    grad_loss = torch::stable::contiguous(grad);
    coef = torch::stable::contiguous(slopes);
    if (saved.has_value() && saved->size(1) == shape.dim) {
      center_grad = torch::stable::contiguous(*saved);
      return;
    }
    center_grad = new_matrix(in, shape.batch, shape.dim);
    with_weight_type(in, [&](auto zero) {
      using T = decltype(zero);
      using A = Accumulator<T>;
      launch<kWarp>("center_gradients", in, shape.batch, center_gradients<T>,
                    make_batch<T>(shape, in, out, center, pos, neg), data<A>(coef), mutable_data<A>(center_grad));
    });
  }
};

// grad_in (V, D) and grad_out (V', D), in the accumulation dtype.
template <typename T>
std::tuple<Tensor, Tensor> gradients(const Backward& b, const Batch<T>& batch) {
  using A = Accumulator<T>;
  const ScalarType type = accumulator_type(b.in);
  const Tensor grad_in = new_zero_matrix(b.in, b.shape.in_rows, b.shape.dim, type);
  if constexpr (sizeof(T) <= 4) {
    if (lists_rows(batch)) {
      const Tensor grad_out = new_matrix(b.out, b.shape.out_rows, b.shape.dim);
      const ListedTables tables(batch, b.in, kFew);
      float* out = mutable_data<float>(grad_out);
      launch<kWarp>("list_gradients", b.in, batch.batch, list_gradients<T>, batch, tables.kernel_view(),
                    data<float>(b.grad_loss), data<float>(b.coef), data<float>(b.center_grad),
                    mutable_data<float>(grad_in));
      const int64_t groups = (batch.out_rows + kWarp - 1) / kWarp;
      launch<kWarp>("owned_rows", b.in, groups, owned_rows<T>, batch, tables.kernel_view(), out, batch.dim);
      start_add_listed<T>(batch, b.in, tables, 1, out, batch.dim);
      return {grad_in, grad_out};
    }
  }
  const Tensor grad_out = new_zero_matrix(b.out, b.shape.out_rows, b.shape.dim, type);
  const auto start = [&](auto targets, auto centers) {
    const A* grad_loss = data<A>(b.grad_loss);
    launch<kWarp>("add_targets", b.in, batch.batch, targets, batch, grad_loss, data<A>(b.coef), A(1),
                  mutable_data<A>(grad_out), batch.dim);
    launch<kWarp>("add_centers", b.in, batch.batch, centers, batch, grad_loss, data<A>(b.center_grad), A(1),
                  mutable_data<A>(grad_in), batch.dim);
  };
  with_row_width(batch, start);
  return {grad_in, grad_out};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight,
                                    const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                    const Tensor& neg, const std::optional<Tensor>& center_grad) {
  const Backward b(grad, slopes, in_weight, out_weight, center, pos, neg, center_grad);
  std::optional<std::tuple<Tensor, Tensor>> found;
  with_weight_type(b.in, [&](auto zero) {
    using T = decltype(zero);
    found = gradients<T>(b, make_batch<T>(b.shape, b.in, b.out, center, pos, neg));
  });
  const auto& [grad_in, grad_out] = *found;
  const ScalarType type = in_weight.scalar_type();
  if (type == accumulator_type(in_weight)) return {grad_in, grad_out};
  return {torch::stable::to(grad_in, type), torch::stable::to(grad_out, type)};
}

std::tuple<Tensor, Tensor> backward_sorted(const Tensor& grad, const Tensor& slopes, const Tensor& in_weight,
                                           const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                                           const Tensor& neg, const std::optional<Tensor>& center_grad) {
  const Backward b(grad, slopes, in_weight, out_weight, center, pos, neg, center_grad);
  Tensor grad_in = new_zero_matrix(b.in, b.shape.in_rows, b.shape.dim, in_weight.scalar_type());
  Tensor grad_out = new_zero_matrix(b.out, b.shape.out_rows, b.shape.dim, in_weight.scalar_type());
  with_weight_type(b.in, [&](auto zero) {
    using T = decltype(zero);
    sorted_gradients<T>(make_batch<T>(b.shape, b.in, b.out, center, pos, neg), b.grad_loss, b.coef, b.center_grad,
                        grad_in, grad_out);
  });
  return {grad_in, grad_out};
}

// The centres' step, after the targets': those read in as it was.
template <typename T>
void step_centers(const Batch<T>& batch, const Tensor& center_grad, T factor, const Tensor& in) {
  const T* ones = nullptr;
  with_row_width(batch, [&](auto /*targets*/, auto centers) {
    launch<kWarp>("add_centers", in, batch.batch, centers, batch, ones, data<T>(center_grad), factor,
                  mutable_data<T>(in), batch.in_stride);
  });
}

template <typename T>
void step_by_atomics(const Batch<T>& batch, const Tensor& coef, const Tensor& center_grad, T factor, const Tensor& in,
                     const Tensor& out) {
  const T* ones = nullptr;
  with_row_width(batch, [&](auto targets, auto /*centers*/) {
    launch<kWarp>("add_targets", in, batch.batch, targets, batch, ones, data<T>(coef), factor, mutable_data<T>(out),
                  batch.out_stride);
  });
  step_centers<T>(batch, center_grad, factor, in);
}

void step_listed(const Batch<float>& batch, const Tensor& loss, const Tensor& center_grad, float factor,
                 const Tensor& in, const Tensor& out) {
  const bool held = batch.dim <= kPiece;  // then rows that occur once are done by loss_forward
  const ListedTables tables(batch, in, held ? 1 : 0);
  float* rows = mutable_data<float>(out);
  const ListedStep step{tables.kernel_view(), factor, rows};
  start_forward<float>(batch, loss, nullptr, mutable_data<float>(center_grad), &step);
  start_add_listed<float>(batch, in, tables, factor, rows, batch.out_stride);
  step_centers<float>(batch, center_grad, factor, in);
}

Tensor step_with(bool sorted, const Tensor& in_weight, const Tensor& out_weight, const Tensor& center,
                 const Tensor& pos, const Tensor& neg, double scale) {
  const LossShape shape = check_loss_arguments(in_weight, out_weight, center, pos, neg);
  check_in_place(in_weight, out_weight);
  Tensor loss = new_losses(in_weight, shape.batch);
  if (shape.batch == 0) return loss;
  const Tensor center_grad = new_matrix(in_weight, shape.batch, shape.dim);
  with_weight_type(in_weight, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Batch<T> batch = make_batch<T>(shape, in_weight, out_weight, center, pos, neg);
    const A factor = static_cast<A>(-scale);
    if constexpr (std::is_same_v<T, float>) {
      if (!sorted && lists_rows(batch)) return step_listed(batch, loss, center_grad, factor, in_weight, out_weight);
    }
    const Tensor coef = new_matrix(in_weight, shape.batch, batch.targets);
    start_forward<T>(batch, loss, mutable_data<A>(coef), mutable_data<A>(center_grad));
    if constexpr (std::is_same_v<T, A>) {
      if (!sorted) return step_by_atomics<T>(batch, coef, center_grad, factor, in_weight, out_weight);
    }
    sorted_step<T>(batch, coef, center_grad, factor, in_weight, out_weight);
  });
  return loss;
}

Tensor step(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
            const Tensor& neg, double scale) {
  return step_with(false, in_weight, out_weight, center, pos, neg, scale);
}

Tensor step_sorted(const Tensor& in_weight, const Tensor& out_weight, const Tensor& center, const Tensor& pos,
                   const Tensor& neg, double scale) {
  return step_with(true, in_weight, out_weight, center, pos, neg, scale);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2v_ext, CUDA, m) {
  m.impl("negative_sampling_loss", TORCH_BOX(&forward));
  m.impl("negative_sampling_loss_backward", TORCH_BOX(&backward));
  m.impl("negative_sampling_loss_backward_sorted", TORCH_BOX(&backward_sorted));
  m.impl("sgns_step_", TORCH_BOX(&step));
  m.impl("sgns_step_sorted_", TORCH_BOX(&step_sorted));
}

}  // namespace w2v
